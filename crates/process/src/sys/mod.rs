//! The system calls that `rustix` lacks, and the clone of the shepherd. All `unsafe` of the library is here.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_fd;
mod clone;
mod image;

#[cfg(feature = "tokio")]
pub(crate) use async_fd::watch;
pub(crate) use clone::{Launch, Namespace, clone_shepherd};
pub use ginnel_base::SignalsBlocked;
pub(crate) use image::shepherd_image;

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
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
