//! How records become bytes.

use ginnel_memory::ring::{Consumer, Fault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How a `T` travels. Implemented by [`Plain`] and [`Postcard`]; implement it for an encoding of your own.
pub trait Codec<T: ?Sized> {
    /// What a reader gets.
    type Owned;

    /// The length of every record, `None` if it varies. Fixed records are the faster ones.
    const LEN: Option<usize>;

    /// Tells records of one layout from another's; a reader refuses a channel with another hash. `name` identifies the
    /// type to both sides.
    fn layout(name: &str) -> u64;

    /// What the type is called where nothing else was said: its Rust path.
    fn type_name() -> &'static str {
        std::any::type_name::<T>()
    }

    /// The bytes of `value`, possibly in `scratch`.
    fn encode<'a>(value: &'a T, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError>;

    /// Takes the next record, `len` bytes, out of the ring and puts it into `record`. The outer error means that nothing was
    /// taken, and then `record` may hold anything.
    ///
    /// A place to put it, because a value that is handed on inside of several `Result`s is copied once for each, in pieces that
    /// the processor cannot forward from the stores before: that cost more than all the rest of a read.
    fn decode(
        from: &mut Consumer,
        len: usize,
        scratch: &mut Vec<u8>,
        record: &mut Option<Self::Owned>,
    ) -> Result<Result<(), DecodeError>, Fault>;
}

/// A record cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[error("a record of type {type_name} cannot be encoded: {source}")]
pub struct EncodeError {
    /// The record's type.
    pub type_name: &'static str,
    /// What the encoder said.
    pub source: postcard::Error,
}

/// A record cannot be decoded: the writer's type is not this reader's.
#[derive(Debug, thiserror::Error)]
#[error("a record of {len} bytes is no {type_name}: {source}")]
pub struct DecodeError {
    /// The type that was expected.
    pub type_name: &'static str,
    /// The record's length.
    pub len: usize,
    /// What the decoder said.
    pub source: postcard::Error,
}

/// No encoding: the memory of a `T: FromBytes + IntoBytes`, or the bytes of a `[u8]`.
#[derive(Debug)]
pub enum Plain {}

impl<T: FromBytes + IntoBytes + Immutable> Codec<T> for Plain {
    type Owned = T;
    const LEN: Option<usize> = Some(size_of::<T>());

    fn layout(name: &str) -> u64 {
        fnv([b"plain".as_slice(), name.as_bytes(), &size_of::<T>().to_le_bytes(), &align_of::<T>().to_le_bytes()])
    }

    #[inline(always)]
    fn encode<'a>(value: &'a T, _: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError> {
        Ok(value.as_bytes())
    }

    #[inline(always)]
    fn decode(
        from: &mut Consumer,
        _: usize,
        _: &mut Vec<u8>,
        record: &mut Option<T>,
    ) -> Result<Result<(), DecodeError>, Fault> {
        from.take(record.insert(T::new_zeroed()).as_mut_bytes())?;
        Ok(Ok(()))
    }
}

impl Codec<[u8]> for Plain {
    type Owned = Vec<u8>;
    const LEN: Option<usize> = None;

    fn layout(name: &str) -> u64 {
        fnv([b"bytes".as_slice(), name.as_bytes()])
    }

    fn type_name() -> &'static str {
        "bytes"
    }

    #[inline(always)]
    fn encode<'a>(value: &'a [u8], _: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError> {
        Ok(value)
    }

    fn decode(
        from: &mut Consumer,
        len: usize,
        _: &mut Vec<u8>,
        record: &mut Option<Vec<u8>>,
    ) -> Result<Result<(), DecodeError>, Fault> {
        from.take_vec(len, record.insert(Vec::new()))?;
        Ok(Ok(()))
    }
}

/// Any serde type, in the compact [postcard](https://docs.rs/postcard) format.
#[derive(Debug)]
pub enum Postcard {}

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    type Owned = T;
    const LEN: Option<usize> = None;

    fn layout(name: &str) -> u64 {
        fnv([b"postcard".as_slice(), name.as_bytes()])
    }

    fn encode<'a>(value: &'a T, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError> {
        scratch.clear();
        // The vector goes in and comes back, so its memory is used again and again.
        *scratch = postcard::to_extend(value, std::mem::take(scratch))
            .map_err(|source| EncodeError { type_name: std::any::type_name::<T>(), source })?;
        Ok(scratch)
    }

    fn decode(
        from: &mut Consumer,
        len: usize,
        scratch: &mut Vec<u8>,
        record: &mut Option<T>,
    ) -> Result<Result<(), DecodeError>, Fault> {
        from.take_vec(len, scratch)?;
        Ok(match postcard::from_bytes(scratch) {
            Ok(value) => {
                *record = Some(value);
                Ok(())
            }
            Err(source) => Err(DecodeError { type_name: std::any::type_name::<T>(), len, source }),
        })
    }
}

/// FNV-1a, 64 bit (<http://www.isthe.com/chongo/tech/comp/fnv/>), over the parts with a separator.
pub(crate) fn fnv<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for &byte in part.iter().chain([&0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}
