//! The system calls that `rustix` lacks, and the clone of the shepherd. All `unsafe` of the library is here.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_fd;
mod clone;
mod image;
mod inherited;

#[cfg(feature = "tokio")]
pub(crate) use async_fd::watch;
pub(crate) use clone::{Launch, Namespace, clone_shepherd};
pub use ginnel_base::SignalsBlocked;
pub(crate) use image::shepherd_image;
pub(crate) use inherited::inherited;

use rustix::io::Errno;
use rustix::process::Signal;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Signals the process group that a process started, through that process's pidfd: right also when the process has
/// ended and its number is somebody else's.
///
/// # Errors
/// `ESRCH` when nobody is in it; `EINVAL` before Linux 6.9, which cannot do so.
pub(crate) fn signal_group(starter: &OwnedFd, signal: Signal) -> Result<(), Errno> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 4;
    let no_info = std::ptr::null::<libc::siginfo_t>();
    let (fd, signal) = (starter.as_raw_fd(), signal.as_raw());
    // SAFETY: numbers, and a null pointer that the kernel takes for "as `kill` does".
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, PIDFD_SIGNAL_PROCESS_GROUP) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Bytes of `struct termios` as the kernel (not the C library) lays it out.
pub(crate) const TERMIOS: usize = 36;

/// The terminal modes of `terminal`, as the kernel keeps them.
pub(crate) fn terminal_modes(terminal: BorrowedFd<'_>) -> Result<[u8; TERMIOS], Errno> {
    let mut modes = [0u8; TERMIOS];
    // SAFETY: TCGETS writes one kernel `struct termios`, which is `TERMIOS` bytes; the descriptor is borrowed.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCGETS, modes.as_mut_ptr()) };
    if result == 0 { Ok(modes) } else { Err(last_errno()) }
}

/// Puts a byte into the input of a terminal, as if it had been typed there.
pub(crate) fn type_byte(terminal: BorrowedFd<'_>, byte: u8) -> Result<(), Errno> {
    // SAFETY: TIOCSTI reads one byte, which lives as long as the call; the descriptor is borrowed.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, &raw const byte) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
