//! Threads of ours: named, deaf to signals, and their death is visible.
//!
//! The signals of a program are for the program's own threads. A thread of a library that has not blocked a signal may
//! be the one that the kernel hands it to, and then a program that waits with `sigtimedwait` is killed instead. So
//! every thread that a crate of Ginnel starts is started here: it has all signals blocked from its first instruction,
//! because it inherits the mask of its starter.

#[cfg(target_os = "linux")]
use crate::SignalsBlocked;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

static PANICKED: AtomicU64 = AtomicU64::new(0);

/// Starts a thread. Its name is cut to 15 bytes by the kernel.
///
/// A panic of `body` is logged at level `error` with the thread's name, counted in [`panicked`], and handed on to
/// whoever joins.
///
/// # Errors
/// What the system says if it has no thread left (`EAGAIN`) or no memory.
///
/// ```
/// let thread = ginnel_base::thread::spawn("ginnel-example", || 6 * 7)?;
/// assert_eq!(thread.join().unwrap(), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    start(Builder::new(), name.into(), body)
}

/// The same with a stack of `stack` bytes, for threads of which there may be many, or of which little is asked.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_with_stack<T: Send + 'static>(
    name: impl Into<String>,
    stack: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    start(Builder::new().stack_size(stack), name.into(), body)
}

/// How many threads that were started here have panicked in this process so far.
#[must_use]
pub fn panicked() -> u64 {
    PANICKED.load(Ordering::Relaxed)
}

fn start<T: Send + 'static>(
    builder: Builder,
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let of_thread = name.clone();
    #[cfg(target_os = "linux")]
    let _blocked = SignalsBlocked::new();
    builder.name(name).spawn(move || {
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            PANICKED.fetch_add(1, Ordering::Relaxed);
            tracing::error!(thread = of_thread, reason = message(&*panic), "a thread of Ginnel panicked");
            resume_unwind(panic)
        })
    })
}

/// What a panic says.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mask of `/proc/thread-self/status`.
    fn blocked_signals() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn a_thread_has_every_signal_blocked_and_its_starter_has_none_more_than_before() {
        let before = blocked_signals();
        let of_thread = spawn("ginnel-test", blocked_signals).unwrap().join().unwrap();
        // 9 and 19 cannot be blocked; 32 and 33 belong to the C library; the others are those of a fault.
        let faults = [4, 5, 7, 8, 11, 31].map(|signal| 1 << (signal - 1)).into_iter().sum::<u64>();
        let never = 1 << 8 | 1 << 18 | 1 << 31 | 1 << 32 | faults;
        assert_eq!(of_thread | never, u64::MAX, "{of_thread:016x}");
        assert_eq!(of_thread & faults, 0, "a fault in a thread that has it blocked ends the process");
        assert_eq!(blocked_signals(), before);
    }

    #[test]
    fn a_panic_is_counted_and_reaches_whoever_joins() {
        let before = panicked();
        let panic = spawn_with_stack("ginnel-test", 64 << 10, || panic!("of a test")).unwrap().join().unwrap_err();
        assert_eq!(message(&*panic), "of a test");
        assert!(panicked() > before);
    }
}
