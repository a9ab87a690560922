//! Memory of a ring that is lent to be filled.

use super::producer::Producer;
#[cfg(not(loom))]
use std::ops::{Deref, DerefMut};

/// The payload of the next record, in shared memory, to be filled. Made by [`Producer::lend`].
///
/// It knows its length and holds the producer, so what is published is exactly what was lent. Its content is whatever
/// an older record left there. Dropping it publishes nothing.
#[derive(Debug)]
#[must_use = "a grant that is dropped publishes nothing"]
pub struct Grant<'a> {
    producer: &'a mut Producer,
    len: usize,
}

impl<'a> Grant<'a> {
    /// Of a producer that has the room.
    pub(super) fn new(producer: &'a mut Producer, len: usize) -> Self {
        Self { producer, len }
    }

    /// Publishes the record, unless a batch is open. Returns the producer, for whoever has to wake readers.
    pub fn publish(self) -> &'a mut Producer {
        self.producer.commit(self.len);
        self.producer
    }
}

#[cfg(not(loom))]
impl Deref for Grant<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.producer.lent(self.len)
    }
}

#[cfg(not(loom))]
impl DerefMut for Grant<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.producer.lent_mut(self.len)
    }
}

#[cfg(all(test, loom))]
impl Grant<'_> {
    /// What a dereference is outside of models.
    pub(super) fn bytes(&mut self) -> crate::lent::Loan<'_> {
        self.producer.lent_mut(self.len)
    }
}
