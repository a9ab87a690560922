//! How values become bytes, for channels (records) and services (requests and responses) alike.
//!
//! | codec | carries | as |
//! |---|---|---|
//! | [`Plain`] | `T: FromBytes + IntoBytes + Immutable` of [`zerocopy`] | its memory, without any encoding |
//! | [`Plain`] | `[u8]` | its bytes |
//! | [`Postcard`] | any serde type | the compact [postcard](https://docs.rs/postcard) format |
//! | your own | whatever it can | whatever it makes of it: see [`Codec`] |
//!
//! A codec is a type without values: it is named in the type of a channel or of a method, and both sides name the same.
//!
//! The crate is portable: nothing in it knows an operating system.

#![forbid(unsafe_code)]

mod bounded;
mod codec;
mod error;
mod hash;
mod plain;
mod postcard;

pub use crate::postcard::Postcard;
pub use codec::{Codec, Source};
pub use error::{DecodeCause, DecodeError, EncodeError};
pub use hash::fnv1a;
pub use plain::Plain;
