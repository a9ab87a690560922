//! Where things lie in a ring, computed once from validated parameters and kept private.

use crate::segment_params::PARAMS;

/// Bytes before the payload of a record of varying size: flag and length.
pub(super) const RECORD_HEADER: u64 = 16;
/// The longest fixed payload that shares a cache line with its flag. Longer ones have none: there a flag would be one
/// more line to move for every record, and is one line for all of them if it is the position of the newest record.
const BESIDE_FLAG: usize = if cfg!(loom) { 16 } else { 56 };
/// From this length on a payload begins on a cache line of its own: vector moves that straddle lines take twice as
/// long.
const LARGE: usize = 256;
const LINE_WORDS: usize = 8;
/// Parts into which the overwrite mark divides the capacity.
const MARK_STEPS: u64 = 16;

const WORD_PARAMS: usize = crate::segment_params::WORD_PARAMS;
pub(super) const TAIL: usize = WORD_PARAMS;
pub(super) const MARK: usize = WORD_PARAMS + 1;
pub(super) const CLAIM: usize = WORD_PARAMS + 2;
pub(super) const CLOSED: usize = WORD_PARAMS + 3;
pub(super) const WAITING: usize = WORD_PARAMS + 4;
pub(super) const FENCED: usize = WORD_PARAMS + 5;
pub(super) const LAST: usize = WORD_PARAMS + 16;
/// No honest ring gets further (at 100 GB/s that takes a year): larger positions and numbers come from a broken writer,
/// and refusing them keeps the sums below from overflowing.
pub(super) const MAX_POSITION: u64 = 1 << 61;
/// Which arrangement of records the parameters describe. Rings of another are refused.
const FORMAT: u64 = 1;
/// `LAST` before the first record.
pub(super) const NO_RECORD: u64 = u64::MAX;

/// What happens when readers are slower than the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// The oldest records are overwritten; who misses some is told how many.
    Lossy,
    /// The writer waits for the slowest live reader.
    Lossless,
    /// Only the newest record counts.
    Latest,
}

/// The shape of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// What happens when readers are slower than the writer.
    pub mode: Mode,
    /// The payload length of every record, `None` if it varies.
    pub fixed: Option<usize>,
    /// Bytes that the records together may take.
    pub capacity: u64,
    /// The longest payload.
    pub max_record: usize,
    /// Slots for readers in the control segment.
    pub max_readers: usize,
    /// Of a fixed record: all of it, and what lies before the payload.
    slot_bytes: u64,
    header: u64,
    slot_mask: u64,
    /// How far the overwrite mark and the cursors move at a time.
    step: u64,
    /// Of fixed records: how many are read and written at a time.
    run: usize,
    batch: usize,
}

/// Why parameters do not describe a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// A record is larger than a quarter of the largest ring, 2^46 bytes in all.
    #[error(
        "records of {max_record} bytes do not fit a ring of {capacity} bytes (limit: a quarter of it, less 64 bytes)"
    )]
    Record {
        /// The longest payload asked for.
        max_record: usize,
        /// The ring's bytes.
        capacity: u64,
    },
    /// A ring for nobody, or for more readers than one can have.
    #[error("a channel for {asked} readers cannot be made: ask for 1 to {max}")]
    Readers {
        /// How many were asked for.
        asked: usize,
        /// The most that there can be.
        max: usize,
    },
    /// Sizes that no ring of ours has.
    #[error("ring parameter {index} has the impossible value {value:#x}")]
    Parameter {
        /// Which one.
        index: usize,
        /// What it holds.
        value: u64,
    },
}

impl Geometry {
    /// The most readers that a ring can have.
    pub const MAX_READERS: usize = 1024;
    const MIN_SLOTS: u64 = 4;
    /// Of a variable ring. Models explore every interleaving, so theirs is as small as the rules below allow.
    const MIN_BYTES: u64 = if cfg!(loom) { 128 } else { 4096 };
    const DEFAULT_MIN_BYTES: u64 = if cfg!(loom) { 128 } else { 64 << 10 };
    const MAX_BYTES: u64 = 1 << 46;

