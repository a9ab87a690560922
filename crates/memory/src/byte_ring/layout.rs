//! Where things are in a byte ring.

/// What the words hold.
///
/// ```text
/// words of a ring's block                                           written by
///   +0 closed    1 when the producer will send no more              the producer
///   +1 waiting   1 while the producer sleeps for space              the producer; swapped to 0 by the consumer
///  +16 armed     1 while the consumer sleeps for records            the consumer; swapped to 0 by the producer
///  +32 consumed  position up to which the ring is free              the consumer
///
/// a record, at a multiple of 64                                     written by the producer
///   0  flag      u64: length (low half), tag (high half: bit 31 is 1, the rest is position / 64)
///   8  payload
/// ```
///
/// `armed` is read after every record and `consumed` is written while records are read: each has two cache lines of its
/// own.
pub(super) const CLOSED: usize = 0;
pub(super) const WAITING: usize = 1;
pub(super) const ARMED: usize = 16;
pub(super) const CONSUMED: usize = 32;

/// Words of a ring's block.
pub(crate) const BLOCK_WORDS: usize = 64;
const _: () = assert!(CONSUMED + 16 <= BLOCK_WORDS);

pub(super) const LINE: u64 = 64;
/// Bytes of a record in front of its payload.
pub(super) const FLAG: usize = 8;

/// A ring's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub(super) capacity: u64,
}

impl Shape {
    /// A ring of `bytes`: a power of two, at least four cache lines and at most 1 GiB. `None` otherwise.
    #[must_use]
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 4 * LINE as usize && bytes <= 1 << 30 {
            Some(Self { capacity: bytes as u64 })
        } else {
            None
        }
    }

    /// Bytes of the ring.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.capacity as usize
    }

    /// The largest payload of one record, in bytes: all but the line where the next record begins, and a flag.
    #[must_use]
    pub const fn max_record(self) -> usize {
        (self.capacity - LINE) as usize - FLAG
    }

    /// The word at position `pos`, in an area that is mapped twice.
    #[inline(always)]
    pub(super) const fn word(self, pos: u64) -> usize {
        ((pos & (self.capacity - 1)) / 8) as usize
    }
}

/// Bytes that a record of `len` bytes of payload takes.
#[inline(always)]
pub(super) const fn record_bytes(len: usize) -> u64 {
    ((FLAG + len) as u64).next_multiple_of(LINE)
}

/// The upper half of the flag of a record at `pos`.
#[inline(always)]
pub(super) const fn tag(pos: u64) -> u32 {
    (pos / LINE) as u32 | 1 << 31
}

/// Why a ring cannot be used any more. Any of these ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ByteRingError {
    /// The producer wrote what is no record.
    #[error("the peer's record at {position} carries tag {found:#x}, not {expected:#x}: it is broken or hostile")]
    Tag {
        /// Where it is.
        position: u64,
        /// What was there.
        found: u32,
        /// What should be there.
        expected: u32,
    },
    /// The producer claims a record that the ring cannot hold.
    #[error("the peer's record at {position} claims {len} bytes, the ring's limit is {limit}: it is broken or hostile")]
    Length {
        /// Where it is.
        position: u64,
        /// What it claims, in bytes.
        len: u32,
        /// What a record can have, in bytes.
        limit: usize,
    },
    /// The consumer claims to have read what it cannot have read, or takes back what it has said.
    #[error("the peer says it has read up to {found}, which is not from {low} to {high}: it is broken or hostile")]
    Consumed {
        /// What it says.
        found: u64,
        /// What it said before.
        low: u64,
        /// What was written.
        high: u64,
    },
    /// The memory was taken away from under the ring.
    #[error("the ring's memory was cut short by the peer")]
    Truncated,
}
