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
use std::marker::PhantomData;
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

/// Keeps every signal of the calling thread waiting while it lives; then the mask is what it was.
///
/// For a program that must lose none while it puts its handlers in place: libraries for that have a moment in which a signal neither ends
/// the program nor is heard of. Use it before there are other threads, which would take a signal of the process; a thread that is
/// started meanwhile inherits the mask. It cannot leave its thread. Two system calls, which neither block nor fail.
///
/// ```
/// use ginnel_process::SignalsBlocked;
///
/// let blocked = SignalsBlocked::new();
/// // Register handlers here.
/// drop(blocked);
/// ```
#[derive(Debug)]
#[must_use = "signals are blocked only as long as it lives"]
pub struct SignalsBlocked(libc::sigset_t, PhantomData<*const ()>);

impl SignalsBlocked {
    /// Blocks them.
    #[allow(clippy::new_without_default, reason = "what has an effect is not made by default")]
    pub fn new() -> Self {
        // SAFETY: `sigset_t` is plain memory that `sigfillset` and `pthread_sigmask` fill.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            SignalsBlocked(before, PhantomData)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask is the one `new` was given by the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
