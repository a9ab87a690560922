//! The signal mask of a thread. All `unsafe` of this crate is here.

use std::marker::PhantomData;

/// Keeps every signal of the calling thread waiting while it lives; then the mask is what it was.
///
/// Only the signals of a fault (BUS, SEGV, FPE, ILL, TRAP, SYS) come through. They are for the thread that has faulted,
/// and the kernel ends the process if that thread has them blocked, handler or not: the guard of `ginnel-memory` lives
/// by BUS.
///
/// For a program that must lose none while it puts its handlers in place: libraries for that have a moment in which a
/// signal neither ends the program nor is heard of. Use it before there are other threads, which would take a signal of
/// the process; a thread that is started meanwhile inherits the mask. It cannot leave its thread. Two system calls,
/// which neither block nor fail.
///
/// ```
/// use ginnel_base::SignalsBlocked;
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
            for fault in [libc::SIGBUS, libc::SIGSEGV, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS] {
                libc::sigdelset(&raw mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            SignalsBlocked(before, PhantomData)
        }
    }
}

/// The signals that this process ignores (those of `nohup`, say): bit `n - 1` stands for signal `n`. Needs no /proc,
/// does not block.
///
/// ```
/// // Rust's start makes a program ignore PIPE, which is 13.
/// assert_ne!(ginnel_base::ignored_signals() & 1 << 12, 0);
/// ```
#[must_use]
pub fn ignored_signals() -> u64 {
    let ignored = |signal: &i32| {
        // SAFETY: `sigaction` is plain memory, which is valid as zeros; the call only fills it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            // The C library refuses its own two, which nobody ignores.
            libc::sigaction(*signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        }
    };
    (1..=64).filter(ignored).fold(0, |mask, signal| mask | 1 << (signal - 1))
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask is the one `new` was given by the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}
