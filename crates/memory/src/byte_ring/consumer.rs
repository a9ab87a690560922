//! The receiving side.

use super::layout::{ARMED, ByteRingError, CLOSED, CONSUMED, FLAG, Shape, WAITING, record_bytes, tag};
use crate::fence;
use crate::sync::Ordering;
use crate::words::{WordsMut, as_uninit};

/// The one consumer of a byte ring.
#[derive(Debug)]
pub struct ByteConsumer {
    shape: Shape,
    block: WordsMut,
    data: WordsMut,
    /// Where the next record begins.
    at: u64,
    /// What the producer was told.
    told: u64,
}

/// A record that is there. Dropped without a release, it stays there.
#[derive(Debug)]
#[must_use = "a record is gone only when it is released"]
pub struct Record<'a> {
    consumer: &'a mut ByteConsumer,
    len: usize,
}

impl ByteConsumer {
    /// The consumer of a fresh ring. `None` if the words are fewer than the shape says.
    #[must_use]
    pub(super) fn new(shape: Shape, block: WordsMut, data: WordsMut) -> Option<Self> {
        let fits = data.len() as u64 * 8 == 2 * shape.capacity && block.len() > CONSUMED;
        fits.then_some(Self { shape, block, data, at: 0, told: 0 })
    }

    /// The ring's size.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The next record, `None` if there is none yet. Never blocks.
    ///
    /// # Errors
    /// What is there is no record.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Record<'_>>, ByteRingError> {
        // Acquire pairs with the Release in `ByteProducer::publish`. Read once: what is checked is what is used.
        let flag = self.data.load(self.shape.word(self.at), Ordering::Acquire); // SYNC byte_ring.flag
        if flag == 0 {
            return if self.data.truncated() { Err(ByteRingError::Truncated) } else { Ok(None) };
        }
        let len = self.check(flag)?;
        Ok(Some(Record { consumer: self, len }))
    }

    #[inline(always)]
    fn check(&self, flag: u64) -> Result<usize, ByteRingError> {
        let (position, len, found, expected) = (self.at, flag as u32, (flag >> 32) as u32, tag(self.at));
        if found != expected {
            return Err(ByteRingError::Tag { position, found, expected });
        }
        let limit = self.shape.max_record();
        if len as usize > limit {
            return Err(ByteRingError::Length { position, len, limit });
        }
        Ok(len as usize)
    }

    #[cfg(all(test, loom))]
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether a look is worth while: there is a record, or something that is wrong.
    #[inline]
    #[must_use]
    pub fn ready(&self) -> bool {
        self.data.load(self.shape.word(self.at), Ordering::Relaxed) != 0 || self.data.truncated()
    }

    /// Whether so much was read that the producer should be told: an eighth of the ring.
    #[inline]
    #[must_use]
    pub fn should_flush(&self) -> bool {
        self.at - self.told >= self.shape.capacity / 8
    }

    /// Tells the producer what was read. True if it sleeps for room and must be woken now: who gets a yes has taken the
    /// announcement. Call it when [`should_flush`](Self::should_flush) says so, and before waiting.
    #[inline]
    #[must_use = "a producer that is not woken now may sleep for ever"]
    pub fn flush(&mut self) -> bool {
        if self.told == self.at {
            return false;
        }
        self.told = self.at;
        // Release pairs with the Acquire in `ByteProducer::refresh`: the copies come first (B2).
        self.block.store(CONSUMED, self.at, Ordering::Release); // SYNC byte_ring.consumed
        fence::light(); // pairs with the heavy fence in `ByteProducer::arm` (B3)
        self.block.load(WAITING, Ordering::Relaxed) != 0 && self.block.swap(WAITING, 0, Ordering::AcqRel) != 0
    }

    /// Announces that this side is about to sleep for a record. Look at [`ready`](Self::ready) and
    /// [`closed`](Self::closed) once more before sleeping.
    pub fn arm(&mut self) -> fence::Heavy {
        self.block.store(ARMED, 1, Ordering::Relaxed);
        fence::heavy() // pairs with the light fence in `ByteProducer::take_armed` (B3)
    }

    /// Takes the announcement back.
    pub fn disarm(&mut self) {
        self.block.store(ARMED, 0, Ordering::Relaxed);
    }

    /// Whether the producer has said that nothing more will come. Read what is left before giving up: a record that was
    /// sent before is seen by a [`peek`](Self::peek) after this.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.block.load(CLOSED, Ordering::Acquire) != 0 // SYNC byte_ring.closed
    }
}

impl Record<'_> {
    /// Bytes of its payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes of the payload, from `at` on, out into `out`. The producer may have changed them meanwhile: judge
    /// the copy, and copy nothing twice that was judged once.
    ///
    /// # Panics
    /// If `at` is no multiple of 8, or the range leaves the record.
    #[inline]
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        assert!(at.is_multiple_of(8) && at <= self.len && out.len() <= self.len - at, "bytes outside their record");
        let word = self.consumer.shape.word(self.consumer.at) + (FLAG + at) / 8;
        self.consumer.data.copy_out(word, as_uninit(out));
    }

    /// Copies the payload, from `at` on, behind what `out` holds.
    ///
    /// # Panics
    /// If `at` is no multiple of 8 or behind the end of the record.
    pub fn append_to(&self, at: usize, out: &mut Vec<u8>) {
        assert!(at.is_multiple_of(8) && at <= self.len, "bytes outside their record");
        let word = self.consumer.shape.word(self.consumer.at) + (FLAG + at) / 8;
        self.consumer.data.append_to_vec(word, self.len - at, out);
    }

    /// Done with it: the next one is next.
    #[inline]
    pub fn release(self) {
        self.consumer.at += record_bytes(self.len);
    }
}
