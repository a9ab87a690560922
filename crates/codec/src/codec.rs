//! What a codec is.

use crate::error::{DecodeError, EncodeError};
use crate::hash::fnv1a;

/// How a `T` travels. [`Plain`](crate::Plain) and [`Postcard`](crate::Postcard) are there; implement it for an encoding
/// of your own:
///
/// ```
/// use ginnel_codec::{Codec, DecodeError, EncodeError};
///
/// /// Words, one after the other, with a space between them.
/// enum Spoken {}
///
/// impl Codec<Vec<String>> for Spoken {
///     type Owned = Vec<String>;
///     const KIND: &'static str = "spoken";
///
///     fn encode(words: &Vec<String>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
///         if words.iter().any(|word| word.contains(' ')) {
///             return Err(EncodeError::new::<Vec<String>>("a word has a space in it"));
///         }
///         out.extend_from_slice(words.join(" ").as_bytes());
///         Ok(())
///     }
///
///     fn decode(bytes: &[u8]) -> Result<Vec<String>, DecodeError> {
///         let text = std::str::from_utf8(bytes)
///             .map_err(|error| DecodeError::malformed::<Vec<String>>(bytes.len(), error.to_string()))?;
///         Ok(text.split(' ').map(str::to_owned).collect())
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Spoken::encode(&vec!["hello".into(), "world".into()], &mut bytes)?;
/// assert_eq!(bytes, b"hello world");
/// assert_eq!(Spoken::decode(&bytes)?, ["hello", "world"]);
/// assert!(Spoken::decode(&[0xff]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "the codec `{Self}` cannot carry `{T}`",
    label = "`{Self}` is no codec of `{T}`",
    note = "where a channel's type names no codec, it is `Plain`; it carries bytes, and what derives `FromBytes`, \
            `IntoBytes` and `Immutable` of zerocopy",
    note = "`Postcard` carries what implements `Serialize` and `Deserialize` of serde: name it behind the type, as in \
            `Writer<{T}, Postcard>`"
)]
pub trait Codec<T: ?Sized> {
    /// What the receiver gets.
    type Owned;

    /// Tells the encoding from others, in the hashes that both sides compare. Choose a word that nobody else chooses,
    /// and another one when the encoding changes.
    const KIND: &'static str;

    /// The length of every encoded value, `None` if it varies. Fixed ones are the faster ones; bytes of another length
    /// are then never given to [`decode`](Self::decode).
    const LEN: Option<usize> = None;

    /// Tells values of one layout from another's: a reader refuses a channel with another hash. `name` identifies the
    /// type to both sides.
    #[must_use]
    fn layout(name: &str) -> u64 {
        fnv1a(&[Self::KIND.as_bytes(), name.as_bytes()])
    }

    /// What the type is called where nothing else was said: its Rust path.
    #[must_use]
    fn type_name() -> &'static str {
        std::any::type_name::<T>()
    }

    /// Appends the bytes of `value` to `out`.
    ///
    /// # Errors
    /// Why it has none. What was appended meanwhile is not used.
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// The value of `bytes`, which a hostile sender may have chosen: bound what decoding them costs in time, memory and
    /// depth of the stack.
    ///
    /// # Errors
    /// Why they are no value.
    fn decode(bytes: &[u8]) -> Result<Self::Owned, DecodeError>;

    /// The bytes of `value` where they are, if its memory is its encoding; else they are encoded into `scratch`.
    ///
    /// # Errors
    /// See [`encode`](Self::encode).
    #[inline]
    fn encoded<'a>(value: &'a T, scratch: &'a mut Vec<u8>) -> Result<&'a [u8], EncodeError> {
        scratch.clear();
        Self::encode(value, scratch)?;
        Ok(scratch)
    }

    /// Takes the bytes from where they are and puts their value into `value`. The outer error says that nothing was
    /// taken, and then `value` may hold anything.
    ///
    /// Only a codec that can do without the copy to `scratch` has a reason to provide it.
    //
    // A place to put it, because a value that is handed on inside of several `Result`s is copied once for each, in
    // pieces that the processor cannot forward from the stores before: that cost more than all the rest of a read.
    #[inline]
    fn decode_from<S: Source>(
        source: S,
        scratch: &mut Vec<u8>,
        value: &mut Option<Self::Owned>,
    ) -> Result<Result<(), DecodeError>, S::Fault> {
        source.take(scratch)?;
        Ok(Self::decode(scratch).map(|decoded| *value = Some(decoded)))
    }
}

/// Where the bytes of one value are: in memory that another process may write, for example. They are copied out once,
/// and looked at afterwards.
pub trait Source {
    /// Why they cannot be had.
    type Fault;

    /// Copies exactly as many bytes as `out` has, which is the [`LEN`](Codec::LEN) of a codec that asks.
    ///
    /// # Errors
    /// They cannot be had.
    fn take_exact(self, out: &mut [u8]) -> Result<(), Self::Fault>;

    /// Makes `out` exactly the bytes.
    ///
    /// # Errors
    /// They cannot be had.
    fn take(self, out: &mut Vec<u8>) -> Result<(), Self::Fault>;
}
