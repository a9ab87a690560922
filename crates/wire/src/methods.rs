//! METHODS and METHODS_ACK: what the methods of an interface are, each with a hash of its own, so that two versions of
//! an interface can use the methods that did not change.
//!
//! ```text
//! METHODS      item_count x u32 method, ascending; none asks for all
//! METHODS_ACK  item_count x { u16 method, u16 flags, u32 reserved 0, u64 hash }, methods ascending
//!              flags: 0x0002 one-way, 0x0004 stream, as in requests
//! ```

use crate::bytes::{put, u16_at, u32_at, u64_at};
use crate::frame::{FLAG_ONE_WAY, FLAG_STREAM, Reply};
use alloc::vec::Vec;

/// Bytes of one entry of METHODS.
pub const METHOD_LEN: usize = 4;
/// Bytes of one entry of METHODS_ACK.
pub const METHOD_HASH_LEN: usize = 16;

/// What a server says about one of its methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodHash {
    /// Its number: the `code` of its requests.
    pub method: u16,
    /// What it answers with.
    pub reply: Reply,
    /// Hash of its types and flags.
    pub hash: u64,
}

/// Why a payload is no list of methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodsError {
    /// Not as long as its number of entries says.
    #[error("list of {count} methods needs {needed} bytes, the payload has {len}")]
    Length {
        /// Entries by the envelope.
        count: u32,
        /// Bytes that they need.
        needed: u64,
        /// Bytes there were.
        len: usize,
    },
    /// A number above 65535.
    #[error("method {index} of the list is {found}, more than 65535")]
    Number {
        /// Which entry.
        index: usize,
        /// What was there.
        found: u32,
    },
    /// Not above the entry before.
    #[error("method {index} of the list is {found}, not above the {before} before it")]
    Order {
        /// Which entry.
        index: usize,
        /// What was there.
        found: u16,
        /// The entry before.
        before: u16,
    },
    /// Flags that no method has.
    #[error("method {index} of the list has flags {found:#x}, not 0, 2 or 4")]
    Flags {
        /// Which entry.
        index: usize,
        /// What was there.
        found: u16,
    },
    /// The reserved field is not zero.
    #[error("method {index} of the list has {found:#x} in its reserved field, not 0")]
    Reserved {
        /// Which entry.
        index: usize,
        /// What was there.
        found: u32,
    },
}

/// The methods that METHODS asks about, in ascending order; none for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodList<'a>(&'a [u8]);

impl<'a> MethodList<'a> {
    /// Asks for all methods.
    pub const ALL: Self = Self(&[]);

    /// Checks the payload of a METHODS frame with `count` entries.
    ///
    /// # Errors
    /// What is wrong with the first entry that is wrong.
    pub fn parse(payload: &'a [u8], count: u32) -> Result<Self, MethodsError> {
        check_len(payload, count, METHOD_LEN)?;
        let mut before = None;
        for (index, entry) in payload.chunks_exact(METHOD_LEN).enumerate() {
            let found = u32_at(entry, 0);
            let method = u16::try_from(found).map_err(|_| MethodsError::Number { index, found })?;
            before = Some(check_order(index, method, before)?);
        }
        Ok(Self(payload))
    }

    /// The payload that asks for `methods`, sorted and without doubles.
    #[must_use]
    pub fn encode(methods: &[u16]) -> Vec<u8> {
        let mut methods = methods.to_vec();
        methods.sort_unstable();
        methods.dedup();
        methods.iter().flat_map(|&method| u32::from(method).to_ne_bytes()).collect()
    }

    /// The methods asked about; none means all.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<'a> {
        // `parse` has checked that each fits.
        self.0.chunks_exact(METHOD_LEN).map(|entry| u32_at(entry, 0) as u16)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / METHOD_LEN
    }

    /// Whether all are asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The payload.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// The methods that a server has, of those that were asked about, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodHashes<'a>(&'a [u8]);

impl<'a> MethodHashes<'a> {
    /// Checks the payload of a METHODS_ACK frame with `count` entries.
    ///
    /// # Errors
    /// What is wrong with the first entry that is wrong.
    pub fn parse(payload: &'a [u8], count: u32) -> Result<Self, MethodsError> {
        check_len(payload, count, METHOD_HASH_LEN)?;
        let mut before = None;
        for (index, entry) in payload.chunks_exact(METHOD_HASH_LEN).enumerate() {
            before = Some(check_order(index, u16_at(entry, 0), before)?);
            let flags = u16_at(entry, 2);
            if reply_of(flags).is_none() {
                return Err(MethodsError::Flags { index, found: flags });
            }
            if u32_at(entry, 4) != 0 {
                return Err(MethodsError::Reserved { index, found: u32_at(entry, 4) });
            }
        }
        Ok(Self(payload))
    }

    /// The payload that tells of `methods`, sorted; of doubles the first is kept.
    #[must_use]
    pub fn encode(methods: &[MethodHash]) -> Vec<u8> {
        let mut methods = methods.to_vec();
        methods.sort_by_key(|entry| entry.method);
        methods.dedup_by_key(|entry| entry.method);
        let mut out = alloc::vec![0; methods.len() * METHOD_HASH_LEN];
        for (entry, bytes) in methods.iter().zip(out.chunks_exact_mut(METHOD_HASH_LEN)) {
            put(bytes, 0, entry.method.to_ne_bytes());
            put(bytes, 2, entry.reply.flags().to_ne_bytes());
            put(bytes, 8, entry.hash.to_ne_bytes());
        }
        out
    }

    /// The methods.
    pub fn iter(&self) -> impl Iterator<Item = MethodHash> + use<'a> {
        self.0.chunks_exact(METHOD_HASH_LEN).map(entry)
    }

    /// What is said about `method`, by binary search.
    #[must_use]
    pub fn get(&self, method: u16) -> Option<MethodHash> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let found = entry(&self.0[middle * METHOD_HASH_LEN..]);
            match found.method.cmp(&method) {
                core::cmp::Ordering::Equal => return Some(found),
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / METHOD_HASH_LEN
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The payload.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// An entry that `parse` has checked.
fn entry(bytes: &[u8]) -> MethodHash {
    let reply = reply_of(u16_at(bytes, 2)).unwrap_or(Reply::One);
    MethodHash { method: u16_at(bytes, 0), reply, hash: u64_at(bytes, 8) }
}

fn reply_of(flags: u16) -> Option<Reply> {
    match flags {
        0 => Some(Reply::One),
        FLAG_ONE_WAY => Some(Reply::None),
        FLAG_STREAM => Some(Reply::Stream),
        _ => None,
    }
}

fn check_len(payload: &[u8], count: u32, each: usize) -> Result<(), MethodsError> {
    let needed = u64::from(count) * each as u64;
    if needed == payload.len() as u64 {
        Ok(())
    } else {
        Err(MethodsError::Length { count, needed, len: payload.len() })
    }
}

fn check_order(index: usize, found: u16, before: Option<u16>) -> Result<u16, MethodsError> {
    match before {
        Some(before) if found <= before => Err(MethodsError::Order { index, found, before }),
        _ => Ok(found),
    }
}