    /// A ring of at least `records` records of exactly `len` bytes.
    pub fn fixed(mode: Mode, len: usize, records: usize, max_readers: usize) -> Result<Self, GeometryError> {
        if len as u64 > Self::MAX_BYTES {
            return Err(GeometryError::Record { max_record: len, capacity: Self::MAX_BYTES });
        }
        let slots = (records as u64).max(Self::MIN_SLOTS).checked_next_power_of_two();
        let capacity = slots.and_then(|slots| slots.checked_mul(slot(mode, len as u64).1)).unwrap_or(u64::MAX);
        Self::unchecked(mode, Some(len), capacity, len, max_readers).check()
    }

    /// A ring of at least `capacity` bytes for records of up to `max_record` bytes.
    pub fn variable(mode: Mode, max_record: usize, capacity: usize, max_readers: usize) -> Result<Self, GeometryError> {
        let capacity = (capacity as u64).max(Self::DEFAULT_MIN_BYTES).checked_next_power_of_two().unwrap_or(u64::MAX);
        Self::unchecked(mode, None, capacity, max_record, max_readers).check()
    }

    fn unchecked(mode: Mode, fixed: Option<usize>, capacity: u64, max_record: usize, max_readers: usize) -> Self {
        let (slot_bytes, header, slot_mask, step, run, batch) = (0, RECORD_HEADER, 0, 0, 1, 1);
        Self { mode, fixed, capacity, max_record, max_readers, slot_bytes, header, slot_mask, step, run, batch }
    }

    fn check(mut self) -> Result<Self, GeometryError> {
        let bad = |index, value| Err(GeometryError::Parameter { index, value });
        if !(1..=Self::MAX_READERS).contains(&self.max_readers) {
            return Err(GeometryError::Readers { asked: self.max_readers, max: Self::MAX_READERS });
        }
        let too_large = GeometryError::Record { max_record: self.max_record, capacity: self.capacity };
        if self.capacity > Self::MAX_BYTES || self.max_record as u64 > Self::MAX_BYTES {
            return Err(too_large);
        }
        match self.fixed {
            Some(len) => {
                (self.header, self.slot_bytes) = slot(self.mode, len as u64);
                let slots = self.capacity / self.slot_bytes;
                if !self.capacity.is_multiple_of(self.slot_bytes) || !slots.is_power_of_two() || slots < Self::MIN_SLOTS
                {
                    return bad(2, self.capacity);
                }
                self.slot_mask = slots - 1;
                self.run = (slots / MARK_STEPS).max(1) as usize;
                // What the mark covers beyond it must leave the newest record before it alone.
                self.batch = (slots / 8).max(1) as usize;
                self.step = self.run as u64 * self.slot_bytes;
            }
            None => {
                if !self.capacity.is_power_of_two() || self.capacity < Self::MIN_BYTES {
                    return bad(2, self.capacity);
                }
                self.step = self.capacity / MARK_STEPS;
                // Two of the largest, a step and a flag fit at once: the newest record always outlives the next one.
                if longest_record(self.max_record as u64) > self.capacity / 4 {
                    return Err(too_large);
                }
            }
        }
        Ok(self)
    }

    /// The parameters as they stand in the segment's header.
    #[must_use]
    pub fn params(&self) -> [u64; PARAMS] {
        let mut params = [0; PARAMS];
        params[0] = match self.mode {
            Mode::Lossy => 0,
            Mode::Lossless => 1,
            Mode::Latest => 2,
        };
        params[1] = self.fixed.map_or(u64::MAX, |len| len as u64);
        params[2] = self.capacity;
        params[3] = self.max_record as u64;
        params[4] = self.max_readers as u64;
        params[5] = FORMAT;
        params
    }

    /// Reads the parameters of a header that somebody else wrote; `data` is the segment's real size.
    pub fn from_params(params: &[u64; PARAMS], data: usize) -> Result<Self, GeometryError> {
        let bad = |index: usize| GeometryError::Parameter { index, value: params[index] };
        let size = |index: usize| usize::try_from(params[index]).map_err(|_| bad(index));
        let mode = match params[0] {
            0 => Mode::Lossy,
            1 => Mode::Lossless,
            2 => Mode::Latest,
            _ => return Err(bad(0)),
        };
        if params[5] != FORMAT {
            return Err(bad(5));
        }
        let fixed = if params[1] == u64::MAX { None } else { Some(size(1)?) };
        if params[2] > data as u64 {
            return Err(bad(2));
        }
        if fixed.is_none() && params[2] != data as u64 {
            return Err(bad(2)); // a mirrored area must end where its mapping ends
        }
        let max_record = size(3)?;
        if fixed.is_some_and(|len| len != max_record || len as u64 > Self::MAX_BYTES) {
            return Err(bad(1));
        }
        Self::unchecked(mode, fixed, params[2], max_record, size(4)?).check()
    }

