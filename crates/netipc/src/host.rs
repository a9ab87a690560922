//! What the files of this machine say: its cgroups, their names, its processes.
//!
//! Nothing here needs a daemon or its socket: `/proc`, the mounted cgroup hierarchies and the state files that
//! container engines leave on disk. Everything may vanish between two reads, and that is never an error of the whole.

mod cgroups;
mod identity;
mod mounts;
mod processes;

pub(crate) use cgroups::Found;
pub use cgroups::{CgroupIndex, CgroupRecord, Cgroups, fnv1};
pub use identity::{Identity, Label};
pub use processes::{Process, Processes};

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the files of a machine lie: at `/`, or below the directory where a container mounts its host.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// The machine whose root directory is `root`. Paths in answers are those of that machine, without `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The file that this machine calls `path`.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether systemd manages this machine: the test that `sd_booted(3)` makes.
    #[must_use]
    pub fn runs_systemd(&self) -> bool {
        self.file("/run/systemd/system").is_dir()
    }
}

/// Reads at most `limit` bytes: files of other programs may have any size.
fn read_bounded(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether an error says "not now" rather than "not at all": asking again later may help.
fn is_transient(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let transient = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR, Errno::IO];
    error.raw_os_error().is_some_and(|code| transient.iter().any(|errno| errno.raw_os_error() == code))
}

/// Passes on that this process is short of descriptors or memory, and takes any other error for "nothing there".
///
/// What is answered while it is short would be a machine with things missing. Other errors belong to one file, may stay
/// for ever, and must not cost the rest.
fn or_nothing<T: Default>(read: io::Result<T>) -> io::Result<T> {
    use rustix::io::Errno;
    match read {
        Err(error)
            if [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
                .iter()
                .any(|errno| Some(errno.raw_os_error()) == error.raw_os_error()) =>
        {
            Err(error)
        }
        read => Ok(read.unwrap_or_default()),
    }
}
