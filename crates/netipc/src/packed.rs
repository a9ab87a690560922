//! The frame that snapshots and lookups share: fixed header, directory, packed items.
//!
//! ```text
//! 0          header              header+8n                                         end
//! | header   | n x {off, len}    | item 0 | pad to 8 | item 1 | ... | item n-1     |
//! |          |                   ^ offsets count from here            no padding  ^
//! ```
//!
//! The item count is the `u32` at byte 4 of every such header.

use crate::bytes::{align8, put_u32, u32_at};
use crate::error::{DecodeError, EncodeError, Fault};

const ENTRY: usize = 8;
const COUNT_AT: usize = 4;

/// Appends one packed message to a vector, item by item, never beyond its limit.
///
/// Room for the directory is reserved by a guess and corrected as items come: offsets count from the end of the
/// directory, so moving the packed area changes none of them. Dropped before [`Packed::finish`], it takes back all it
/// wrote.
#[derive(Debug)]
pub(crate) struct Packed<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    header: usize,
    reserved: usize,
    count: usize,
    limit: usize,
    finished: bool,
}

impl<'o> Packed<'o> {
    /// Starts with a zeroed header at the end of `out`. `limit` bounds the whole message.
    pub(crate) fn new(
        out: &'o mut Vec<u8>,
        header: usize,
        expected_items: usize,
        limit: usize,
    ) -> Result<Self, EncodeError> {
        let limit = limit.min(u32::MAX as usize);
        if header > limit {
            return Err(EncodeError::TooLarge { needed: header as u64, limit: limit as u64 });
        }
        let reserved = expected_items.min((limit - header) / ENTRY);
        let start = out.len();
        out.resize(start + header + reserved * ENTRY, 0);
        Ok(Self { out, start, header, reserved, count: 0, limit, finished: false })
    }

    pub(crate) fn header_mut(&mut self) -> &mut [u8] {
        &mut self.out[self.start..self.start + self.header]
    }

    fn packed_at(&self) -> usize {
        self.start + self.header + self.reserved * ENTRY
    }

    /// Bytes of the packed area so far.
    pub(crate) fn used(&self) -> usize {
        self.out.len() - self.packed_at()
    }

    /// Size of the whole message if an item of `len` bytes were added now.
    pub(crate) fn size_with(&self, len: usize) -> usize {
        self.header + (self.count + 1) * ENTRY + align8(self.used()).saturating_add(len)
    }

    /// Adds one zeroed item of `len` bytes and hands it out to be filled.
    pub(crate) fn item(&mut self, len: usize) -> Result<&mut [u8], EncodeError> {
        let needed = self.size_with(len);
        if needed > self.limit {
            return Err(EncodeError::TooLarge { needed: needed as u64, limit: self.limit as u64 });
        }
        if self.count == self.reserved {
            self.widen();
        }
        let offset = align8(self.used());
        let item_at = self.packed_at() + offset;
        self.out.resize(item_at + len, 0);
        let entry = self.start + self.header + self.count * ENTRY;
        put_u32(self.out, entry, offset as u32);
        put_u32(self.out, entry + 4, len as u32);
        self.count += 1;
        Ok(&mut self.out[item_at..])
    }

    /// Doubles the directory; amortised, each item moves a constant number of times.
    fn widen(&mut self) {
        let old = self.packed_at();
        let end = self.out.len();
        self.reserved = (self.reserved * 2).max(8);
        let new = self.packed_at();
        self.out.resize(end + new - old, 0);
        self.out.copy_within(old..end, new);
    }

    /// Closes the gap behind the directory, writes the count, returns the size of the message.
    pub(crate) fn finish(mut self) -> usize {
        let packed = self.packed_at();
        let tight = self.start + self.header + self.count * ENTRY;
        if tight < packed {
            let end = self.out.len();
            self.out.copy_within(packed..end, tight);
            self.out.truncate(end - (packed - tight));
        }
        let count = self.count as u32;
        put_u32(self.header_mut(), COUNT_AT, count);
        self.finished = true;
        self.out.len() - self.start
    }
}

impl Drop for Packed<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// The directory of a received message, read where it lies. Every entry has been checked by [`Directory::decode`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directory<'a> {
    bytes: &'a [u8],
    header: usize,
    count: usize,
}

/// What a directory must satisfy besides alignment and bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryRule {
    pub(crate) min_len: u32,
    /// Lookups forbid entries that overlap or go backwards; snapshots of known peers never were held to that.
    pub(crate) ordered: bool,
}

