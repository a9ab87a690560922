//! Taking a name in a run directory: atomic against other servers, never a moment with wrong permissions.
//!
//! 1. Take the run directory's lock (`RunDir::lock`: a file that only those may open who may write to the directory;
//!    the kernel drops the lock of a dead process), so that two starting servers of ours take turns. Where others may
//!    write (the caller allowed it), they could keep the lock for ever: there it is waited for only briefly and then
//!    done without. What is lost then is the turn of two servers of ours that start in the same moment, and neither
//!    safety nor the name.
//! 2. Probe the name: a server that answers keeps it.
//! 3. Bind a temporary name, which nobody can guess and so nobody can occupy, with a socket whose mode was set *before*
//!    (the kernel derives the new inode's mode from the socket's), listen, and only then rename it into place. The name
//!    therefore never points at a socket that refuses connections or that others may open, and no umask is touched.
//! 4. A stale file is swapped out, not unlinked: if what comes out is not what was probed, a server of another kind was
//!    faster; the swap is undone and the name is in use.

use crate::config::ServerConfig;
use crate::directory::{Directory, DirectoryError};
use crate::endpoint::Endpoint;
use crate::error::ListenError;
use crate::socket::{probe, unbound_socket};
use ginnel_memory::{DirLock, RunDir, RunDirError};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// How long the lock of a directory is waited for to which others may write. Binding takes well under a millisecond.
const BRIEFLY: Duration = Duration::from_millis(200);
/// A peer of another kind may be between its bind and its listen: refused connections are probed again.
const REFUSED_PROBES: u32 = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(20);
/// How the names begin under which sockets are bound before they are renamed into place. A random number follows.
const TEMPORARY: &str = ".ginnel-bind";
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// A socket that listens, and the duty to remove its name.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    /// Who owns the run directory; `None` over TCP.
    pub(crate) owner: Option<u32>,
    name: Option<BoundName>,
}

#[derive(Debug)]
struct BoundName {
    dir: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(bound) = &self.name {
            // A server that replaced our file keeps its own.
            if identity_at(&bound.dir, &bound.name) == Ok(bound.identity) {
                let _ = rustix::fs::unlinkat(&bound.dir, &bound.name, AtFlags::empty());
            }
        }
    }
}

impl Bound {
    #[cfg(test)]
    fn abandon(mut self) -> OwnedFd {
        self.name = None;
        self.socket.try_clone().unwrap()
    }
}

pub(crate) fn bind(endpoint: &Endpoint, config: &ServerConfig) -> Result<Bound, ListenError> {
    match (endpoint.path(), endpoint.tcp_address()) {
        (Some(path), _) => bind_unix(endpoint, path, config),
        (None, Some(address)) => {
            let fail = |doing| move |errno: Errno| tcp_error(doing, endpoint, errno);
            let socket = unbound_socket(endpoint).map_err(fail("create a socket"))?;
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(fail("set SO_REUSEADDR"))?;
            rustix::net::bind(&socket, &address).map_err(fail("bind"))?;
            rustix::net::listen(&socket, config.backlog.into()).map_err(fail("listen"))?;
            Ok(Bound { socket, owner: None, name: None })
        }
        (None, None) => unreachable!("an endpoint is a path or an address"),
    }
}

fn tcp_error(doing: &'static str, endpoint: &Endpoint, errno: Errno) -> ListenError {
    if errno == Errno::ADDRINUSE { in_use(endpoint) } else { io(doing, endpoint, errno) }
}

fn bind_unix(endpoint: &Endpoint, path: &Path, config: &ServerConfig) -> Result<Bound, ListenError> {
    let fail = |doing| move |errno: Errno| io(doing, endpoint, errno);
    let (Some((run_dir, service)), Some(name)) = (endpoint.service(), path.file_name()) else {
        unreachable!("a Unix endpoint has a service and a file name")
    };
    let Directory { fd: dir, owner, writable } = Directory::open(run_dir, OFlags::RDONLY, config.allow_writable_dir)
        .map_err(|error| match error {
            DirectoryError::Writable(error) => ListenError::WritableDir(error),
            DirectoryError::Io(errno) => io("open the run directory", endpoint, errno),
        })?;
    let dir = RunDir::opened(run_dir, dir);
    let locked = lock(&dir, writable, endpoint)?;
    let dir = dir.into_fd();

    // Before the probe: whatever changes the file later is noticed by its identity.
    let stale = identity_at(&dir, name).ok();
    if stale.is_some() && is_served(endpoint)? {
        return Err(in_use(endpoint));
    }
    if locked.is_some() {
        sweep_temporaries(&dir);
    }
    let temporary = format!("{TEMPORARY}-{:016x}", ginnel_base::random_u64());
    let socket = unbound_socket(endpoint).map_err(fail("create a socket"))?;
    rustix::fs::fchmod(&socket, OWNER_ONLY).map_err(fail("set the socket's mode"))?;
    bind_temporary(&socket, &dir, run_dir, &temporary).map_err(fail("bind"))?;
    let listening = finish(&socket, &dir, &temporary, config)
        .map_err(fail("listen"))
        .and_then(|identity| put_in_place(&dir, &temporary, name, stale, endpoint).map(|()| identity));
    match listening {
        Ok(identity) => {
            if endpoint.is_seqpacket() {
                crate::shm::sweep(&dir, service);
            }
            let name = name.to_owned();
            Ok(Bound { socket, owner: Some(owner), name: Some(BoundName { dir, name, identity }) })
        }
        Err(error) => {
            remove(&dir, &temporary);
            Err(error)
        }
    }
}

