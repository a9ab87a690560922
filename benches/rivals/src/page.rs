//! The control page: what the two sides of a measurement say to each other outside the mechanism that is measured.
//!
//! ```text
//! byte 0      ping word (the parent writes)         128  pong word (the first child writes)
//! byte 256    the parent's phase                    384  baton of the set-up row (both write, in turn)
//! byte 512    + 128 * i: phase of child i
//! byte 4096   + REPORT * i: report of child i:
//!             0 received, 8 skipped, 16 doubled, 24 corrupt, 32 window in ticks, 40 number of samples, 64.. samples
//! ```
//! A phase only grows. Every wait has a deadline, and ends when the kernel tells us that the peer died
//! (the parent looks at its children, a child dies with its parent).

use crate::Outcome;
use crate::payload::Tally;
use crate::sys::{Region, shared_memory, ticks};
use rustix::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const REPORT: usize = 1 << 20;
const MAX_SAMPLES: usize = (REPORT - 64) / 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// Most readers that one row has.
pub const MAX_CHILDREN: usize = 4;
const LEN: usize = 4096 + REPORT * MAX_CHILDREN;

/// What has been reached by the side that stores it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u64)]
pub enum Phase {
    Joined = 1,
    Calibrating = 2,
    Driving = 3,
    Reported = 4,
    Recalibrating = 5,
    Finished = 6,
}

/// The shared page, mapped.
#[derive(Clone, Copy)]
pub struct Page {
    region: Region,
}

/// What a child found out.
pub struct Report {
    pub tally: Tally,
    pub window: u64,
    pub samples: Vec<u64>,
}

impl Page {
    pub fn create() -> Outcome<(OwnedFd, Self)> {
        let fd = shared_memory(LEN)?;
        let page = Self::open(&fd)?;
        Ok((fd, page))
    }

    pub fn open(fd: impl AsFd) -> Outcome<Self> {
        Ok(Self { region: Region::map(fd, LEN)? })
    }

    fn child_phase(&self, child: usize) -> &'static AtomicU64 {
        self.region.word(512 + 128 * child)
    }

    pub fn baton(&self) -> &'static AtomicU64 {
        self.region.word(384)
    }

    pub fn parent_reached(&self, phase: Phase) {
        self.region.word(256).store(phase as u64, Ordering::Release);
    }

    pub fn child_reached(&self, child: usize, phase: Phase) {
        self.child_phase(child).store(phase as u64, Ordering::Release);
    }

    pub fn wait_for_parent(&self, phase: Phase) -> Outcome<()> {
        wait(self.region.word(256), phase, || Ok(()))
    }

    /// `alive` is asked now and then, and ends the wait with its error.
    pub fn wait_for_child(&self, child: usize, phase: Phase, alive: impl FnMut() -> Outcome<()>) -> Outcome<()> {
        wait(self.child_phase(child), phase, alive)
    }

    pub fn report(&self, child: usize, report: &Report) {
        let base = 4096 + REPORT * child;
        let count = report.samples.len().min(MAX_SAMPLES);
        let tally = &report.tally;
        let words = [tally.received, tally.skipped, tally.doubled, tally.corrupt, report.window, count as u64];
        for (index, word) in words.into_iter().enumerate() {
            self.region.word(base + 8 * index).store(word, Ordering::Relaxed);
        }
        for (index, sample) in report.samples[..count].iter().enumerate() {
            self.region.word(base + 64 + 8 * index).store(*sample, Ordering::Relaxed);
        }
    }

    pub fn read_report(&self, child: usize) -> Report {
        let base = 4096 + REPORT * child;
        let at = |index: usize| self.region.word(base + 8 * index).load(Ordering::Relaxed);
        let tally = Tally { received: at(0), skipped: at(1), doubled: at(2), corrupt: at(3) };
        let count = (at(5) as usize).min(MAX_SAMPLES);
        Report { tally, window: at(4), samples: (0..count).map(|index| at(8 + index)).collect() }
    }

    /// Median ticks of one cache-line round trip, the parent's side: 40 batches of `ROUNDS`.
    pub fn ping(&self, pause: bool) -> u64 {
        let (ping, pong) = (self.region.word(0), self.region.word(128));
        let base = pong.load(Ordering::Acquire);
        let mut batches = [0u64; BATCHES as usize];
        let mut turn = base;
        for batch in &mut batches {
            let start = ticks();
            for _ in 0..ROUNDS {
                turn += 1;
                ping.store(turn, Ordering::Release);
                spin_until(pong, turn, pause);
            }
            *batch = (ticks() - start) / ROUNDS;
        }
        batches.sort_unstable();
        batches[batches.len() / 2]
    }

    /// The other side of `ping`.
    pub fn pong(&self, pause: bool) {
        let (ping, pong) = (self.region.word(0), self.region.word(128));
        let mut turn = pong.load(Ordering::Relaxed);
        for _ in 0..ROUNDS * BATCHES {
            turn += 1;
            spin_until(ping, turn, pause);
            pong.store(turn, Ordering::Release);
        }
    }
}

const ROUNDS: u64 = 500;
const BATCHES: u64 = 40;

#[inline(always)]
fn spin_until(word: &AtomicU64, value: u64, pause: bool) {
    while word.load(Ordering::Acquire) != value {
        if pause {
            std::hint::spin_loop();
        }
    }
}

fn wait(word: &AtomicU64, phase: Phase, mut alive: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while word.load(Ordering::Acquire) < phase as u64 {
        alive()?;
        if Instant::now() > deadline {
            return Err(format!("the other side did not reach {phase:?} within {} s", PATIENCE.as_secs()).into());
        }
        // Both sides may share a core (rows of one core, several readers): spinning here would keep the other away.
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
