//! Methods as values: number, name and types, known to client and server alike.

use ginnel_codec::{Codec, DecodeCause, DecodeError, Postcard, fnv1a};
use std::fmt;
use std::marker::PhantomData;

/// A method that has one answer: requests of type `Req`, responses of type `Resp`, both carried by the codec `C`.
///
/// It is a constant that client and server share:
///
/// ```
/// use ginnel_service::{Method, Plain};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Get {
///     key: String,
/// }
///
/// const GET: Method<Get, Option<Vec<u8>>> = Method::new(1, "get").idempotent();
/// const SHOUT: Method<[u8], [u8], Plain> = Method::new(2, "shout");
/// const ADD: Method<(u64, u64), u64> = Method::new(3, "add");
///
/// assert_eq!((GET.id(), SHOUT.name()), (1, "shout"));
/// assert_ne!(GET.hash(), ADD.hash());
/// ```
pub struct Method<Req: ?Sized, Resp: ?Sized, C = Postcard> {
    id: u16,
    name: &'static str,
    idempotent: bool,
    _types: Types<Req, Resp, C>,
}

/// A method that answers with a stream: requests of type `Req`, any number of items of type `Item`, then the end.
pub struct StreamMethod<Req: ?Sized, Item: ?Sized, C = Postcard> {
    id: u16,
    name: &'static str,
    _types: Types<Req, Item, C>,
}

/// A method that has no answer: requests of type `Req`.
pub struct OneWay<Req: ?Sized, C = Postcard> {
    id: u16,
    name: &'static str,
    _types: Types<Req, (), C>,
}

/// No value of any of them: what has it may go to other threads, whatever the types may.
pub(crate) type Types<Req, Resp, C> = PhantomData<(fn(&Req), fn(&Resp), fn(C))>;

impl<Req: ?Sized, Resp: ?Sized, C> Method<Req, Resp, C> {
    /// The method of this number. The name is for people.
    #[must_use]
    pub const fn new(id: u16, name: &'static str) -> Self {
        Self { id, name, idempotent: false, _types: PhantomData }
    }

    /// Says that a request may be executed twice: a client then sends it once more if the connection breaks before the
    /// answer.
    #[must_use]
    pub const fn idempotent(self) -> Self {
        Self { idempotent: true, ..self }
    }

    /// Whether a request may be executed twice.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// What METHODS tells of it (see `docs/spec/ginnel-wire-2.md`): [`fnv1a`] over
    ///
    /// 1. the name,
    /// 2. the number, 2 bytes, little-endian,
    /// 3. the form: `one`, `stream` or `none`,
    /// 4. [`KIND`](Codec::KIND) of the request's codec,
    /// 5. its [`LEN`](Codec::LEN), 8 bytes, little-endian, all ones where it varies,
    /// 6. and 7. the same of the response's or the items' codec, if there is one.
    ///
    /// 0 stands for no hash, and is 1 instead. The types' fields are not in it: a schema knows them.
    #[must_use]
    pub const fn hash(&self) -> u64
    where
        C: Codec<Req> + Codec<Resp>,
    {
        hash(self.id, self.name, "one", kind::<Req, C>(), Some(kind::<Resp, C>()))
    }
}

impl<Req: ?Sized, Item: ?Sized, C> StreamMethod<Req, Item, C> {
    /// The method of this number. The name is for people.
    #[must_use]
    pub const fn new(id: u16, name: &'static str) -> Self {
        Self { id, name, _types: PhantomData }
    }

    /// See [`Method::hash`].
    #[must_use]
    pub const fn hash(&self) -> u64
    where
        C: Codec<Req> + Codec<Item>,
    {
        hash(self.id, self.name, "stream", kind::<Req, C>(), Some(kind::<Item, C>()))
    }
}

impl<Req: ?Sized, C> OneWay<Req, C> {
    /// The method of this number. The name is for people.
    #[must_use]
    pub const fn new(id: u16, name: &'static str) -> Self {
        Self { id, name, _types: PhantomData }
    }

    /// See [`Method::hash`].
    #[must_use]
    pub const fn hash(&self) -> u64
    where
        C: Codec<Req>,
    {
        hash(self.id, self.name, "none", kind::<Req, C>(), None)
    }
}