/// Makes the bound socket ready for connections; its identity is that of the file.
fn finish(socket: &OwnedFd, dir: &OwnedFd, temporary: &str, config: &ServerConfig) -> Result<(u64, u64), Errno> {
    // The umask can only have taken bits away, so this only gives back.
    rustix::fs::chmodat(dir, temporary, OWNER_ONLY, AtFlags::empty())?;
    rustix::net::listen(socket, config.backlog.into())?;
    identity_at(dir, temporary)
}

/// The kernel binds paths of at most 107 bytes; a run directory too long for the temporary name is reached by its fd.
fn bind_temporary(socket: &OwnedFd, dir: &OwnedFd, run_dir: &Path, temporary: &str) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let address = SocketAddrUnix::new(run_dir.join(temporary))
        .or_else(|_| SocketAddrUnix::new(format!("/proc/self/fd/{}/{temporary}", dir.as_raw_fd())))?;
    rustix::net::bind(socket, &address)
}

fn put_in_place(
    dir: &OwnedFd,
    temporary: &str,
    name: &std::ffi::OsStr,
    stale: Option<(u64, u64)>,
    endpoint: &Endpoint,
) -> Result<(), ListenError> {
    let rename = |flags| rustix::fs::renameat_with(dir, temporary, dir, name, flags);
    let Some(stale) = stale else {
        return rename(RenameFlags::NOREPLACE).map_err(|errno| match errno {
            Errno::EXIST => in_use(endpoint),
            errno => io("rename the socket into place", endpoint, errno),
        });
    };
    match rename(RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // Gone since the probe: its owner has cleaned up.
        Err(Errno::NOENT) => return put_in_place(dir, temporary, name, None, endpoint),
        Err(errno) => return Err(io("swap the stale socket out", endpoint, errno)),
    }
    // Ours is in place; the old one now has the temporary name.
    let swapped_out = identity_at(dir, temporary) == Ok(stale);
    if swapped_out && remove(dir, temporary) {
        tracing::info!(endpoint = %endpoint, "removed a stale socket");
        return Ok(());
    }
    rename(RenameFlags::EXCHANGE).map_err(|errno| io("swap a live socket back", endpoint, errno))?;
    Err(in_use(endpoint))
}

/// Whether a server answers at a name that exists.
fn is_served(endpoint: &Endpoint) -> Result<bool, ListenError> {
    for attempt in 1.. {
        match probe(endpoint) {
            Ok(()) => return Ok(true),
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::CONNREFUSED) if attempt < REFUSED_PROBES => std::thread::sleep(PROBE_PAUSE),
            Err(Errno::CONNREFUSED) => return Ok(false),
            // A full backlog, or a live socket of another type.
            Err(Errno::AGAIN | Errno::PROTOTYPE) => return Ok(true),
            // Nothing was learned about the file: it is treated as live.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ACCESS) => return Ok(true),
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

/// The directory's lock; `None` where others may write to the directory and keep the lock from us.
fn lock(dir: &RunDir, writable: bool, endpoint: &Endpoint) -> Result<Option<DirLock>, ListenError> {
    match dir.lock_within(if writable { BRIEFLY } else { RunDir::LOCK_DEADLINE }) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if writable => {
            tracing::warn!(%endpoint, %error, "binding without the directory's lock");
            Ok(None)
        }
        Err(RunDirError::Locked { .. }) => Err(in_use(endpoint)),
        Err(RunDirError::Open { source, .. }) => Err(io("lock the run directory", endpoint, source)),
        Err(error) => {
            let source = std::io::Error::other(error);
            Err(ListenError::Io { doing: "lock the run directory", endpoint: endpoint.to_string(), source })
        }
    }
}

/// Removes what servers left that died between bind and rename. Under the lock nobody of ours is there now. What
/// belongs to strangers in a sticky directory stays, and is in nobody's way.
fn sweep_temporaries(dir: &OwnedFd) {
    let Ok(entries) = rustix::fs::Dir::read_from(dir) else { return };
    for entry in entries.flatten() {
        if let Ok(name) = entry.file_name().to_str()
            && name.starts_with(TEMPORARY)
        {
            remove(dir, name);
        }
    }
}

/// Removes a file or an empty directory; true if the name is free now.
fn remove(dir: &OwnedFd, name: &str) -> bool {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => true,
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok(),
        Err(_) => false,
    }
}

