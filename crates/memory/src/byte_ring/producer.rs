//! The sending side.

use super::layout::{ARMED, ByteRingError, CLOSED, CONSUMED, FLAG, LINE, Shape, WAITING, record_bytes, tag};
use crate::fence;
use crate::sync::Ordering;
use crate::words::WordsMut;

/// The one producer of a byte ring.
#[derive(Debug)]
pub struct ByteProducer {
    shape: Shape,
    block: WordsMut,
    data: WordsMut,
    /// Where the next record begins.
    at: u64,
    /// The flags' places from `at` up to here are zero (B1).
    cleared: u64,
    /// Copy of the consumer's word.
    consumed: u64,
}

/// Room for one record. Dropped without a commit, it was never there.
#[derive(Debug)]
#[must_use = "a record is sent by committing it"]
pub struct Grant<'a> {
    producer: &'a mut ByteProducer,
    len: usize,
    filled: usize,
    /// The bytes behind the last whole word.
    rest: [u8; 8],
}

impl ByteProducer {
    /// Flags' places are cleared ahead for records of up to so many bytes; beyond it the copy of the payload costs
    /// more.
    const CLEAR_AHEAD: u64 = 512;

    /// The producer of a fresh, zeroed ring. `None` if the words are fewer than the shape says.
    #[must_use]
    pub(super) fn new(shape: Shape, block: WordsMut, data: WordsMut) -> Option<Self> {
        let fits = data.len() as u64 * 8 == 2 * shape.capacity && block.len() > CONSUMED;
        fits.then_some(Self { shape, block, data, at: 0, cleared: shape.capacity, consumed: 0 })
    }

    /// The ring's size.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Room for a record of `len` bytes; `None` if the consumer has to read first. Never blocks.
    ///
    /// # Errors
    /// The consumer's word is not what it can be.
    ///
    /// # Panics
    /// If `len` is more than [`Shape::max_record`]: it would never fit.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<Option<Grant<'_>>, ByteRingError> {
        Ok(if self.has_room(len)? { Some(Grant { producer: self, len, filled: 0, rest: [0; 8] }) } else { None })
    }

    /// Whether a record of `len` bytes fits now. As [`reserve`](Self::reserve), without taking the room.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    ///
    /// # Panics
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub fn has_room(&mut self, len: usize) -> Result<bool, ByteRingError> {
        assert!(len <= self.shape.max_record(), "a record larger than its ring");
        // The line behind it, where the next flag is, must be free as well (B1).
        let end = self.at + record_bytes(len) + LINE;
        Ok(end <= self.consumed + self.shape.capacity || self.refresh(end)?)
    }

    #[cold]
    fn refresh(&mut self, end: u64) -> Result<bool, ByteRingError> {
        // Acquire pairs with the Release in `ByteConsumer::flush`: its copies come before our writes (B2).
        let found = self.block.load(CONSUMED, Ordering::Acquire); // SYNC byte_ring.consumed
        if found < self.consumed || found > self.at {
            return Err(ByteRingError::Consumed { found, low: self.consumed, high: self.at });
        }
        if self.data.truncated() {
            return Err(ByteRingError::Truncated);
        }
        self.consumed = found;
        Ok(end <= found + self.shape.capacity)
    }

    /// Sends `parts`, one behind the other, as one record. False if the consumer has to read first.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    ///
    /// # Panics
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<bool, ByteRingError> {
        let len = parts.iter().fold(0_usize, |len, part| len.saturating_add(part.len()));
        let Some(mut grant) = self.reserve(len)? else { return Ok(false) };
        for part in parts {
            grant.append(part);
        }
        grant.commit();
        Ok(true)
    }

    #[inline]
    fn publish(&mut self, len: usize) {
        let size = record_bytes(len);
        let end = self.at + size;
        if self.cleared <= end {
            self.data.store(self.shape.word(end), 0, Ordering::Relaxed); // B1
            self.cleared = end + LINE;
        }
        let flag = len as u64 | u64::from(tag(self.at)) << 32;
        // Release pairs with the Acquire in `ByteConsumer::peek`: payload and cleared flag come first.
        self.data.store(self.shape.word(self.at), flag, Ordering::Release); // SYNC byte_ring.flag
        self.at = end;
        if size <= Self::CLEAR_AHEAD {
            let ahead = (end + size + LINE).min(self.consumed + self.shape.capacity);
            while self.cleared < ahead {
                self.data.store(self.shape.word(self.cleared), 0, Ordering::Relaxed);
                self.cleared += LINE;
            }
        }
    }

    /// Whether the consumer sleeps and must be woken now; asked after one or more records, or after closing. Who gets a
    /// yes has taken the announcement: it wakes.
    #[inline]
    #[must_use = "a sleeper that is not woken now may sleep for ever"]
    pub fn take_armed(&mut self) -> bool {
        fence::light(); // pairs with the heavy fence in `ByteConsumer::arm` (B3)
        self.block.load(ARMED, Ordering::Relaxed) != 0 && self.block.swap(ARMED, 0, Ordering::AcqRel) != 0
    }

    /// Announces that this side is about to sleep for room. Look at [`has_room`](Self::has_room) once more before
    /// sleeping.
    pub fn arm(&mut self) -> fence::Heavy {
        self.block.store(WAITING, 1, Ordering::Relaxed);
        fence::heavy() // pairs with the light fence in `ByteConsumer::flush` (B3)
    }

    /// Takes the announcement back.
    pub fn disarm(&mut self) {
        self.block.store(WAITING, 0, Ordering::Relaxed);
    }

    /// Nothing more will come. Ask [`take_armed`](Self::take_armed) afterwards.
    pub fn close(&mut self) {
        self.block.store(CLOSED, 1, Ordering::Release); // SYNC byte_ring.closed
    }
}

impl Grant<'_> {
    /// Bytes that are still to be appended.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.len - self.filled
    }

    /// Copies `bytes` behind what was appended before. Copied straight into the ring where they begin at a multiple of 8.
    ///
    /// # Panics
    /// If they are more than [`remaining`](Self::remaining).
    #[inline]
    pub fn append(&mut self, mut bytes: &[u8]) {
        assert!(bytes.len() <= self.remaining(), "more bytes than were reserved");
        let loose = self.filled % 8;
        if loose != 0 {
            let take = bytes.len().min(8 - loose);
            self.rest[loose..loose + take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if !self.filled.is_multiple_of(8) {
                return;
            }
            self.put(self.filled - 8, &{ self.rest });
        }
        let whole = bytes.len() & !7;
        if whole > 0 {
            self.put(self.filled, &bytes[..whole]);
        }
        let rest = &bytes[whole..];
        self.rest[..rest.len()].copy_from_slice(rest);
        self.filled += bytes.len();
    }

    /// Sends the record.
    ///
    /// # Panics
    /// If fewer bytes were appended than reserved.
    #[inline]
    pub fn commit(self) {
        assert_eq!(self.filled, self.len, "fewer bytes than were reserved");
        let loose = self.filled % 8;
        if loose != 0 {
            self.put(self.filled - loose, &self.rest[..loose]);
        }
        self.producer.publish(self.len);
    }

    #[inline]
    fn put(&self, at: usize, bytes: &[u8]) {
        let word = self.producer.shape.word(self.producer.at) + (FLAG + at) / 8;
        self.producer.data.copy_in(word, bytes);
    }
}
