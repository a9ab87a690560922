//! The one system call that no library of ours wraps.
#![allow(unsafe_code)]

use std::mem::zeroed;
use std::ptr;

/// Keeps the signals of this thread waiting while it lives.
///
/// Between the moment at which `signal-hook` puts its handler in place and the one at which that handler knows what to do, a signal
/// would be lost: it would neither end this process nor be heard of. So handlers are registered by the only thread there is, under this.
pub(crate) struct SignalsHeld(libc::sigset_t);

impl SignalsHeld {
    pub(crate) fn new() -> Self {
        // SAFETY: a `sigset_t` is plain memory, which `sigfillset` and `pthread_sigmask` fill.
        unsafe {
            let (mut all, mut before) = (zeroed(), zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // SAFETY: the mask is the one that `new` was given by the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
