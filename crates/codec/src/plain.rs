//! Plain memory, and bytes.

use crate::codec::{Codec, Source};
use crate::error::{DecodeCause, DecodeError, EncodeError};
use crate::hash::fnv1a;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// No encoding: the memory of a `T: FromBytes + IntoBytes`, or the bytes of a `[u8]`.
#[derive(Debug)]
pub enum Plain {}

// Without the attribute, a type that is not plain memory is told which three traits of zerocopy it lacks, in three
// errors that do not mention codecs.
#[diagnostic::do_not_recommend]
impl<T: FromBytes + IntoBytes + Immutable> Codec<T> for Plain {
    type Owned = T;
    const KIND: &'static str = "plain";
    const LEN: Option<usize> = Some(size_of::<T>());

    fn layout(name: &str) -> u64 {
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u64);
        fnv1a(&[b"plain", name.as_bytes(), &size.to_le_bytes(), &align.to_le_bytes()])
    }

    #[inline(always)]
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    #[inline(always)]
    fn decode(bytes: &[u8]) -> Result<T, DecodeError> {
        T::read_from_bytes(bytes)
            .map_err(|_| DecodeError::new::<T>(bytes.len(), DecodeCause::Length { expected: size_of::<T>() }))
    }

    #[inline(always)]
    fn encoded<'a>(value: &'a T, _: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError> {
        Ok(value.as_bytes())
    }

    #[inline(always)]
    fn decode_from<S: Source>(
        source: S,
        _: &mut Vec<u8>,
        value: &mut Option<T>,
    ) -> Result<Result<(), DecodeError>, S::Fault> {
        source.take_exact(value.insert(T::new_zeroed()).as_mut_bytes())?;
        Ok(Ok(()))
    }
}

impl Codec<[u8]> for Plain {
    type Owned = Vec<u8>;
    const KIND: &'static str = "bytes";

    fn type_name() -> &'static str {
        "bytes"
    }

    #[inline]
    fn encode(value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        Ok(bytes.to_vec())
    }

    #[inline(always)]
    fn encoded<'a>(value: &'a [u8], _: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError> {
        Ok(value)
    }

    #[inline]
    fn decode_from<S: Source>(
        source: S,
        _: &mut Vec<u8>,
        value: &mut Option<Vec<u8>>,
    ) -> Result<Result<(), DecodeError>, S::Fault> {
        source.take(value.insert(Vec::new()))?;
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_memory_of_another_length_is_refused() {
        assert_eq!(<Plain as Codec<u32>>::decode(&7_u32.to_ne_bytes()).unwrap(), 7);
        let error = <Plain as Codec<u32>>::decode(&[1, 2, 3]).unwrap_err();
        assert_eq!(error.cause, DecodeCause::Length { expected: 4 });
        assert_eq!(error.to_string(), "3 bytes are no u32: it has 4 bytes");
    }

    #[test]
    fn layouts_are_the_ones_of_the_first_release() {
        // They stand in the headers of segments that other builds have made.
        assert_eq!(<Plain as Codec<[u8]>>::layout("bytes"), fnv1a(&[b"bytes", b"bytes"]));
        assert_eq!(
            <Plain as Codec<u32>>::layout("u32"),
            fnv1a(&[b"plain", b"u32", &[4, 0, 0, 0, 0, 0, 0, 0], &[4, 0, 0, 0, 0, 0, 0, 0]])
        );
    }
}
