//! The file of a session's region: made by the server, attached by the client.

use super::layout::{HEADER_LEN, Layout, LayoutError, NARROW};
use super::stale;
use crate::error::ConnectError;
use crate::wait::Wait;
use ginnel_base::Deadline;
use ginnel_memory::ForeignFile;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FlockOperation};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// The field's limit for a region's path, and its patience with a region that is being written.
const MAX_PATH: usize = 255;
const ATTACH_PAUSE: Duration = Duration::from_millis(5);
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

/// A mapped region.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) file: ForeignFile,
    pub(crate) layout: Layout,
}

/// A region that this process made, and the duty to remove its name.
#[derive(Debug)]
pub(crate) struct OwnedRegion {
    pub(crate) region: Arc<Region>,
    dir: Arc<OwnedFd>,
    name: String,
}

impl Drop for OwnedRegion {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&*self.dir, &self.name, AtFlags::empty());
    }
}

pub(crate) fn region_name(service: &str, session_id: u64) -> String {
    format!("{service}-{session_id:016x}.ipcshm")
}

/// Makes the region of a session. A live one of that name is left alone (`EXIST`), a stale one replaced.
pub(crate) fn create(
    dir: &Arc<OwnedFd>,
    run_dir: &Path,
    service: &str,
    session_id: u64,
    layout: Layout,
) -> Result<OwnedRegion, Errno> {
    let name = region_name(service, session_id);
    if run_dir.join(&name).as_os_str().len() > MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    let made = ForeignFile::create(&**dir, &name, layout.file_len(), NARROW).or_else(|errno| {
        if errno == Errno::EXIST && stale::remove_if_stale(dir, &name) {
            return ForeignFile::create(&**dir, &name, layout.file_len(), NARROW);
        }
        Err(errno)
    });
    let file = made?;
    // From here on the name goes with this value, whatever fails.
    let owned = OwnedRegion { region: Arc::new(Region { file, layout }), dir: Arc::clone(dir), name };
    let file = &owned.region.file;
    // Held as long as this process lives: proof of life in every pid namespace. See `stale`.
    rustix::fs::flock(file.fd(), FlockOperation::NonBlockingLockExclusive)?;
    file.copy_in(0, &layout.header(std::process::id().cast_signed(), stale::own_generation()));
    fence(Ordering::Release);
    if file.truncated() { Err(Errno::STALE) } else { Ok(owned) }
}

/// Attaches the region of a session that the server says is there. That the caller's own wait is over says nothing
/// against the region.
pub(crate) fn attach(path: &Path, wait: &Wait<'_>) -> Result<Arc<Region>, ConnectError> {
    let fail = |reason| ConnectError::SharedMemory { path: path.to_owned(), reason };
    let give_up = Deadline::after(ATTACH_TIMEOUT);
    loop {
        match try_attach(path) {
            Ok(region) => return Ok(Arc::new(region)),
            Err(Attach::NotReady(reason)) if give_up.passed() => return Err(fail(reason)),
            Err(Attach::NotReady(_)) => wait.pause(ATTACH_PAUSE).map_err(ConnectError::Session)?,
            Err(Attach::Never(reason)) => return Err(fail(reason)),
        }
    }
}

enum Attach {
    NotReady(String),
    Never(String),
}

fn try_attach(path: &Path) -> Result<Region, Attach> {
    let file = ForeignFile::open(CWD, path, NARROW).map_err(|errno| match errno {
        // An empty file is one whose size is still to come. An absent one never comes: it exists before its name is
        // told.
        Errno::INVAL => Attach::NotReady(errno.to_string()),
        errno => Attach::Never(errno.to_string()),
    })?;
    let not_ready = || Attach::NotReady(LayoutError::NotReady.to_string());
    if file.len() < HEADER_LEN {
        return Err(not_ready());
    }
    let mut header = [0; HEADER_LEN];
    file.copy_out(0, &mut header);
    fence(Ordering::Acquire);
    let layout = Layout::read(&header, file.len()).map_err(|error| match error {
        LayoutError::NotReady => not_ready(),
        error => Attach::Never(error.to_string()),
    })?;
    Ok(Region { file, layout })
}
