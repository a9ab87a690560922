//! The page that the processes of one measurement share: how far each side is, and a cache line to pass back and forth.
//!
//! ```text
//! byte 0      ping (the first client writes)        128  pong (the first server writes)
//! byte 512    + 128 * i: messages of side i so far (that side writes, now and then the parent looks)
//! ```

use crate::clock::Clock;
use crate::sys::Region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most processes of one measurement.
pub(crate) const SIDES: usize = 130;
const LEN: usize = 512 + 128 * SIDES;

/// The shared page.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    region: Arc<Region>,
    fd: Arc<OwnedFd>,
}

impl Page {
    pub(crate) fn create() -> io::Result<Self> {
        let fd = shared_memory(LEN)?;
        Self::open(fd)
    }

    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { region: Arc::new(Region::map(&fd, LEN)?), fd: Arc::new(fd) })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The progress of side `side`.
    #[inline(always)]
    pub(crate) fn progress(&self, side: usize) -> &AtomicU64 {
        self.region.word(512 + 128 * side)
    }

    /// The sum of everybody's progress: while it grows, something moves.
    pub(crate) fn moved(&self, sides: usize) -> u64 {
        let progress = |side| self.progress(side).load(Ordering::Relaxed);
        (0..sides).map(progress).fold(0, u64::wrapping_add)
    }

    /// Nanoseconds of one cache-line round trip, the client's half: the median of batches. `None` if the other side
    /// does not come within `patience`.
    pub(crate) fn ping(&self, clock: Clock, pause: bool, patience: Duration) -> Option<f64> {
        let (ping, pong) = (self.region.word(0), self.region.word(128));
        let mut batches = [0; BATCHES as usize];
        let mut turn = pong.load(Ordering::Acquire);
        for batch in &mut batches {
            let begin = clock.now();
            for _ in 0..ROUNDS {
                turn += 1;
                // SYNC page.ping: pairs with the other side's load.
                ping.store(turn, Ordering::Release);
                spin_until(pong, turn, pause, patience)?;
            }
            *batch = clock.nanoseconds(begin, clock.now());
        }
        batches.sort_unstable();
        Some(batches[batches.len() / 2] as f64 / ROUNDS as f64)
    }

    /// The other half of [`ping`](Self::ping).
    pub(crate) fn pong(&self, pause: bool, patience: Duration) -> Option<()> {
        let (ping, pong) = (self.region.word(0), self.region.word(128));
        let mut turn = pong.load(Ordering::Relaxed);
        for _ in 0..ROUNDS * BATCHES {
            turn += 1;
            spin_until(ping, turn, pause, patience)?;
            // SYNC page.pong: pairs with the other side's load.
            pong.store(turn, Ordering::Release);
        }
        Some(())
    }
}

const ROUNDS: u64 = 100;
const BATCHES: u64 = 30;

#[inline(always)]
fn spin_until(word: &AtomicU64, value: u64, pause: bool, patience: Duration) -> Option<()> {
    let mut looks = 0u32;
    let mut begun = None;
    while word.load(Ordering::Acquire) != value {
        if pause {
            std::hint::spin_loop();
        }
        looks += 1;
        if looks == 1 << 16 {
            looks = 0;
            if begun.get_or_insert_with(Instant::now).elapsed() > patience {
                return None;
            }
        }
    }
    Some(())
}

/// Memory of `len` zero bytes that can be handed to another process and that nobody can shorten.
pub(crate) fn shared_memory(len: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create("ginnel-bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}