    /// Whether a record may have `len` bytes.
    #[inline(always)]
    pub(super) fn allows(&self, len: usize) -> bool {
        match self.fixed {
            Some(fixed) => len == fixed,
            None => len <= self.max_record,
        }
    }

    /// Index of the first word of the payload, `len` bytes, of the record that begins at `word`.
    #[inline(always)]
    pub(super) fn payload(&self, word: usize, len: usize) -> usize {
        let behind_header = word + (self.header / 8) as usize;
        if len < LARGE { behind_header } else { behind_header.next_multiple_of(LINE_WORDS) }
    }

    /// Bytes that the record that begins at `word`, with a payload of `len` bytes, takes.
    #[inline(always)]
    pub(super) fn record_bytes(&self, word: usize, len: usize) -> u64 {
        if self.fixed.is_some() {
            self.slot_bytes
        } else {
            ((self.payload(word, len) - word) * 8 + len.next_multiple_of(16)) as u64
        }
    }

    /// Bytes that any record takes at most.
    pub(super) fn longest_record(&self) -> u64 {
        if self.fixed.is_some() { self.slot_bytes } else { longest_record(self.max_record as u64) }
    }

    /// Index of the first word of the record at `pos` with number `seq`.
    #[inline(always)]
    pub(super) fn word(&self, pos: u64, seq: u64) -> usize {
        let byte =
            if self.fixed.is_some() { (seq & self.slot_mask) * self.slot_bytes } else { pos & (self.capacity - 1) };
        (byte / 8) as usize
    }

    /// Whether records are their payloads and nothing else, known to be there by the position of the newest.
    #[inline(always)]
    pub(super) fn bare(&self) -> bool {
        self.header == 0
    }

    /// Bytes of a fixed record.
    #[inline(always)]
    pub(super) fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// How many fixed records, one behind the other from `word` on, one copy can move: more than one where they lie
    /// without gaps, and not across the end of the ring.
    #[inline(always)]
    pub(super) fn contiguous(&self, word: usize, records: usize) -> usize {
        if self.bare() && self.fixed == Some(self.slot_bytes as usize) {
            let bytes = self.capacity - word as u64 * 8;
            if records as u64 * self.slot_bytes <= bytes { records } else { (bytes / self.slot_bytes) as usize }
        } else {
            records.min(1)
        }
    }

    /// The most fixed records that are published together from one slice.
    #[inline(always)]
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// The most fixed records that a reader takes in one run: as many as it reads before it tells.
    #[inline(always)]
    pub(super) fn run(&self) -> usize {
        self.run
    }

    /// What must be writable behind a record: the next flag, where flags move.
    #[inline(always)]
    pub(super) fn lookahead(&self) -> u64 {
        if self.fixed.is_some() { 0 } else { RECORD_HEADER }
    }

    /// How far the overwrite mark moves at a time, and how much a reader reads before it tells.
    #[inline(always)]
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// The number of the record at `pos`, where numbers follow from positions.
    #[inline(always)]
    pub(super) fn fixed_seq(&self, pos: u64) -> Option<u64> {
        self.fixed.map(|_| pos / self.slot_bytes)
    }

    /// Bytes of the data segment.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        self.capacity as usize
    }

    /// Whether the data must be mapped twice in a row.
    #[must_use]
    pub fn mirror(&self) -> bool {
        self.fixed.is_none()
    }
}

/// A place in a ring: position, number and first word of a record, moved together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) pos: u64,
    pub(super) seq: u64,
    /// Derived from the other two; kept because every record needs it.
    pub(super) word: usize,
}

impl Place {
    pub(super) const START: Self = Self { pos: 0, seq: 0, word: 0 };

