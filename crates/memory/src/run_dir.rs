//! The runtime directory: where named segments live.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An opened and checked runtime directory.
///
/// Everything inside is reached relative to the opened directory, so that replacing a parent directory later changes
/// nothing.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    fd: OwnedFd,
}

/// Why a runtime directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// It could not be made or opened.
    #[error("cannot use {path} for channels: {source}{}", advice(*.source))]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
    /// Somebody else owns it.
    #[error("the runtime directory {path} belongs to uid {owner}, not to you or root: refusing to use it")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others could plant files in it.
    #[error("the runtime directory {path} has mode {mode:03o}, so others can write to it: `chmod o-w {path}`")]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its lock could not be had in time.
    #[error("the runtime directory {path} stayed locked for {waited:?}: another process is stuck while creating there")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
}

/// The directory's lock: creation, takeover and cleaning exclude each other. Released on drop, or by the kernel.
#[derive(Debug)]
#[must_use]
pub struct DirLock {
    // A file description of its own, so that the lock belongs to this value and not to the `RunDir`.
    _fd: OwnedFd,
    dir: OwnedFd,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // While it is locked: whoever waits for this file sees then that it is none any more, and makes the next.
        let _ = rustix::fs::unlinkat(&self.dir, RunDir::LOCK_FILE, AtFlags::empty());
    }
}

impl RunDir {
    /// What [`lock`](Self::lock) locks.
    pub const LOCK_FILE: &str = ".directory";
    /// How long [`lock`](Self::lock) waits. What is done under the lock takes well under a millisecond.
    pub const LOCK_DEADLINE: Duration = Duration::from_secs(5);

    /// The user's runtime directory, made if need be: `$GINNEL_RUN_DIR`, else `$XDG_RUNTIME_DIR/ginnel`, else
    /// `/run/user/UID/ginnel`, else `/dev/shm/ginnel-UID` if that is memory, else `ginnel-UID` among the temporary
    /// files.
    pub fn open() -> Result<Self, RunDirError> {
        Self::at(&Self::user_path())
    }

