//! A ring seen from outside: by tools that are neither its writer nor one of its readers.

use super::layout::{CLOSED, Geometry, LAST, MAX_POSITION, NO_RECORD};
use crate::sync::{Ordering, fence};
use crate::words::Words;

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
