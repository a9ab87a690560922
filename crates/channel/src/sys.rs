//! Handing file descriptors to a child, and locks that can be asked about without being taken (Linux).

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::{Errno, FdFlags};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Mutex;

/// Lets the next children of `command` inherit `fd` under its present number. It stays open here until `command` is
/// dropped.
pub(crate) fn inherit(command: &mut Command, fd: OwnedFd) {
    // SAFETY: the closure runs between fork and exec and makes only an `fcntl` call, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || Ok(rustix::io::fcntl_setfd(&fd, FdFlags::empty())?));
    }
}

/// A descriptor of our own for what the inherited descriptor `fd` refers to. `None` if that is not open, was not
/// inherited (close-on-exec is set), or has been taken.
///
/// Its number stays open until this process ends, and close-on-exec from now on: the program may own it, and closing
/// what another owns would make its next use of that number a use of something else.
pub(crate) fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    if fd <= 2 {
        return None;
    }
    // SAFETY: only asks for flags; a number that is not open gives an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if taken.contains(&fd) {
        return None;
    }
    // SAFETY: borrowed for two calls that neither keep nor close it; were it closed meanwhile, they would fail.
    let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
    let own = rustix::io::fcntl_dupfd_cloexec(inherited, 3).ok()?;
    rustix::io::fcntl_setfd(inherited, FdFlags::CLOEXEC).ok()?;
    taken.insert(fd);
    Some(own)
}

/// Takes an exclusive lock on a file for as long as this description of it is open anywhere. False if somebody has it.
pub(crate) fn lock(file: impl AsFd) -> rustix::io::Result<bool> {
    take(file, 0, 0)
}

/// Whether somebody holds [`lock`] on the file. Takes nothing, so it never makes another's attempt fail.
pub(crate) fn locked(file: impl AsFd) -> rustix::io::Result<bool> {
    ofd_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, 0, 0).map(|kind| i32::from(kind) != libc::F_UNLCK)
}

/// [`lock`] for one byte of the file, which need not be there.
pub(crate) fn lock_byte(file: impl AsFd, byte: usize) -> rustix::io::Result<bool> {
    take(file, byte, 1)
}

/// [`locked`] for one byte of the file.
pub(crate) fn byte_locked(file: impl AsFd, byte: usize) -> rustix::io::Result<bool> {
    ofd_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte, 1).map(|kind| i32::from(kind) != libc::F_UNLCK)
}

/// Gives [`lock_byte`] back, also while a copy of the descriptor is open elsewhere.
pub(crate) fn unlock_byte(file: impl AsFd, byte: usize) {
    let _ = ofd_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte, 1);
}

fn take(file: impl AsFd, start: usize, len: usize) -> rustix::io::Result<bool> {
    match ofd_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, start, len) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Of `len` bytes, 0 for all that there may ever be.
fn ofd_lock(
    file: impl AsFd,
    command: libc::c_int,
    kind: libc::c_int,
    start: usize,
    len: usize,
) -> rustix::io::Result<libc::c_short> {
    // SAFETY: all zeros is a valid `flock`.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    request.l_start = libc::off_t::try_from(start).map_err(|_| Errno::INVAL)?;
    request.l_len = libc::off_t::try_from(len).map_err(|_| Errno::INVAL)?;
    // SAFETY: both commands take a pointer to a `flock` that lives across the call.
    if unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut request) } == 0 {
        return Ok(request.l_type);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Registers a descriptor with tokio's reactor, for reading.
#[cfg(feature = "tokio")]
pub(crate) fn register(fd: OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same descriptor for as long as the `AsyncFd` owns it.
    let registered = unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) };
    registered.map_err(std::io::Error::from)
}
