//! How records become bytes.

use crate::bounded::{Bound, Bounded, Budget};
use ginnel_memory::ring::{Consumer, Fault};
use postcard::de_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
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

    /// Takes the next record, `len` bytes that a hostile writer may have chosen (bound what decoding them costs), out
    /// of the ring and puts it into `record`. The outer error means that nothing was taken, and then `record` may hold
    /// anything.
    ///
    /// A place to put it, because a value that is handed on inside of several `Result`s is copied once for each, in
    /// pieces that the processor cannot forward from the stores before: that cost more than all the rest of a read.
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
#[error("a record of {len} bytes is no {type_name}: {cause}")]
pub struct DecodeError {
    /// The type that was expected.
    pub type_name: &'static str,
    /// The record's length.
    pub len: usize,
    /// What is wrong with it.
    #[source]
    pub cause: DecodeCause,
}

/// What is wrong with a record that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeCause {
    /// Its bytes are not those of a value.
    #[error(transparent)]
    Malformed(#[from] postcard::Error),
    /// Its values lie too deep in each other.
    #[error("its values lie more than {limit} deep in each other")]
    TooDeep {
        /// How deep they may.
        limit: usize,
    },
    /// It has too many elements that take no bytes, such as `()`.
    #[error("it has more than {limit} elements of no bytes")]
    TooManyEmpty {
        /// How many it may have.
        limit: usize,
    },
    /// Something follows the value.
    #[error("{bytes} bytes follow its value")]
    Trailing {
        /// How many bytes.
        bytes: usize,
    },
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
///
/// A reader decodes what a hostile writer may have written, so there are bounds, and what goes beyond them is a
/// [`DecodeError`]: values lie at most [`MAX_DEPTH`](Self::MAX_DEPTH) deep in each other, at most
/// [`MAX_EMPTY`](Self::MAX_EMPTY) elements take no bytes, and nothing follows the value. What a decoded value may take
/// in memory is up to its type: about its size for each byte of the record. A `Deserialize` that is written by hand is
/// trusted to do no more than it is given.
#[derive(Debug)]
pub enum Postcard {}

impl Postcard {
    /// How deep structs, enums, options, sequences and maps may lie in each other.
    pub const MAX_DEPTH: usize = 128;
    /// How many elements of sequences and maps in one record may take no bytes.
    pub const MAX_EMPTY: usize = 1 << 16;
}

/// The bytes of a record, counted as they are decoded.
struct Counted<'de, 'c> {
    bytes: &'de [u8],
    left: &'c Cell<usize>,
}

impl<'de, 'c> Counted<'de, 'c> {
    fn new(bytes: &'de [u8], left: &'c Cell<usize>) -> Self {
        left.set(bytes.len());
        Self { bytes, left }
    }
}

impl<'de, 'c: 'de> Flavor<'de> for Counted<'de, 'c> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        self.try_take_n(1).map(|bytes| bytes[0])
    }

    #[inline]
    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.bytes = rest;
        self.left.set(rest.len());
        Ok(taken)
    }

    fn finalize(self) -> postcard::Result<&'de [u8]> {
        Ok(self.bytes)
    }
}

fn from_postcard<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeCause> {
    let left = Cell::new(0);
    let mut decoder = postcard::Deserializer::from_flavor(Counted::new(bytes, &left));
    let budget = Budget::new(Postcard::MAX_DEPTH, Postcard::MAX_EMPTY, &left);
    let value = T::deserialize(Bounded::new(&mut decoder, &budget));
    match (budget.broken(), value) {
        (Some(Bound::Depth), _) => Err(DecodeCause::TooDeep { limit: Postcard::MAX_DEPTH }),
        (Some(Bound::Empty), _) => Err(DecodeCause::TooManyEmpty { limit: Postcard::MAX_EMPTY }),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) if left.get() > 0 => Err(DecodeCause::Trailing { bytes: left.get() }),
        (None, Ok(value)) => Ok(value),
    }
}

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
        Ok(match from_postcard(scratch) {
            Ok(value) => {
                *record = Some(value);
                Ok(())
            }
            Err(cause) => Err(DecodeError { type_name: std::any::type_name::<T>(), len, cause }),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Node(Box<Tree>),
        Both { left: Box<Tree>, right: Vec<Tree> },
        Pair(u8, Option<Box<Tree>>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Whole {
        tree: Tree,
        map: BTreeMap<String, Vec<(u16, ())>>,
        bytes: Vec<u8>,
        nothing: (),
        number: (i128, f64, char, bool),
    }

    fn refused<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) -> DecodeCause {
        from_postcard::<T>(bytes).unwrap_err()
    }

    #[test]
    fn what_was_encoded_is_decoded_whatever_its_shape() {
        let tree = Tree::Both { left: Box::new(Tree::Node(Box::new(Tree::Leaf))), right: vec![Tree::Pair(7, None)] };
        let map = [("one".to_owned(), vec![(1, ()), (2, ())]), (String::new(), vec![])].into();
        let whole = Whole { tree, map, bytes: vec![1; 300], nothing: (), number: (-5, 0.5, 'x', true) };
        let bytes = postcard::to_allocvec(&whole).unwrap();
        assert_eq!(from_postcard::<Whole>(&bytes).unwrap(), whole);
        for cut in 0..bytes.len() {
            assert!(from_postcard::<Whole>(&bytes[..cut]).is_err(), "{cut}");
        }
        let many = vec![(); Postcard::MAX_EMPTY];
        assert_eq!(from_postcard::<Vec<()>>(&postcard::to_allocvec(&many).unwrap()).unwrap(), many);
    }

    #[test]
    fn a_record_that_recurses_is_refused_before_the_stack_ends() {
        let limit = Postcard::MAX_DEPTH;
        // By the shape of each kind of variant: within a newtype, a struct, a sequence, an option.
        for step in [&[1_u8] as &[u8], &[2], &[2, 0, 1], &[3, 0, 1]] {
            assert_eq!(refused::<Tree>(&step.repeat(100_000)), DecodeCause::TooDeep { limit });
        }
    }

    #[test]
    fn a_count_of_elements_that_take_no_bytes_is_no_work_without_end() {
        let limit = Postcard::MAX_EMPTY;
        let huge = postcard::to_allocvec(&u64::MAX).unwrap();
        assert_eq!(refused::<Vec<()>>(&huge), DecodeCause::TooManyEmpty { limit });
        assert_eq!(refused::<Vec<[(); 8]>>(&huge), DecodeCause::TooManyEmpty { limit });
        assert_eq!(refused::<BTreeMap<(), ()>>(&huge), DecodeCause::TooManyEmpty { limit });
        assert!(
            matches!(refused::<Vec<u64>>(&huge), DecodeCause::Malformed(_)),
            "and memory for as many as there are bytes"
        );
    }

    #[test]
    fn what_follows_a_value_is_not_ignored() {
        assert_eq!(refused::<u8>(&[1, 2, 3]), DecodeCause::Trailing { bytes: 2 });
    }
}
