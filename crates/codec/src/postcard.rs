//! Serde types, within bounds.

use crate::bounded::{Bound, Bounded, Budget};
use crate::codec::Codec;
use crate::error::{DecodeCause, DecodeError, EncodeError};
use postcard::de_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;

/// Any serde type, in the compact [postcard](https://docs.rs/postcard) format.
///
/// A receiver decodes what a hostile sender may have written, so there are bounds, and what goes beyond them is a
/// [`DecodeError`]: values lie at most [`MAX_DEPTH`](Self::MAX_DEPTH) deep in each other, at most
/// [`MAX_EMPTY`](Self::MAX_EMPTY) elements take no bytes, and nothing follows the value. What a decoded value may take
/// in memory is up to its type: about its size for each byte of it. A `Deserialize` that is written by hand is
/// trusted to do no more than it is given.
#[derive(Debug)]
pub enum Postcard {}

impl Postcard {
    /// How deep structs, enums, options, sequences and maps may lie in each other.
    pub const MAX_DEPTH: usize = 128;
    /// How many elements of sequences and maps in one value may take no bytes.
    pub const MAX_EMPTY: usize = 1 << 16;
}

/// The bytes of a value, counted as they are decoded.
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
        (None, Err(error)) => Err(DecodeCause::Malformed { reason: error.to_string().into() }),
        (None, Ok(_)) if left.get() > 0 => Err(DecodeCause::Trailing { bytes: left.get() }),
        (None, Ok(value)) => Ok(value),
    }
}

/// Appends to a vector.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    type Owned = T;
    const KIND: &'static str = "postcard";

    #[inline]
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        postcard::serialize_with_flavor(value, Append(out)).map_err(|error| EncodeError::new::<T>(error.to_string()))
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        from_postcard(bytes).map_err(|cause| DecodeError::new::<T>(bytes.len(), cause))
    }
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
            matches!(refused::<Vec<u64>>(&huge), DecodeCause::Malformed { .. }),
            "and memory for as many as there are bytes"
        );
    }

    #[test]
    fn what_follows_a_value_is_not_ignored() {
        assert_eq!(refused::<u8>(&[1, 2, 3]), DecodeCause::Trailing { bytes: 2 });
    }
}
