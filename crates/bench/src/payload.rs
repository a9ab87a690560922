//! What is in a message.
//!
//! ```text
//! byte 0  check: u32    over everything behind it
//!      4  sequence: u32 counts from 0; END is the last
//!      8  sent: u64     stamp of the send             modes with stamps of one way
//!     16  intended: u64 stamp of the intended send    mode paced
//!      …  pattern
//! ```
//! The pattern is written once, so that a sender pays for the header alone; the receiver reads every byte.

use crate::model::Counts;
use crate::plan::{Mode, Plan};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::xxh3_64;

/// The number of the message that says that there are no more.
pub(crate) const END: u32 = u32::MAX;
/// Bytes of an acknowledgement.
pub(crate) const ACK: usize = 8;

/// Bytes of the header, and so the least size of a message.
pub(crate) fn header(plan: &Plan) -> usize {
    match plan.mode {
        Mode::Paced => 24,
        Mode::Throughput => 16,
        _ if plan.one_way => 16,
        _ => 8,
    }
}

/// A message to send, over and over.
#[derive(Debug)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
    header: usize,
    /// Of the pattern.
    digest: u64,
}

impl Frame {
    pub(crate) fn new(size: usize, header: usize) -> Self {
        // Neither zeros nor a short period: no word of it is like its neighbour.
        let mut bytes: Vec<u8> = (0..size).map(|at| (at as u32).wrapping_mul(0x9e37_79b1).to_be_bytes()[0]).collect();
        bytes[..header].fill(0);
        let digest = digest(&bytes[header..]);
        Self { bytes, header, digest }
    }

    /// The message with this number and these stamps; as many of them as the header has room for.
    #[inline]
    pub(crate) fn message(&mut self, sequence: u32, sent: u64, intended: u64) -> &[u8] {
        self.bytes[4..8].copy_from_slice(&sequence.to_le_bytes());
        if self.header >= 16 {
            self.bytes[8..16].copy_from_slice(&sent.to_le_bytes());
        }
        if self.header >= 24 {
            self.bytes[16..24].copy_from_slice(&intended.to_le_bytes());
        }
        let check = check(&self.bytes[4..self.header], self.digest);
        self.bytes[..4].copy_from_slice(&check.to_le_bytes());
        &self.bytes
    }
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: u32,
    pub(crate) sent: u64,
    pub(crate) intended: u64,
}

/// What the first `header` bytes of a message say, unchecked.
#[inline]
pub(crate) fn read(bytes: &[u8], header: usize) -> Header {
    let word = |at: usize| match bytes.get(at..at + 8) {
        Some(word) if at < header => u64::from_le_bytes(word.try_into().unwrap_or_default()),
        _ => 0,
    };
    Header { sequence: (word(0) >> 32) as u32, sent: word(8), intended: word(16) }
}

/// Whether a message is as it was sent: every byte is read.
#[inline]
pub(crate) fn is_whole(bytes: &[u8], header: usize) -> bool {
    let Some(stated) = bytes.first_chunk::<4>() else { return false };
    u32::from_le_bytes(*stated) == check(&bytes[4..header], digest(&bytes[header..]))
}

fn digest(pattern: &[u8]) -> u64 {
    if pattern.is_empty() { 0 } else { xxh3_64(pattern) }
}

