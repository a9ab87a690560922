//! System calls that rustix does not offer in a form that fits.

use crate::PeerCredentials;
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_PEERCRED`. rustix's own takes the pid for non-zero, but it is zero for a peer whose pid namespace we cannot see.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> Result<PeerCredentials, Errno> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointer and `len` describe `credentials`, which outlives the call; the fd is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(last_errno());
    }
    // SAFETY: all-zero bytes are a valid ucred, and the kernel has only written integers over them.
    let credentials = unsafe { credentials.assume_init() };
    Ok(PeerCredentials { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid })
}

/// `F_SETSIG` of fcntl(2), which libc does not define.
const F_SETSIG: libc::c_int = 10;

/// Whether any process, in whatever pid namespace, holds the file open for writing: a read lease is refused then
/// (fcntl(2), F_SETLEASE). `file` is open for reading only. The lease is given back at once.
pub(crate) fn is_open_for_writing(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // Whoever opens the file while we hold the lease makes the kernel signal us: with one that is ignored by default,
    // not with SIGIO, which ends a process.
    // SAFETY: F_SETSIG and F_SETLEASE take an integer and touch no memory of ours.
    let lease = |kind: libc::c_int| unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind)
    };
    if lease(libc::F_RDLCK) == 0 {
        lease(libc::F_UNLCK);
        return Ok(false);
    }
    match last_errno() {
        Errno::AGAIN => Ok(true),
        errno => Err(errno),
    }
}

/// Registers a descriptor with tokio's reactor.
#[cfg(feature = "tokio")]
pub(crate) fn async_fd(
    fd: std::os::fd::OwnedFd,
    interest: tokio::io::Interest,
) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and nothing takes it out of the
    // result but `into_inner`, which deregisters it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }?)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