    pub(super) fn new(geometry: &Geometry, pos: u64, seq: u64) -> Self {
        Self { pos, seq, word: geometry.word(pos, seq) }
    }

    /// Moves behind a record of `bytes` bytes.
    #[inline(always)]
    pub(super) fn advance(&mut self, geometry: &Geometry, bytes: u64) {
        self.pos += bytes;
        self.seq += 1;
        self.word += (bytes / 8) as usize;
        let words = (geometry.capacity / 8) as usize;
        if self.word >= words {
            self.word -= words;
        }
    }

    /// Moves behind `records` fixed records.
    #[inline(always)]
    pub(super) fn advance_many(&mut self, geometry: &Geometry, records: usize) {
        self.pos += records as u64 * geometry.slot_bytes;
        self.seq += records as u64;
        self.word = geometry.word(self.pos, self.seq);
    }
}

/// Bytes of the header, and of the whole slot, of fixed records. Payloads begin at multiples of 16, or of 8 where their
/// length shows that no type can ask for more.
const fn slot(mode: Mode, len: u64) -> (u64, u64) {
    let line = len >= LARGE as u64;
    // The readers of a newest value look for its number.
    let header = match (mode, len.is_multiple_of(16)) {
        (Mode::Lossy | Mode::Lossless, _) if len > BESIDE_FLAG as u64 => 0,
        (_, false) => 8,
        (_, true) => 16,
    };
    let slot = match (header, line) {
        (0, true) => len.next_multiple_of(64),
        (_, true) => 64 + len.next_multiple_of(64),
        (_, false) => (header + len).next_multiple_of(16),
    };
    (header, slot)
}

/// Bytes that a record of varying size takes where its payload is pushed furthest back.
const fn longest_record(len: u64) -> u64 {
    RECORD_HEADER + if len < LARGE as u64 { 0 } else { 48 } + len.next_multiple_of(16)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn parameters_survive_the_header_and_wrong_ones_are_named() {
        for ring in [
            Geometry::fixed(Mode::Lossy, 64, 1000, 8).unwrap(),
            Geometry::variable(Mode::Lossless, 1 << 20, 8 << 20, 64).unwrap(),
        ] {
            let params = ring.params();
            let data = ring.data_bytes();
            assert_eq!(Geometry::from_params(&params, data).unwrap(), ring);
            assert!(Geometry::from_params(&params, data - 1).is_err(), "larger than its segment");
            for index in 0..6 {
                for value in [u64::MAX - 1, 1 << 47, 7] {
                    let mut wrong = params;
                    wrong[index] = value;
                    if let Ok(other) = Geometry::from_params(&wrong, data) {
                        assert!(other.capacity <= data as u64 && index > 0, "{index} {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn records_of_48_bytes_share_one_line_with_their_flag() {
        assert_eq!(Geometry::fixed(Mode::Lossy, 48, 4, 1).unwrap().slot_bytes, 64);
    }

    #[test]
    fn payloads_lie_where_their_types_may_lie_and_waste_little() {
        let shape = |mode, len| {
            let ring = Geometry::fixed(mode, len, 4, 1).unwrap();
            (ring.payload(0, len) * 8, ring.slot_bytes)
        };
        for mode in [Mode::Lossy, Mode::Lossless] {
            assert_eq!(shape(mode, 0), (16, 16));
            assert_eq!(shape(mode, 8), (8, 16), "four to a line");
            assert_eq!(shape(mode, 16), (16, 32), "it may be a u128");
            assert_eq!(shape(mode, 56), (8, 64), "one line");
            assert_eq!(shape(mode, 64), (0, 64), "one line");
            assert_eq!(shape(mode, 65), (0, 80));
            assert_eq!(shape(mode, 300), (0, 320));
        }
        assert_eq!(shape(Mode::Latest, 64), (16, 80), "a newest value has its number");
        assert_eq!(shape(Mode::Latest, 300), (64, 384));
    }

    #[test]
    fn a_record_over_a_quarter_of_the_ring_is_refused() {
        assert!(matches!(Geometry::variable(Mode::Lossy, 16 << 10, 64 << 10, 1), Err(GeometryError::Record { .. })));
        assert!(Geometry::variable(Mode::Lossy, (16 << 10) - 64, 64 << 10, 1).is_ok());
    }
}
