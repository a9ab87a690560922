//! Many items in one message.
//!
//! ```text
//! [directory: item_count x {u32 offset, u32 length}] [item 0][pad to 8] ... [item N-1][pad to 8]
//!                                                    ^ offsets count from here, each a multiple of 8
//! ```

use crate::MAX_PAYLOAD_LEN;
use crate::bytes::{align8, put, u32_at};
use alloc::vec::Vec;

const ENTRY: usize = 8;

/// A validated batch payload: every item lies inside it, and no two share a byte. Their order is the services'
/// business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    directory: &'a [u8],
    packed: &'a [u8],
}

/// Why a payload is not a batch of the announced number of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The payload ends inside the directory.
    #[error("batch of {item_count} items needs a directory of {needed} bytes, the payload has {len}")]
    Truncated {
        /// Items the envelope announced.
        item_count: u32,
        /// Bytes their directory takes.
        needed: u64,
        /// Bytes there were.
        len: usize,
    },
    /// An item does not start at a multiple of 8.
    #[error("batch item {index} starts at {offset}, not a multiple of 8")]
    Misaligned {
        /// The item.
        index: u32,
        /// Its offset.
        offset: u32,
    },
    /// An item reaches past the end.
    #[error("batch item {index} takes bytes {offset}+{length} of {available}")]
    OutOfBounds {
        /// The item.
        index: u32,
        /// Its offset.
        offset: u32,
        /// Its length.
        length: u32,
        /// Bytes of the packed area.
        available: usize,
    },
    /// Two items share bytes. One byte that a thousand items name would be a thousand bytes of work.
    #[error("batch items {first} and {second} share bytes")]
    Overlap {
        /// The item that starts first.
        first: u32,
        /// The other one.
        second: u32,
    },
}

impl<'a> Batch<'a> {
    /// Validates the whole directory of `payload`, in one pass and without allocating if the items are in order. Items
    /// in another order are sorted once.
    ///
    /// # Errors
    /// The first entry that is wrong.
    pub fn parse(payload: &'a [u8], item_count: u32) -> Result<Self, BatchError> {
        let needed = u64::from(item_count) * ENTRY as u64;
        if needed > payload.len() as u64 {
            return Err(BatchError::Truncated { item_count, needed, len: payload.len() });
        }
        let (directory, packed) = payload.split_at(needed as usize);
        let mut end = 0;
        let mut in_order = true;
        for (index, entry) in (0..item_count).zip(directory.chunks_exact(ENTRY)) {
            let (offset, length) = (u32_at(entry, 0), u32_at(entry, 4));
            if !offset.is_multiple_of(8) {
                return Err(BatchError::Misaligned { index, offset });
            }
            if u64::from(offset) + u64::from(length) > packed.len() as u64 {
                return Err(BatchError::OutOfBounds { index, offset, length, available: packed.len() });
            }
            if length > 0 {
                in_order &= u64::from(offset) >= end;
                end = u64::from(offset) + u64::from(length);
            }
        }
        if !in_order {
            check_overlap(directory)?;
        }
        Ok(Self { directory, packed })
    }

    /// Number of items.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.directory.len() / ENTRY
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// Item `index`, without its padding.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let at = index.checked_mul(ENTRY)?;
        let entry = self.directory.get(at..at.checked_add(ENTRY)?)?;
        // Validated by `parse`: in bounds.
        let (offset, length) = (u32_at(entry, 0) as usize, u32_at(entry, 4) as usize);
        self.packed.get(offset..offset + length)
    }

    /// All items in order.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> BatchIter<'a> {
        BatchIter { batch: *self, next: 0 }
    }
}

/// For a directory whose entries are in bounds and in no order.
#[cold]
fn check_overlap(directory: &[u8]) -> Result<(), BatchError> {
    let mut ranges: Vec<(u64, u64, u32)> = (0..)
        .zip(directory.chunks_exact(ENTRY))
        .map(|(index, entry)| (u64::from(u32_at(entry, 0)), u64::from(u32_at(entry, 4)), index))
        .filter(|(_, length, _)| *length > 0)
        .map(|(start, length, index)| (start, start + length, index))
        .collect();
    ranges.sort_unstable();
    let overlap = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0);
    overlap.map_or(Ok(()), |pair| Err(BatchError::Overlap { first: pair[0].2, second: pair[1].2 }))
}

