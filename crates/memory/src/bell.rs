//! How a sleeper on shared memory is reached without that memory.

use crate::sys::futex;
use std::sync::atomic::{AtomicU32, Ordering};

/// A word of this process that ends a sleep on a word of shared memory ([`ForeignFile::sleep`](crate::ForeignFile::sleep)).
///
/// The shared word is the peer's to ring, and the peer can take it away: once the file is cut short, a wake by its address finds
/// nobody. A hang-up, an abort and the like ring the bell instead, which no peer can reach.
///
/// A sleeper reads [`count`](Self::count) first, then looks for what it waits for, and then sleeps on both counts. Whoever rings
/// says before what there is to see.
#[derive(Debug, Default)]
pub struct Bell {
    // SYNC bell.count: the release of `ring` comes after what it tells, the acquire of `count` before the look for it.
    count: AtomicU32,
}

impl Bell {
    /// How often it has been rung so far; wraps around.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Ends the sleeps of all whose count is older than this.
    pub(crate) fn ring(&self) {
        self.count.fetch_add(1, Ordering::Release);
        futex::wake_private(&self.count, i32::MAX);
    }

    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.count
    }
}
