//! How a sleeper on shared memory is reached without that memory.

use crate::ForeignFile;
use crate::sys::futex;
use rustix::io::{Errno, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// A word of this process that ends a sleep on a word of shared memory
/// ([`ForeignFile::sleep`](crate::ForeignFile::sleep)).
///
/// The shared word is the peer's to ring, and the peer can take it away: once the file is cut short, a wake by its
/// address finds nobody. A hang-up, an abort and the like ring the bell instead, which no peer can reach.
///
/// A sleeper reads [`count`](Self::count) first, then looks for what it waits for, and then sleeps on both counts.
/// Whoever rings says before what there is to see.
#[derive(Debug, Default)]
pub struct Bell {
    // SYNC bell.count: the release of `ring` comes after what it tells, the acquire of `count` before the look for it.
    count: AtomicU32,
}

impl Bell {
    /// How often it has been rung so far; wraps around.
    #[must_use]
    #[inline]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Ends the sleeps of all whose count is older than this.
    pub fn ring(&self) {
        self.count.fetch_add(1, Ordering::Release);
        futex::wake_private(&self.count, i32::MAX);
    }

    /// Sleeps until the bell has been rung more than `rung` times, or a word of `words` (a file, the word's byte
    /// offset) no longer holds what is expected there, at most for `timeout`. May return early: look again. Of `words`
    /// the first 127 count.
    ///
    /// Where the kernel cannot wait for many words (before Linux 5.16, or where a filter forbids it), it returns after
    /// a millisecond.
    ///
    /// # Errors
    /// `TIMEDOUT`, `AGAIN` if something has changed already, `INTR` on a signal, `FAULT` if a file was cut short.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`](crate::ForeignFile::load_u64).
    #[cfg(not(loom))]
    pub fn sleep<'a>(
        &self,
        rung: u32,
        words: impl IntoIterator<Item = (&'a crate::ForeignFile, usize, u32)>,
        timeout: Option<std::time::Duration>,
    ) -> rustix::io::Result<()> {
        let words = words.into_iter().map(|(file, at, expected)| (file.word(at), expected));
        futex::wait_beside((&self.count, rung), words, timeout)
    }

    #[inline]
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.count
    }
}

/// A sleep as [`ForeignFile::sleep`] has it, as one of many.
#[derive(Debug, Clone, Copy)]
pub struct Sleep<'a> {
    /// Whose word it is.
    pub file: &'a ForeignFile,
    /// Where the word is.
    pub at: usize,
    /// What it holds while nothing has come.
    pub expected: u32,
    /// What else ends the sleep.
    pub bell: &'a Bell,
    /// Its count while it has not been rung.
    pub rung: u32,
}

impl Sleep<'_> {
    /// Whether it would end at once: the word has changed, or the bell has been rung.
    ///
    /// # Panics
    /// As [`ForeignFile::load_u64`].
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.bell.count() != self.rung || self.file.load_u32(self.at, Ordering::Acquire) != self.expected
    }
}

/// Most sleeps of one [`sleep_on_any`].
pub const MAX_SLEEPS: usize = (futex::MAX_WORDS - 1) / 2;

/// Sleeps until one of `sleeps` (at most [`MAX_SLEEPS`]) is over, or `bell` has been rung more than `rung` times. May
/// return early: look again. It blocks without a timeout.
///
/// # Errors
/// `AGAIN` if one is over already, `INTR` on a signal, `FAULT` if one of the files was cut short, `NOSYS` or `PERM`
/// where the kernel cannot wait for many words (before Linux 5.16, or where a filter forbids it), `INVAL` if there are
/// too many.
///
/// # Panics
/// As [`ForeignFile::load_u64`].
pub fn sleep_on_any(sleeps: &[Sleep<'_>], bell: &Bell, rung: u32) -> Result<()> {
    if sleeps.len() > MAX_SLEEPS {
        return Err(Errno::INVAL);
    }
    let words = sleeps.iter().flat_map(|sleep| {
        [(sleep.file.futex_word(sleep.at), sleep.expected, false), (sleep.bell.word(), sleep.rung, true)]
    });
    futex::wait_any(std::iter::once((bell.word(), rung, true)).chain(words))
}