fn identity_at(dir: &impl AsFd, name: impl rustix::path::Arg) -> Result<(u64, u64), Errno> {
    let Stat { st_dev, st_ino, .. } = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((st_dev, st_ino))
}

fn in_use(endpoint: &Endpoint) -> ListenError {
    ListenError::InUse { endpoint: endpoint.to_string() }
}

fn io(doing: &'static str, endpoint: &Endpoint, errno: Errno) -> ListenError {
    ListenError::Io { doing, endpoint: endpoint.to_string(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    fn endpoint(dir: &tempfile::TempDir) -> Endpoint {
        Endpoint::seqpacket(dir.path(), "svc").unwrap()
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_bound_name_is_owner_only_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let bound = bind(&endpoint(&dir), &ServerConfig::default()).unwrap();
        let meta = std::fs::metadata(dir.path().join("svc.sock")).unwrap();
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(&dir), ["svc.sock"]);
        drop(bound);
        assert_eq!(names(&dir), [""; 0]);
    }

    #[test]
    fn a_second_server_is_refused_while_the_first_listens() {
        let dir = tempfile::tempdir().unwrap();
        let first = bind(&endpoint(&dir), &ServerConfig::default()).unwrap();
        let inode = std::fs::metadata(dir.path().join("svc.sock")).unwrap().ino();
        assert!(matches!(bind(&endpoint(&dir), &ServerConfig::default()), Err(ListenError::InUse { .. })));
        assert_eq!(std::fs::metadata(dir.path().join("svc.sock")).unwrap().ino(), inode);
        drop(first);
        bind(&endpoint(&dir), &ServerConfig::default()).unwrap();
    }

    #[test]
    fn what_a_dead_server_left_is_replaced_whatever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        drop(bind(&endpoint(&dir), &ServerConfig::default()).unwrap().abandon());
        std::fs::write(dir.path().join(".ginnel-bind-7"), "left by a crash").unwrap();
        assert_eq!(names(&dir), [".ginnel-bind-7", "svc.sock"]);
        drop(bind(&endpoint(&dir), &ServerConfig::default()).unwrap());
        assert_eq!(names(&dir), [""; 0]);

        for make in [|path: &Path| std::fs::write(path, "a file"), |path: &Path| std::fs::create_dir(path)] {
            make(&dir.path().join("svc.sock")).unwrap();
            drop(bind(&endpoint(&dir), &ServerConfig::default()).unwrap());
            assert_eq!(names(&dir), [""; 0]);
        }
    }

    #[test]
    fn a_server_that_binds_between_probe_and_swap_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("svc.sock"), "stale").unwrap();
        let fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let stale = identity_at(&fd, "svc.sock").unwrap();
        // Another one replaces the stale file after it was probed. The old inode is kept, or its number may be reused.
        let _kept = std::fs::File::open(dir.path().join("svc.sock")).unwrap();
        std::fs::remove_file(dir.path().join("svc.sock")).unwrap();
        std::fs::write(dir.path().join("svc.sock"), "live").unwrap();
        std::fs::write(dir.path().join(TEMPORARY), "ours").unwrap();
        let refused = put_in_place(&fd, TEMPORARY, "svc.sock".as_ref(), Some(stale), &endpoint(&dir));
        assert!(matches!(refused, Err(ListenError::InUse { .. })), "{refused:?}");
        assert_eq!(std::fs::read_to_string(dir.path().join("svc.sock")).unwrap(), "live");
    }

    #[test]
    fn a_run_directory_near_the_longest_path_works() {
        let dir = tempfile::tempdir().unwrap();
        let mut long = dir.path().to_owned();
        let spare = 107 - "/a.sock".len() - long.as_os_str().len() - 1;
        long.push("d".repeat(spare));
        std::fs::create_dir(&long).unwrap();
        let endpoint = Endpoint::seqpacket(&long, "a").unwrap();
        assert_eq!(endpoint.path().unwrap().as_os_str().len(), 107);
        let bound = bind(&endpoint, &ServerConfig::default()).unwrap();
        probe(&endpoint).unwrap();
        drop(bound);
        assert!(Endpoint::seqpacket(&long, "ab").is_err());
    }
}
