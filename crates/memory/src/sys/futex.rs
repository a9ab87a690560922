//! `futex(2)`, the non-private kind: waiters in other processes.

use libc::{FUTEX_PRIVATE_FLAG, FUTEX_WAIT, FUTEX_WAKE, SYS_futex, SYS_futex_waitv, c_int, syscall, timespec};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Sleeps while `word` holds `expected`, at most for `timeout`. Returns early for many reasons: callers look again.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(timespec_of);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads the word, which the borrow keeps mapped, and the timeout, which outlives the call.
    let result = unsafe { syscall(SYS_futex, word.as_ptr(), FUTEX_WAIT, expected, timeout) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Wakes at most `count` sleepers and says how many.
#[inline]
pub(crate) fn wake(word: &AtomicU32, count: c_int) -> Result<usize, Errno> {
    // SAFETY: the kernel only uses the address, which the borrow keeps mapped.
    let result = unsafe { syscall(SYS_futex, word.as_ptr(), FUTEX_WAKE, count) };
    usize::try_from(result).map_err(|_| last_errno())
}

/// Wakes at most `count` sleepers of a word that only this process sleeps on.
pub(crate) fn wake_private(word: &AtomicU32, count: c_int) {
    // SAFETY: as in `wake`. It cannot fail: the word is aligned and mapped.
    unsafe { syscall(SYS_futex, word.as_ptr(), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count) };
}

/// `struct futex_waitv` of linux/futex.h.
#[repr(C)]
struct WaitWord {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

impl WaitWord {
    fn new(word: &AtomicU32, expected: u32, flags: u32) -> Self {
        Self {
            expected: expected.into(),
            address: word.as_ptr().addr() as u64,
            flags: FUTEX2_SIZE_U32 | flags,
            reserved: 0,
        }
    }
}

const FUTEX2_SIZE_U32: u32 = 2;
const FUTEX2_PRIVATE: u32 = FUTEX_PRIVATE_FLAG.cast_unsigned();
/// How long to sleep at a time where the kernel cannot wait for two words.
const SLICE: Duration = Duration::from_millis(250);
/// `futex_waitv` is not there. A hint: nothing is ordered by it.
static NO_WAITV: AtomicBool = AtomicBool::new(false);

/// Whether [`wait_either`] waits for both words, as far as is known. A ring that comes before the first sleeper has
/// found out finds it within its first slice.
pub(crate) fn waits_for_two() -> bool {
    !NO_WAITV.load(Ordering::Relaxed)
}

/// Sleeps while both words, of which the second is private to this process, hold what is expected of them, at most for
/// `timeout`. Returns early for many reasons: callers look again.
pub(crate) fn wait_either(
    shared: (&AtomicU32, u32),
    private: (&AtomicU32, u32),
    timeout: Option<Duration>,
) -> Result<(), Errno> {
    if !waits_for_two() {
        return wait_slice(shared, private, timeout);
    }
    let words = [WaitWord::new(shared.0, shared.1, 0), WaitWord::new(private.0, private.1, FUTEX2_PRIVATE)];
    match waitv(&words, timeout) {
        // Too old, or forbidden by a filter that is older than the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            NO_WAITV.store(true, Ordering::Relaxed);
            wait_slice(shared, private, timeout)
        }
        result => result,
    }
}

/// How long to sleep at a time where the kernel cannot wait for many words.
const MANY_SLICE: Duration = Duration::from_millis(1);

/// Sleeps while `private` and all of `shared` hold what is expected of them, at most for `timeout`. Of more than
/// [`MAX_WORDS`] words the first count. Returns early for many reasons: callers look again.
pub(crate) fn wait_beside<'a>(
    private: (&AtomicU32, u32),
    shared: impl IntoIterator<Item = (&'a AtomicU32, u32)>,
    timeout: Option<Duration>,
) -> Result<(), Errno> {
    let slice = |timeout: Option<Duration>| timeout.map_or(MANY_SLICE, |timeout| timeout.min(MANY_SLICE));
    if !waits_for_two() {
        return wait_private(private, Some(slice(timeout)));
    }
    let mut words = [const { WaitWord { expected: 0, address: 0, flags: 0, reserved: 0 } }; MAX_WORDS];
    let shared = shared.into_iter().map(|(word, expected)| WaitWord::new(word, expected, 0));
    let mut count = 0;
    for (place, word) in
        words.iter_mut().zip(std::iter::once(WaitWord::new(private.0, private.1, FUTEX2_PRIVATE)).chain(shared))
    {
        *place = word;
        count += 1;
    }
    if count == 1 {
        return wait_private(private, timeout);
    }
    match waitv(&words[..count], timeout) {
        Err(Errno::NOSYS | Errno::PERM) => {
            NO_WAITV.store(true, Ordering::Relaxed);
            wait_private(private, Some(slice(timeout)))
        }
        result => result,
    }
}

fn wait_private(private: (&AtomicU32, u32), timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(timespec_of);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: as in `wait`.
    let result = unsafe { syscall(SYS_futex, private.0.as_ptr(), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, private.1, timeout) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn timespec_of(timeout: Duration) -> timespec {
    timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    }
}

/// Sleeps while all words hold what is expected of them, at most for `timeout`.
fn waitv(words: &[WaitWord], timeout: Option<Duration>) -> Result<(), Errno> {
    // An absolute time.
    let until = timeout.map(|timeout| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        timespec {
            tv_sec: now.tv_sec.saturating_add(seconds).saturating_add(nanos / 1_000_000_000),
            tv_nsec: nanos % 1_000_000_000,
        }
    });
    let until = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads the descriptions and the time, which outlive the call, and the words, which the borrows
    // that the descriptions were made from keep mapped.
    let result = unsafe { syscall(SYS_futex_waitv, words.as_ptr(), words.len(), 0, until, libc::CLOCK_MONOTONIC) };
    if result >= 0 { Ok(()) } else { Err(last_errno()) }
}

/// Most words that [`wait_any`] takes: the kernel's own limit.
pub(crate) const MAX_WORDS: usize = 128;

/// A word to wait for, what it is expected to hold, and whether only this process sleeps on it.
pub(crate) type Waited<'a> = (&'a AtomicU32, u32, bool);

/// Sleeps while each of at most [`MAX_WORDS`] words holds what is expected of it. Returns early for many reasons:
/// callers look again.
/// `NOSYS` or `PERM` where the kernel cannot.
pub(crate) fn wait_any<'a>(words: impl Iterator<Item = Waited<'a>>) -> Result<(), Errno> {
    let words: Vec<WaitWord> = words
        .map(|(word, expected, private)| WaitWord::new(word, expected, if private { FUTEX2_PRIVATE } else { 0 }))
        .collect();
    waitv(&words, None)
}

fn wait_slice(shared: (&AtomicU32, u32), private: (&AtomicU32, u32), timeout: Option<Duration>) -> Result<(), Errno> {
    if private.0.load(Ordering::Acquire) != private.1 {
        return Err(Errno::AGAIN);
    }
    wait(shared.0, shared.1, Some(timeout.map_or(SLICE, |timeout| timeout.min(SLICE))))
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
