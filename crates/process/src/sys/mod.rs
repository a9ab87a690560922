//! The system calls that `rustix` lacks, and the clone of the shepherd. All `unsafe` of the library is here.
#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_fd;
mod clone;
mod image;

#[cfg(feature = "tokio")]
pub(crate) use async_fd::watch;
pub(crate) use clone::{Launch, Namespace, clone_shepherd};
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

/// Blocks every signal of this thread while it lives.
pub(crate) struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    pub(crate) fn new() -> Self {
        // SAFETY: `sigset_t` is plain memory that `sigfillset` and `pthread_sigmask` fill.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            SignalsBlocked(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask is the one `new` was given by the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