    /// Where [`open`](Self::open) looks.
    #[must_use]
    pub fn user_path() -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = set("GINNEL_RUN_DIR") {
            return path;
        }
        if let Some(path) = set("XDG_RUNTIME_DIR") {
            return path.join("ginnel");
        }
        let uid = rustix::process::geteuid();
        let user = PathBuf::from(format!("/run/user/{uid}"));
        if user.is_dir() {
            return user.join("ginnel");
        }
        // Memory that is a file on a disk gets written back to it all the time: prefer the place made for shared
        // memory.
        let memory = Path::new("/dev/shm");
        let place = if in_memory(memory) { memory.to_owned() } else { std::env::temp_dir() };
        place.join(format!("ginnel-{uid}"))
    }

    /// Opens `path` as runtime directory; makes it (mode 0700) if it is missing, but not its parents.
    ///
    /// It must belong to this user or root, and must not be writable by everybody.
    pub fn at(path: &Path) -> Result<Self, RunDirError> {
        let made = rustix::fs::mkdirat(CWD, path, Mode::RWXU);
        if let Err(source) = made
            && source != Errno::EXIST
        {
            return Err(RunDirError::Open { path: path.to_owned(), source });
        }
        if made.is_ok() {
            // The umask may have taken our own rights away.
            rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty())
                .map_err(|source| RunDirError::Open { path: path.to_owned(), source })?;
        }
        Self::of(path, &[0, rustix::process::geteuid().as_raw()])
    }

    /// Opens the existing runtime directory `path`, which must belong to one of `owners`.
    pub fn of(path: &Path, owners: &[u32]) -> Result<Self, RunDirError> {
        let (dir, owner) = Self::examine(path)?;
        if owners.contains(&owner) { Ok(dir) } else { Err(RunDirError::Owner { path: path.to_owned(), owner }) }
    }

    /// Opens the existing runtime directory `path`, whoever owns it.
    pub fn of_anybody(path: &Path) -> Result<Self, RunDirError> {
        Self::examine(path).map(|(dir, _)| dir)
    }

    /// A directory that the caller has opened for reading and judged by rules of its own.
    #[must_use]
    pub fn opened(path: &Path, fd: OwnedFd) -> Self {
        Self { path: path.to_owned(), fd }
    }

    /// The opened directory, as a descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn examine(path: &Path) -> Result<(Self, u32), RunDirError> {
        let fail = |source| RunDirError::Open { path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(fail)?;
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        if stat.st_mode & 0o002 != 0 {
            return Err(RunDirError::Writable { path: path.to_owned(), mode: stat.st_mode & 0o777 });
        }
        Ok((Self { path: path.to_owned(), fd }, stat.st_uid))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the directory's lock if nobody has it; `None` if somebody does. Does not block.
    pub fn try_lock(&self) -> Result<Option<DirLock>, RunDirError> {
        let fail = |source| RunDirError::Open { path: self.path.join(Self::LOCK_FILE), source };
        let dir = rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).map_err(fail)?;
        let fd = self.lock_file().map_err(fail)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if rustix::fs::fstat(&fd).map_err(fail)?.st_nlink > 0 => Ok(Some(DirLock { _fd: fd, dir })),
            Ok(()) | Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(source) => Err(fail(source)),
        }
    }

    /// Takes the directory's lock, waiting up to [`LOCK_DEADLINE`](Self::LOCK_DEADLINE).
    ///
    /// It is a lock of the file [`LOCK_FILE`](Self::LOCK_FILE), which goes with it: whoever may read the directory
    /// could lock that itself, and keep everybody from creating and removing. Only who may write to the directory may
    /// open the file.
    pub fn lock(&self) -> Result<DirLock, RunDirError> {
        self.lock_within(Self::LOCK_DEADLINE)
    }

    /// The same, waiting up to `patience`.
    pub fn lock_within(&self, patience: Duration) -> Result<DirLock, RunDirError> {
        let fail = |source| RunDirError::Open { path: self.path.join(Self::LOCK_FILE), source };
        let dir = rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).map_err(fail)?;
        let mut fd = self.lock_file().map_err(fail)?;
        let started = Instant::now();
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if rustix::fs::fstat(&fd).map_err(fail)?.st_nlink > 0 => return Ok(DirLock { _fd: fd, dir }),
                // It was another's, who has removed it.
                Ok(()) => fd = self.lock_file().map_err(fail)?,
                Err(Errno::WOULDBLOCK | Errno::INTR) if started.elapsed() < patience => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(RunDirError::Locked { path: self.path.clone(), waited: started.elapsed() });
                }
                Err(source) => return Err(fail(source)),
            }
        }
    }

    fn lock_file(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat(&self.fd, Self::LOCK_FILE, flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                opened => return opened,
            }
            let new = flags | OFlags::CREATE | OFlags::EXCL;
            match rustix::fs::openat(&self.fd, Self::LOCK_FILE, new, Mode::RUSR | Mode::WUSR) {
                Err(Errno::EXIST) => {}
                Ok(fd) => {
                    // For whoever may write to the directory, whatever the umask. Root also makes it for the owner.
                    let dir = rustix::fs::fstat(&self.fd)?;
                    let write = dir.st_mode & 0o220;
                    let (uid, gid) = (rustix::fs::Uid::from_raw(dir.st_uid), rustix::fs::Gid::from_raw(dir.st_gid));
                    if rustix::process::geteuid().is_root() {
                        rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
                    } else if write & 0o020 != 0 {
                        let _ = rustix::fs::fchown(&fd, None, Some(gid)); // one of another group locks for itself
                    }
                    rustix::fs::fchmod(&fd, Mode::from_raw_mode(write | write << 1))?;
                    return Ok(fd);
                }
                Err(source) => return Err(source),
            }
        }
    }

    /// The names of the ordinary files, sockets included, that end in `suffix`, without it, sorted.
    pub fn list(&self, suffix: &str) -> Result<Vec<String>, RunDirError> {
        let fail = |source| RunDirError::Open { path: self.path.clone(), source };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if matches!(entry.file_type(), FileType::RegularFile | FileType::Socket | FileType::Unknown)
                && let Some(stem) = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(suffix))
            {
                names.push(stem.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes a file of the directory; a missing one counts as removed.
    pub fn remove(&self, file: &str) -> Result<(), RunDirError> {
        match rustix::fs::unlinkat(&self.fd, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(RunDirError::Open { path: self.path.join(file), source }),
        }
    }
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE => "; this process has too many open files: close some or raise `ulimit -n`",
        Errno::NFILE => "; the system has too many open files",
        Errno::ISDIR => "; a directory has the place of a file: remove it",
        _ => "; set GINNEL_RUN_DIR to a directory of your own",
    }
}

/// Whether `path` lies in a file system without a disk.
fn in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994; // linux/magic.h
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS_MAGIC))
}

impl AsFd for RunDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_that_everybody_can_write_to_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(RunDir::at(temp.path()), Err(RunDirError::Writable { mode: 0o777, .. })));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        assert!(matches!(RunDir::at(&link), Err(RunDirError::Open { .. })));
    }

    #[test]
    fn who_may_only_read_the_directory_cannot_hold_its_lock() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(&temp.path().join("run")).unwrap();
        let read = std::fs::File::open(dir.path()).unwrap();
        rustix::fs::flock(&read, FlockOperation::NonBlockingLockExclusive).unwrap();
        let lock = dir.lock().unwrap();
        let file = std::fs::metadata(dir.path().join(RunDir::LOCK_FILE)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "as the directory, which its owner alone may write to");
        drop(lock);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing");
    }

    #[test]
    fn many_who_lock_in_turn_exclude_each_other_although_the_file_comes_and_goes() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let dir = RunDir::at(&path).unwrap();
                    for _ in 0..200 {
                        let _lock = dir.lock().unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn the_lock_excludes_until_it_is_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(&temp.path().join("run")).unwrap();
        let lock = dir.lock().unwrap();
        let other = RunDir::at(dir.path()).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| other.lock().map(drop));
            assert!(!waiter.is_finished());
            drop(lock);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_new_directory_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(&temp.path().join("run")).unwrap();
        let mode = std::fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