impl<'a> Directory<'a> {
    pub(crate) fn decode(bytes: &'a [u8], header: usize, rule: EntryRule) -> Result<Self, DecodeError> {
        let count = u32_at(bytes, COUNT_AT) as usize;
        let packed_at = header as u64 + count as u64 * ENTRY as u64;
        if packed_at > bytes.len() as u64 {
            return Err(DecodeError::new(header, Fault::Truncated { needed: packed_at, have: bytes.len() as u64 }));
        }
        let directory = Self { bytes, header, count };
        let area = (bytes.len() - directory.packed_at()) as u64;
        let mut previous_end = 0;
        for index in 0..count {
            let entry = header + index * ENTRY;
            let (offset, len) = (u32_at(bytes, entry), u32_at(bytes, entry + 4));
            let (start, end) = (u64::from(offset), u64::from(offset) + u64::from(len));
            let fault = if !offset.is_multiple_of(8) {
                Fault::Misaligned { found: offset }
            } else if end > area {
                Fault::OutOfBounds { start, end, len: area }
            } else if rule.ordered && start < previous_end {
                Fault::ItemOverlap { start, previous_end }
            } else if len < rule.min_len {
                let fault = Fault::ItemLength { expected: rule.min_len, found: len };
                return Err(DecodeError::new(entry + 4, fault));
            } else {
                previous_end = end;
                continue;
            };
            return Err(DecodeError::new(entry, fault));
        }
        Ok(directory)
    }

    /// The directory of a message that was checked before, or written here.
    pub(crate) fn checked(bytes: &'a [u8], header: usize) -> Self {
        Self { bytes, header, count: u32_at(bytes, COUNT_AT) as usize }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn packed_at(&self) -> usize {
        self.header + self.count * ENTRY
    }

    /// Where item `index` starts in the message, and its bytes.
    #[inline]
    pub(crate) fn item(&self, index: usize) -> (usize, &'a [u8]) {
        assert!(index < self.count, "item {index} of {}", self.count);
        let entry = self.header + index * ENTRY;
        let at = self.packed_at() + u32_at(self.bytes, entry) as usize;
        (at, &self.bytes[at..at + u32_at(self.bytes, entry + 4) as usize])
    }
}

/// Where a NUL-terminated string of an item lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StringRange {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl StringRange {
    /// One past the terminator.
    pub(crate) fn end(self) -> usize {
        self.start + self.len + 1
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// Checks the string whose `{u32 offset, u32 length}` lies at `field` of `item`; `at` places the item in the message.
pub(crate) fn string_range(item: &[u8], at: usize, field: usize, header: usize) -> Result<StringRange, DecodeError> {
    let (offset, len) = (u32_at(item, field), u32_at(item, field + 4));
    let fail = |fault| Err(DecodeError::new(at + field, fault));
    if (offset as usize) < header {
        return fail(Fault::StringOffset { found: offset, header: header as u32 });
    }
    let end = u64::from(offset) + u64::from(len) + 1;
    if end > item.len() as u64 {
        return fail(Fault::OutOfBounds { start: u64::from(offset), end, len: item.len() as u64 });
    }
    let range = StringRange { start: offset as usize, len: len as usize };
    if item[range.end() - 1] != 0 {
        return Err(DecodeError::new(at + range.end() - 1, Fault::NoTerminator));
    }
    Ok(range)
}

/// Fails at the first NUL inside a string whose bounds [`string_range`] has checked.
pub(crate) fn no_interior_nul(item: &[u8], at: usize, range: StringRange) -> Result<(), DecodeError> {
    let text = &item[range.start..range.start + range.len];
    // `contains` runs at memory speed; the position is worth finding only when there is a fault.
    if text.contains(&0) {
        let nul = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        return Err(DecodeError::new(at + range.start + nul, Fault::InteriorNul));
    }
    Ok(())
}

/// The string at `field` of an item that has been validated.
#[inline]
pub(crate) fn string_at(item: &[u8], field: usize) -> &[u8] {
    let start = u32_at(item, field) as usize;
    &item[start..start + u32_at(item, field + 4) as usize]
}

/// Fails if a string cannot be sent: strings end at their first NUL.
pub(crate) fn sendable(field: &'static str, text: &[u8]) -> Result<(), EncodeError> {
    if text.contains(&0) { Err(EncodeError::InteriorNul { field }) } else { Ok(()) }
}

/// Writes `text` and its NUL at `cursor`, its range at `field`; returns the cursor behind it. The item is zeroed.
pub(crate) fn put_string(item: &mut [u8], field: usize, cursor: usize, text: &[u8]) -> usize {
    put_u32(item, field, cursor as u32);
    put_u32(item, field + 4, text.len() as u32);
    item[cursor..cursor + text.len()].copy_from_slice(text);
    cursor + text.len() + 1
}
