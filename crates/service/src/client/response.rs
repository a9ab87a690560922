//! What a call brings back.

use super::error::CallError;
use ginnel_session::proto::Received;
use ginnel_wire::{Batch, MethodHash, MethodHashes};
use std::ops::Deref;

/// The answer to a call, or an item of a stream, in memory of its own. It reads as its bytes.
#[derive(Debug)]
pub struct Response(pub(super) Received);

impl Response {
    /// The bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.payload()
    }

    /// A copy of the bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload().to_vec()
    }

    /// How many answers it has: those of a batch, or one.
    #[must_use]
    pub fn count(&self) -> u32 {
        match self.0.head() {
            Some(head) if head.batch => head.items,
            None if self.0.envelope.batch => self.0.envelope.item_count,
            _ => 1,
        }
    }

    pub(super) fn is_batch(&self) -> bool {
        self.0.head().map_or(self.0.envelope.batch, |head| head.batch)
    }

    /// The answers of a batch, in the order of the requests; of anything else, the one that it is.
    pub fn items(&self) -> impl Iterator<Item = &[u8]> {
        // It was checked when it arrived.
        let batch = self.is_batch().then(|| Batch::parse(self.payload(), self.count()).ok()).flatten();
        let single = if batch.is_none() { Some(self.payload()) } else { None };
        let count = batch.map_or(0, |batch| batch.len());
        single.into_iter().chain((0..count).filter_map(move |at| batch?.get(at)))
    }

    pub(super) fn methods(&self) -> Result<Vec<MethodHash>, CallError> {
        let count = self.0.head().map_or(0, |head| head.items);
        Ok(MethodHashes::parse(self.payload(), count).map_err(|_| CallError::Mismatch)?.iter().collect())
    }
}

impl Deref for Response {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.payload()
    }
}

impl AsRef<[u8]> for Response {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}
