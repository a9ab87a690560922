//! A ring seen from outside: by tools that are neither its writer nor one of its readers.

use super::consumer::Fault;
use super::layout::{CLOSED, Geometry, LAST, MARK, MAX_POSITION, NO_RECORD};
use crate::sync::{Ordering, fence};
use crate::words::{Words, as_uninit};

/// How often the newest record may be replaced while it is copied. Each time several were published meanwhile.
const TRIES: u32 = if cfg!(any(loom, fuzzing)) { 3 } else { 1_000 };

/// Looks at a ring without taking part in it.
#[derive(Debug)]
pub struct View {
    geometry: Geometry,
    head: Words,
    data: Words,
}

impl View {
    /// Looks at the ring in these words.
    #[must_use]
    pub fn new(geometry: Geometry, head: Words, data: Words) -> Self {
        Self { geometry, head, data }
    }

    /// Whether the writer has closed the ring.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.head.load(CLOSED, Ordering::Acquire) != 0
    }

    /// Bytes written so far, up to the end of the newest record.
    #[must_use]
    pub fn position(&self) -> u64 {
        let last = self.head.load(LAST, Ordering::Acquire);
        if last == NO_RECORD || last > MAX_POSITION {
            0
        } else {
            last + self.geometry.record_bytes(self.geometry.word(last, 0), self.newest(last).1)
        }
    }

    /// Records written so far, `None` while the newest is being replaced.
    #[must_use]
    pub fn published(&self) -> Option<u64> {
        let last = self.head.load(LAST, Ordering::Acquire);
        if last == NO_RECORD || last > MAX_POSITION {
            return Some(0);
        }
        let flag = self.newest(last).0;
        (self.head.load(LAST, Ordering::Acquire) == last).then_some(flag)
    }

    /// Copies the newest record of a ring of fixed records whose flags stand beside them (as those of
    /// [`Mode::Latest`](super::Mode::Latest) do), whole or not at all; `false` before the first. Writes nothing that the
    /// writer would see.
    ///
    /// # Panics
    ///
    /// If the ring is of another kind, or its records are not of `out.len()` bytes.
    pub fn copy_newest(&self, out: &mut [u8]) -> Result<bool, Fault> {
        assert!(self.geometry.fixed == Some(out.len()) && !self.geometry.bare(), "not a ring of such records");
        let mut last = NO_RECORD;
        for _ in 0..TRIES {
            last = self.head.load(LAST, Ordering::Acquire); // SYNC ring.last
            if self.data.truncated() {
                return Err(Fault::Truncated);
            }
            let seq = match self.geometry.fixed_seq(last) {
                _ if last == NO_RECORD => return Ok(false),
                Some(seq) if last <= MAX_POSITION => seq,
                _ => return Err(Fault::Position { value: last }),
            };
            let word = self.geometry.word(last, seq);
            // SYNC ring.flag
            if self.data.load(word, Ordering::Acquire) == seq + 1 {
                self.data.copy_out(self.geometry.payload(word, out.len()), as_uninit(out));
                fence(Ordering::Acquire); // SYNC ring.mark: the copy comes before the look at the mark
                let whole = self.head.load(MARK, Ordering::Relaxed) <= last + self.geometry.capacity;
                if self.data.truncated() {
                    return Err(Fault::Truncated);
                }
                if whole {
                    return Ok(true);
                }
            }
            #[cfg(not(loom))]
            std::hint::spin_loop();
        }
        Err(Fault::Position { value: last })
    }

    /// Flag and length of the newest record.
    fn newest(&self, last: u64) -> (u64, usize) {
        if let (Some(seq), Some(len)) = (self.geometry.fixed_seq(last), self.geometry.fixed) {
            return (seq + 1, len);
        }
        let word = self.geometry.word(last, 0);
        if word + 1 >= self.data.len() {
            return (0, 0);
        }
        let flag = self.data.load(word, Ordering::Acquire);
        let len = self.data.load(word + 1, Ordering::Relaxed).min(self.geometry.max_record as u64) as usize;
        fence(Ordering::Acquire);
        (flag, len)
    }
}
