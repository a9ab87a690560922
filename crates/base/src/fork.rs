//! Whether this process was made by `fork` from the one that something belongs to.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);

/// How many forks lie between the process in which this was asked first and this one.
///
/// What belongs to a process (a connection, a thread) remembers the number that it was made under; where the number is
/// another one, the thing is the parent's and must be left alone. It costs one load, no system call. A process that was
/// made by the bare `clone` system call, past the C library, is not told apart.
///
/// ```
/// let made_under = ginnel_base::fork_generation();
/// assert_eq!(ginnel_base::fork_generation(), made_under);
/// ```
#[must_use]
pub fn fork_generation() -> u64 {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a function of this program, and does no more than what a signal handler may. Where
        // the C library has no memory for it, forks go unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(count)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

/// Runs in the child, whose only thread it is in.
extern "C" fn count() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_of_another_generation_and_its_parent_is_not() {
        let before = fork_generation();
        // SAFETY: the child calls nothing but `_exit`, and loads an atomic.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let told = fork_generation() != before;
            // SAFETY: ends the child without any code of its parent.
            unsafe { libc::_exit(i32::from(!told)) };
        }
        let mut status = 0;
        // SAFETY: `status` is valid for the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((status, fork_generation()), (0, before));
    }
}
