//! What CGROUPS_LOOKUP and APPS_LOOKUP share: keys out, one answer a key back, in the same order.
//!
//! ```text
//! request    0 u16 layout=1 | 2 u16 flags=0 | 4 u32 items | 8 u32 0 | 12 u32 0
//!           16 items x {u32 offset, u32 length}, then the keys on multiples of 8
//! response   0 u16 layout=1 | 2 u16 flags=0 | 4 u32 items | 8 u64 generation
//!           16 items x {u32 offset, u32 length}, then the items on multiples of 8
//! ```
//!
//! Directory entries are in order and do not overlap. Zero items are legal both ways.

use crate::bytes::{put_u16, put_u64, u32_at, u64_at};
use crate::error::{DecodeError, EncodeError, Fault};
use crate::packed::{Directory, EntryRule, Packed};
use crate::snapshot::check_version;
use std::fmt::Debug;
use std::marker::PhantomData;

pub(crate) const HEADER: usize = 16;

/// How far an answer is from being final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The answer of this key, known or unknown.
    Final,
    /// There was no room for this key and all behind it: ask them again.
    PayloadExceeded,
    /// This key's answer alone exceeds the response limit.
    OversizedItem,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::CgroupsLookup {}
    impl Sealed for crate::AppsLookup {}
}

/// One of the two lookup services: [`CgroupsLookup`](crate::CgroupsLookup) or [`AppsLookup`](crate::AppsLookup).
///
/// The associated functions speak of single keys and items; they are the seam between the two layouts and everything
/// that is common. Users need the types only.
pub trait Lookup: sealed::Sealed + Copy + Debug + 'static {
    /// What is asked for.
    type Key<'a>: Copy + PartialEq + Debug + Send + Sync;
    /// What is answered.
    type Outcome<'a>: Copy + Debug;

    /// The method code on the wire.
    const METHOD: u16;
    /// The service's name in the field.
    const SERVICE: &'static str;

    #[doc(hidden)]
    const MIN_KEY: u32;
    #[doc(hidden)]
    const MIN_ITEM: u32;
    #[doc(hidden)]
    fn key_len(key: Self::Key<'_>) -> Result<usize, EncodeError>;
    #[doc(hidden)]
    fn put_key(key: Self::Key<'_>, bytes: &mut [u8]);
    #[doc(hidden)]
    fn check_key(bytes: &[u8], at: usize, entry: usize) -> Result<(), DecodeError>;
    #[doc(hidden)]
    fn key(bytes: &[u8]) -> Self::Key<'_>;
    /// Whether two keys are one; their lifetimes may differ, which `==` on an associated type does not allow.
    #[doc(hidden)]
    fn same_key(one: Self::Key<'_>, other: Self::Key<'_>) -> bool;
    #[doc(hidden)]
    fn item_len(key: Self::Key<'_>, outcome: &Self::Outcome<'_>) -> Result<usize, EncodeError>;
    #[doc(hidden)]
    fn put_item(key: Self::Key<'_>, outcome: &Self::Outcome<'_>, bytes: &mut [u8]);
    #[doc(hidden)]
    fn check_item(bytes: &[u8], at: usize) -> Result<(), DecodeError>;
    #[doc(hidden)]
    fn item(bytes: &[u8]) -> (Self::Key<'_>, Self::Outcome<'_>);
    #[doc(hidden)]
    fn verdict(outcome: &Self::Outcome<'_>) -> Verdict;
    #[doc(hidden)]
    fn payload_exceeded<'a>() -> Self::Outcome<'a>;
    #[doc(hidden)]
    fn oversized<'a>() -> Self::Outcome<'a>;
    /// Whether a key can be too long for any request, so that the client answers for it.
    #[doc(hidden)]
    const KEYS_VARY: bool;
}

/// A lookup request, borrowed from the bytes it came in and checked in full.
#[derive(Debug, Clone, Copy)]
pub struct LookupRequest<'a, L> {
    directory: Directory<'a>,
    lookup: PhantomData<L>,
}

impl<'a, L: Lookup> LookupRequest<'a, L> {
    /// Checks a request payload.
    ///
    /// # Errors
    /// The first fault, with its position.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        DecodeError::need(payload.len(), HEADER, 0)?;
        check_version(payload, 0)?;
        for at in [8, 12] {
            let found = u32_at(payload, at);
            if found != 0 {
                return Err(DecodeError::new(at, Fault::Reserved { found }));
            }
        }
        let directory = Directory::decode(payload, HEADER, EntryRule { min_len: L::MIN_KEY, ordered: true })?;
        for index in 0..directory.len() {
            let (at, key) = directory.item(index);
            L::check_key(key, at, HEADER + index * 8)?;
        }
        Ok(Self { directory, lookup: PhantomData })
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directory.len()
    }

    /// Whether there are none: legal, answered by an empty response.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Key `index`, or `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<L::Key<'a>> {
        (index < self.len()).then(|| L::key(self.directory.item(index).1))
    }

    /// The keys in the order asked.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = L::Key<'a>> + use<'a, L> {
        let directory = self.directory;
        (0..directory.len()).map(move |index| L::key(directory.item(index).1))
    }
}