#[inline]
fn check(fields: &[u8], digest: u64) -> u32 {
    // One multiplication a field, and a final mix: a changed bit anywhere changes about half of the result.
    let mut sum = digest ^ 0x9e37_79b9_7f4a_7c15;
    for field in fields.chunks(8) {
        let mut word = [0; 8];
        word[..field.len()].copy_from_slice(field);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(29);
    }
    sum ^= sum >> 32;
    (sum.wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

/// What a receiver makes of the number of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one, or a later one if some were lost.
    New,
    /// A missed one after all.
    Late,
    /// Once more.
    Again,
}

/// Missed numbers that are remembered; more are lost for good.
const REMEMBERED: usize = 1 << 20;

/// Counts what arrives, from number `first` on.
#[derive(Debug)]
pub(crate) struct Tracker {
    first: u32,
    next: u32,
    missing: BTreeSet<u32>,
    pub(crate) counts: Counts,
}

impl Tracker {
    pub(crate) fn new(first: u32) -> Self {
        Self { first, next: 0, missing: BTreeSet::new(), counts: Counts::default() }
    }

    /// The number that comes next if nothing is lost.
    #[inline]
    pub(crate) fn expected(&self) -> u32 {
        self.next
    }

    /// Whether messages of this number are counted.
    #[inline]
    pub(crate) fn is_measured(&self, sequence: u32) -> bool {
        sequence >= self.first
    }

    /// A whole message has come.
    #[inline]
    pub(crate) fn arrived(&mut self, sequence: u32) -> Arrival {
        if sequence == self.next {
            self.next += 1;
            self.counts.received += u64::from(sequence >= self.first);
            return Arrival::New;
        }
        self.out_of_turn(sequence)
    }

    #[cold]
    fn out_of_turn(&mut self, sequence: u32) -> Arrival {
        let measured = self.is_measured(sequence);
        if sequence > self.next {
            self.miss(sequence);
            self.next = sequence + 1;
            self.counts.received += u64::from(measured);
            return Arrival::New;
        }
        if self.missing.remove(&sequence) {
            let counted = u64::from(measured);
            self.counts.lost -= counted;
            self.counts.reordered += counted;
            self.counts.received += counted;
            return Arrival::Late;
        }
        self.counts.duplicated += u64::from(measured);
        Arrival::Again
    }

    /// All from the expected number up to `end` have not come.
    fn miss(&mut self, end: u32) {
        self.counts.lost += u64::from(end.saturating_sub(self.next.max(self.first)));
        let room = REMEMBERED - self.missing.len().min(REMEMBERED);
        self.missing.extend((self.next..end).take(room));
    }

    /// A message has come that is not as it was sent. Its number is not to be trusted: it stands for the expected one.
    #[cold]
    pub(crate) fn damaged(&mut self) -> u32 {
        let sequence = self.next;
        self.counts.corrupt += u64::from(self.is_measured(sequence));
        self.next += 1;
        sequence
    }

    /// `end` messages were sent in all; those that have not come are lost.
    pub(crate) fn ended(&mut self, end: u32) {
        self.miss(end);
        self.next = self.next.max(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_anywhere_is_found() {
        for (size, header) in [(8, 8), (16, 16), (24, 24), (64, 8), (200, 24)] {
            let mut message = Frame::new(size, header).message(7, 123_456_789_012, 5).to_vec();
            assert!(is_whole(&message, header));
            assert_eq!(read(&message, header).sequence, 7);
            for bit in 0..size * 8 {
                message[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_whole(&message, header), "bit {bit} of {size}");
                message[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn stamps_travel_where_the_header_has_room_for_them() {
        let header = |header| read(Frame::new(24, header).message(3, 11, 22), header);
        assert_eq!(header(24), Header { sequence: 3, sent: 11, intended: 22 });
        assert_eq!(header(16), Header { sequence: 3, sent: 11, intended: 0 });
        assert_eq!(header(8), Header { sequence: 3, sent: 0, intended: 0 });
    }

    #[test]
    fn loss_duplicates_reorder_and_corruption_are_told_apart() {
        let mut tracker = Tracker::new(2);
        let arrivals = [0, 1, 2, 2, 5, 4].map(|sequence| tracker.arrived(sequence));
        use Arrival::{Again, Late, New};
        assert_eq!(arrivals, [New, New, New, Again, New, Late]);
        assert_eq!(tracker.damaged(), 6);
        tracker.ended(10);
        let Counts { received, lost, duplicated, reordered, corrupt, .. } = tracker.counts;
        // 3 and 7, 8, 9 are lost; of the measured ones 2, 4, 5 came.
        assert_eq!((received, lost, duplicated, reordered, corrupt), (3, 4, 1, 1, 1));
    }
}
