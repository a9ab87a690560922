//! `futex(2)`, the non-private kind: waiters in other processes.

use libc::{FUTEX_WAIT, FUTEX_WAKE, SYS_futex, c_int, syscall, timespec};
use rustix::io::Errno;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `word` holds `expected`, at most for `timeout`. Returns early for many reasons: callers look again.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(|timeout| timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads the word, which the borrow keeps mapped, and the timeout, which outlives the call.
    let result = unsafe { syscall(SYS_futex, word.as_ptr(), FUTEX_WAIT, expected, timeout) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Wakes at most `count` sleepers and says how many.
pub(crate) fn wake(word: &AtomicU32, count: c_int) -> Result<usize, Errno> {
    // SAFETY: the kernel only uses the address, which the borrow keeps mapped.
    let result = unsafe { syscall(SYS_futex, word.as_ptr(), FUTEX_WAKE, count) };
    usize::try_from(result).map_err(|_| last_errno())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