/// What is alike in all of them. Derives would ask the same of the types, which are not there.
macro_rules! method {
    ($name:ident<$($parameter:ident $(: $unsized:tt $sized:ident)?),*>) => {
        impl<$($parameter $(: $unsized $sized)?),*> $name<$($parameter),*> {
            /// Its number, which goes over the wire.
            #[must_use]
            pub const fn id(&self) -> u16 {
                self.id
            }

            /// Its name, for people.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                self.name
            }
        }

        impl<$($parameter $(: $unsized $sized)?),*> Clone for $name<$($parameter),*> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($parameter $(: $unsized $sized)?),*> Copy for $name<$($parameter),*> {}

        impl<$($parameter $(: $unsized $sized)?),*> fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut out = f.debug_struct(stringify!($name));
                out.field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
            }
        }
    };
}

method!(Method<Req: ?Sized, Resp: ?Sized, C>);
method!(StreamMethod<Req: ?Sized, Item: ?Sized, C>);
method!(OneWay<Req: ?Sized, C>);

/// Kind and length of a codec.
type Kind = (&'static str, Option<usize>);

const fn kind<T: ?Sized, C: Codec<T>>() -> Kind {
    (C::KIND, C::LEN)
}

const fn hash(id: u16, name: &str, form: &str, request: Kind, response: Option<Kind>) -> u64 {
    let (id, of_request) = (id.to_le_bytes(), wire_len(request.1));
    let hash = match response {
        Some(response) => fnv1a(&[
            name.as_bytes(),
            &id,
            form.as_bytes(),
            request.0.as_bytes(),
            &of_request,
            response.0.as_bytes(),
            &wire_len(response.1),
        ]),
        None => fnv1a(&[name.as_bytes(), &id, form.as_bytes(), request.0.as_bytes(), &of_request]),
    };
    if hash == 0 { 1 } else { hash }
}

const fn wire_len(len: Option<usize>) -> [u8; 8] {
    match len {
        Some(len) => (len as u64).to_le_bytes(),
        None => u64::MAX.to_le_bytes(),
    }
}

/// Decodes a whole payload.
pub(crate) fn decode<T: ?Sized, C: Codec<T>>(payload: &[u8]) -> Result<C::Owned, DecodeError> {
    match C::LEN {
        Some(expected) if expected != payload.len() => {
            Err(DecodeError::new::<T>(payload.len(), DecodeCause::Length { expected }))
        }
        _ => C::decode(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ginnel_codec::Plain;

    #[test]
    fn a_hash_is_what_its_documentation_says() {
        const ADD: Method<(u64, u64), u32, Postcard> = Method::new(0x0102, "add");
        const HASH: u64 = ADD.hash();
        let varying = [0xff; 8];
        let parts: [&[u8]; 7] = [b"add", &[2, 1], b"one", b"postcard", &varying, b"postcard", &varying];
        assert_eq!(HASH, fnv1a(&parts));
        const NOTE: OneWay<u32, Plain> = OneWay::new(3, "note");
        assert_eq!(NOTE.hash(), fnv1a(&[b"note", &[3, 0], b"none", b"plain", &[4, 0, 0, 0, 0, 0, 0, 0]]));
    }

    #[test]
    fn what_changes_the_bytes_changes_the_hash() {
        let hashes = [
            Method::<[u8], [u8], Plain>::new(1, "get").hash(),
            Method::<[u8], [u8], Plain>::new(2, "get").hash(),
            Method::<[u8], [u8], Plain>::new(1, "put").hash(),
            Method::<[u8], u32, Plain>::new(1, "get").hash(),
            Method::<[u8], u64, Plain>::new(1, "get").hash(),
            Method::<Vec<u8>, Vec<u8>>::new(1, "get").hash(),
            StreamMethod::<[u8], [u8], Plain>::new(1, "get").hash(),
            OneWay::<[u8], Plain>::new(1, "get").hash(),
        ];
        for (at, hash) in hashes.iter().enumerate() {
            assert!(!hashes[at + 1..].contains(hash), "{at}");
        }
        assert_eq!(Method::<[u8], [u8], Plain>::new(1, "get").idempotent().hash(), hashes[0], "not what a client does");
    }
}