/// Writes a lookup request.
#[derive(Debug)]
pub struct LookupRequestBuilder<'o, L> {
    packed: Packed<'o>,
    lookup: PhantomData<L>,
}

impl<'o, L: Lookup> LookupRequestBuilder<'o, L> {
    /// Starts a request of at most `limit` bytes at the end of `out`, with room for `expected` keys (a hint).
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if not even the header fits.
    pub fn new(out: &'o mut Vec<u8>, limit: usize, expected: usize) -> Result<Self, EncodeError> {
        let mut packed = Packed::new(out, HEADER, expected, limit)?;
        put_u16(packed.header_mut(), 0, 1);
        Ok(Self { packed, lookup: PhantomData })
    }

    /// Adds one key.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] beyond the limit, or what makes the key unfit to be sent; the request stays as it was.
    pub fn push(&mut self, key: L::Key<'_>) -> Result<(), EncodeError> {
        let len = L::key_len(key)?;
        L::put_key(key, self.packed.item(len)?);
        Ok(())
    }

    /// Completes the payload and returns its length.
    pub fn finish(self) -> usize {
        self.packed.finish()
    }
}

/// One answer: the key it belongs to, and what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a, L: Lookup> {
    /// The key, as the server echoed it.
    pub key: L::Key<'a>,
    /// What the server says.
    pub outcome: L::Outcome<'a>,
}

/// A lookup response, borrowed from the bytes it came in and checked in full.
#[derive(Debug, Clone, Copy)]
pub struct LookupResponse<'a, L> {
    bytes: &'a [u8],
    directory: Directory<'a>,
    lookup: PhantomData<L>,
}

impl<'a, L: Lookup> LookupResponse<'a, L> {
    /// Checks a response payload in full, item by item.
    ///
    /// # Errors
    /// The first fault, with its position.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        DecodeError::need(payload.len(), HEADER, 0)?;
        check_version(payload, 0)?;
        let directory = Directory::decode(payload, HEADER, EntryRule { min_len: L::MIN_ITEM, ordered: true })?;
        for index in 0..directory.len() {
            let (at, item) = directory.item(index);
            L::check_item(item, at)?;
        }
        Ok(Self { bytes: payload, directory, lookup: PhantomData })
    }

    /// The provider's generation of this data.
    #[must_use]
    pub fn generation(&self) -> u64 {
        u64_at(self.bytes, 8)
    }

    /// Number of answers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directory.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Answer `index`, or `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Answer<'a, L>> {
        (index < self.len()).then(|| Self::view(self.directory, index))
    }

    /// The answers, in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Answer<'a, L>> + use<'a, L> {
        let directory = self.directory;
        (0..directory.len()).map(move |index| Self::view(directory, index))
    }

    fn view(directory: Directory<'a>, index: usize) -> Answer<'a, L> {
        let (key, outcome) = L::item(directory.item(index).1);
        Answer { key, outcome }
    }

    /// A payload that was checked before, or stitched from items that were.
    pub(crate) fn checked(payload: &'a [u8]) -> Self {
        Self { bytes: payload, directory: Directory::checked(payload, HEADER), lookup: PhantomData }
    }

    pub(crate) fn raw_item(&self, index: usize) -> &'a [u8] {
        self.directory.item(index).1
    }
}

/// Writes a lookup response from answers that fit. A server that must fit answers into a limit uses
/// [`LookupDispatch`](crate::LookupDispatch).
#[derive(Debug)]
pub struct LookupResponseBuilder<'o, L> {
    pub(crate) packed: Packed<'o>,
    lookup: PhantomData<L>,
}

impl<'o, L: Lookup> LookupResponseBuilder<'o, L> {
    /// Starts a response of at most `limit` bytes at the end of `out`, with room for `expected` answers (a hint).
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if not even the header fits.
    pub fn new(out: &'o mut Vec<u8>, limit: usize, generation: u64, expected: usize) -> Result<Self, EncodeError> {
        let mut packed = Packed::new(out, HEADER, expected, limit)?;
        put_u16(packed.header_mut(), 0, 1);
        put_u64(packed.header_mut(), 8, generation);
        Ok(Self { packed, lookup: PhantomData })
    }

    /// Adds one answer.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] beyond the limit, or what makes the answer unfit to be sent; the response stays as it
    /// was.
    pub fn push(&mut self, key: L::Key<'_>, outcome: &L::Outcome<'_>) -> Result<(), EncodeError> {
        let len = L::item_len(key, outcome)?;
        L::put_item(key, outcome, self.packed.item(len)?);
        Ok(())
    }

    /// Adds an item that was checked when it came in, byte for byte.
    pub(crate) fn push_raw(&mut self, item: &[u8]) -> Result<(), EncodeError> {
        self.packed.item(item.len())?.copy_from_slice(item);
        Ok(())
    }

    /// Completes the payload and returns its length.
    pub fn finish(self) -> usize {
        self.packed.finish()
    }
}