impl<'a> IntoIterator for Batch<'a> {
    type Item = &'a [u8];
    type IntoIter = BatchIter<'a>;
    fn into_iter(self) -> BatchIter<'a> {
        self.iter()
    }
}

/// Iterator over the items of a [`Batch`].
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    batch: Batch<'a>,
    next: usize,
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let item = self.batch.get(self.next)?;
        self.next += 1;
        Some(item)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.batch.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for BatchIter<'_> {}

/// The batch would exceed what one message can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch with this item would take {size} bytes, above the limit of {limit}")]
pub struct BatchFull {
    /// Payload bytes the batch would take.
    pub size: u64,
    /// Payload bytes it may take.
    pub limit: u32,
}

/// Builds a batch payload. Whatever is pushed, [`BatchBuilder::finish`] yields a valid one.
///
/// ```
/// use ginnel_wire::{Batch, BatchBuilder};
///
/// let mut builder = BatchBuilder::new(2);
/// builder.push(b"one")?;
/// builder.push(b"three")?;
/// let payload = builder.finish();
/// let batch = Batch::parse(&payload, 2).unwrap();
/// assert_eq!(batch.get(1), Some(&b"three"[..]));
/// # Ok::<(), ginnel_wire::BatchFull>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    // Directory of `reserved` entries, then the packed area, padded to 8 after every item.
    bytes: Vec<u8>,
    reserved: usize,
    items: usize,
    limit: u32,
}

impl BatchBuilder {
    /// A builder with a directory for `expected` items; more or fewer may come, at the price of one move of the items.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        Self::reuse(Vec::new(), expected)
    }

    /// The same, in the memory of `buffer`, whose content is dropped.
    #[must_use]
    pub fn reuse(mut buffer: Vec<u8>, expected: usize) -> Self {
        buffer.clear();
        buffer.resize(expected * ENTRY, 0);
        Self { bytes: buffer, reserved: expected, items: 0, limit: MAX_PAYLOAD_LEN }
    }

    /// Refuses items that would make the payload longer than `limit` bytes, padding included.
    #[must_use]
    pub fn with_limit(self, limit: u32) -> Self {
        Self { limit: limit.min(MAX_PAYLOAD_LEN), ..self }
    }

    /// Items pushed so far.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether nothing was pushed.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Payload bytes that [`BatchBuilder::finish`] would yield now.
    #[must_use]
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - (self.reserved - self.items) * ENTRY
    }

    /// Appends one item.
    ///
    /// # Errors
    /// [`BatchFull`] if the payload would exceed the limit; nothing is changed then.
    #[inline]
    pub fn push(&mut self, item: &[u8]) -> Result<(), BatchFull> {
        let size = self.payload_len() as u64 + ENTRY as u64 + align8(item.len() as u64);
        if size > u64::from(self.limit) {
            return Err(BatchFull { size, limit: self.limit });
        }
        if self.items == self.reserved {
            self.resize_directory((self.reserved * 2).max(4));
        }
        let offset = self.bytes.len() - self.reserved * ENTRY;
        let entry = self.items * ENTRY;
        // Both fit a u32: the whole payload does, checked above.
        put(&mut self.bytes, entry, (offset as u32).to_ne_bytes());
        put(&mut self.bytes, entry + 4, (item.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(item);
        let padding = item.len().wrapping_neg() % ENTRY;
        if padding > 0 {
            self.bytes.extend_from_slice(&[0; ENTRY][..padding]);
        }
        self.items += 1;
        Ok(())
    }

    /// The payload; its item count is what [`BatchBuilder::len`] said.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.items != self.reserved {
            self.resize_directory(self.items);
        }
        self.bytes
    }

    // Offsets count from the packed area, so moving it changes no entry.
    fn resize_directory(&mut self, entries: usize) {
        let packed = self.reserved * ENTRY;
        let keep = self.items.min(entries) * ENTRY;
        let gap = core::iter::repeat_n(0, entries * ENTRY - keep);
        self.bytes.splice(keep..packed, gap);
        self.reserved = entries;
    }
}
