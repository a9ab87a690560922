//! What the two processes of the demo say to each other.

use super::table::Process;
use ginnel::channel::{Link, Plain, Postcard};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The link, as the parent has it.
pub(super) type ParentLink = Link<ProcessRecord, Report, Plain, Postcard>;
/// And as the child has it.
pub(super) type ChildLink = Link<Report, ProcessRecord, Postcard, Plain>;

/// One line of the process table: plain memory, which travels as it is.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ProcessRecord {
    /// When it was published, by the monotonic clock.
    sent_ns: u64,
    sequence: u64,
    cpu_ticks: u64,
    memory_pages: u64,
    /// 0 at the end of a sweep.
    pid: u32,
    state: u32,
    name: [u8; 16],
    /// Over everything except the time.
    checksum: u64,
}

/// What both sides add up: the parent over what it sends, the child over what it receives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    pub(super) records: u64,
    pub(super) corrupt: u64,
    cpu_ticks: u64,
    memory_pages: u64,
    running: u64,
    /// Of the records' checksums, in their order.
    checksum: u64,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// After each sweep, numbered from 0.
    Sweep { number: u64, sums: Sums },
    /// When the parent has closed its channel.
    End { sums: Sums, latency: Latency },
}

/// One-way latency, nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

impl ProcessRecord {
    pub(super) fn of(process: Process) -> Self {
        let Process { pid, name, state, cpu_ticks, memory_pages } = process;
        Self { pid, name, state: u32::from(state), cpu_ticks, memory_pages, ..Self::default() }
    }

    pub(super) fn end_of_sweep() -> Self {
        Self::default()
    }

    pub(super) fn is_end_of_sweep(&self) -> bool {
        self.pid == 0
    }

    pub(super) fn number(&mut self, sequence: u64) {
        self.sequence = sequence;
        self.checksum = self.sum();
    }

    /// Notes the time of sending.
    pub(super) fn stamp(&mut self) {
        self.sent_ns = now_ns();
    }

    /// How long ago it was sent.
    pub(super) fn age_ns(&self) -> u64 {
        now_ns().saturating_sub(self.sent_ns)
    }

    pub(super) fn is_intact(&self) -> bool {
        self.checksum == self.sum()
    }

    /// FNV-1a, by words.
    fn sum(&self) -> u64 {
        let unsigned = Self { sent_ns: 0, checksum: 0, ..*self };
        let words = unsigned.as_bytes().as_chunks::<8>().0;
        words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
            (hash ^ u64::from_ne_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

impl Sums {
    /// Adds a record that is as it was sent.
    pub(super) fn add(&mut self, record: &ProcessRecord) {
        self.records += 1;
        self.cpu_ticks = self.cpu_ticks.wrapping_add(record.cpu_ticks);
        self.memory_pages = self.memory_pages.wrapping_add(record.memory_pages);
        self.running += u64::from(record.state == u32::from(b'R'));
        self.checksum = self.checksum.rotate_left(1) ^ record.checksum;
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
