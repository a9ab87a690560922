//! What a codec may refuse.

use std::borrow::Cow;

/// A value cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a value of type {type_name} cannot be encoded: {reason}")]
#[non_exhaustive]
pub struct EncodeError {
    /// The value's type.
    pub type_name: &'static str,
    /// What the encoder said.
    pub reason: Cow<'static, str>,
}

impl EncodeError {
    /// A value of type `T` cannot be encoded because of `reason`.
    #[must_use]
    pub fn new<T: ?Sized>(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { type_name: std::any::type_name::<T>(), reason: reason.into() }
    }
}

/// Bytes cannot be decoded: the sender's type is not the receiver's, or the sender lies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes are no {type_name}: {cause}")]
#[non_exhaustive]
pub struct DecodeError {
    /// The type that was expected.
    pub type_name: &'static str,
    /// How many bytes there were.
    pub len: usize,
    /// What is wrong with them.
    #[source]
    pub cause: DecodeCause,
}

impl DecodeError {
    /// `len` bytes are no `T` because of `cause`.
    #[must_use]
    pub fn new<T: ?Sized>(len: usize, cause: DecodeCause) -> Self {
        Self { type_name: std::any::type_name::<T>(), len, cause }
    }

    /// Like [`new`](Self::new), with a reason in words.
    #[must_use]
    pub fn malformed<T: ?Sized>(len: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new::<T>(len, DecodeCause::Malformed { reason: reason.into() })
    }
}

/// What is wrong with bytes that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeCause {
    /// They are not those of a value.
    #[error("{reason}")]
    Malformed {
        /// What the decoder said.
        reason: Cow<'static, str>,
    },
    /// They are too few or too many for a value that always has the same length.
    #[error("it has {expected} bytes")]
    Length {
        /// Its length.
        expected: usize,
    },
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
