//! What a client calls: typed methods, or numbers for bytes. One way for both.

use super::error::CallError;
use super::response::Response;
use crate::method::{Method, OneWay, StreamMethod, decode};
use ginnel_codec::{Codec, EncodeError};
use std::borrow::Cow;

/// A method that a [`Client`](crate::Client) calls for one answer: a [`Method`], or the number of one whose request and
/// answer are bytes.
///
/// It is implemented by these alone.
pub trait Callable: Copy + sealed::Coded {
    /// What it brings back.
    type Response;
    /// What a batch of calls brings back: one answer for each request, in their order.
    type Responses;

    #[doc(hidden)]
    fn is_idempotent(self) -> bool;
    #[doc(hidden)]
    fn read(response: Response) -> Result<Self::Response, CallError>;
    #[doc(hidden)]
    fn read_all(response: Response) -> Result<Self::Responses, CallError>;
}

/// A method that a [`Client`](crate::Client) calls for a stream: a [`StreamMethod`], or the number of one of bytes.
///
/// It is implemented by these alone.
pub trait Streaming: Copy + sealed::Coded {
    /// What the stream has.
    type Item;

    #[doc(hidden)]
    fn read(item: Response) -> Result<Self::Item, CallError>;
}

/// A method that a [`Client`](crate::Client) calls without an answer: a [`OneWay`], or the number of one of bytes.
///
/// It is implemented by these alone.
pub trait Notified: Copy + sealed::Coded {}

pub(crate) mod sealed {
    use super::{Cow, EncodeError};

    /// What all of them have.
    pub trait Coded {
        /// What it is called with.
        type Request: ?Sized;

        #[doc(hidden)]
        fn number(self) -> u16;
        #[doc(hidden)]
        fn write(request: &Self::Request) -> Result<Cow<'_, [u8]>, EncodeError>;
    }
}

impl sealed::Coded for u16 {
    type Request = [u8];

    fn number(self) -> u16 {
        self
    }

    fn write(request: &[u8]) -> Result<Cow<'_, [u8]>, EncodeError> {
        Ok(Cow::Borrowed(request))
    }
}

impl Callable for u16 {
    type Response = Response;
    type Responses = Response;

    fn is_idempotent(self) -> bool {
        false
    }

    fn read(response: Response) -> Result<Response, CallError> {
        Ok(response)
    }

    fn read_all(response: Response) -> Result<Response, CallError> {
        Ok(response)
    }
}

impl Streaming for u16 {
    type Item = Response;

    fn read(item: Response) -> Result<Response, CallError> {
        Ok(item)
    }
}

impl Notified for u16 {}

macro_rules! coded {
    ($name:ident<$($parameter:ident $(: $unsized:tt $sized:ident)?),*>) => {
        impl<$($parameter $(: $unsized $sized)?),*> sealed::Coded for $name<$($parameter),*>
        where
            C: Codec<Req>,
        {
            type Request = Req;

            fn number(self) -> u16 {
                self.id()
            }

            fn write(request: &Req) -> Result<Cow<'_, [u8]>, EncodeError> {
                let mut payload = Vec::new();
                C::encode(request, &mut payload)?;
                Ok(Cow::Owned(payload))
            }
        }
    };
}

coded!(Method<Req: ?Sized, Resp: ?Sized, C>);
coded!(StreamMethod<Req: ?Sized, Item: ?Sized, C>);
coded!(OneWay<Req: ?Sized, C>);

impl<Req: ?Sized, Resp: ?Sized, C: Codec<Req> + Codec<Resp>> Callable for Method<Req, Resp, C> {
    type Response = <C as Codec<Resp>>::Owned;
    type Responses = Vec<<C as Codec<Resp>>::Owned>;

    fn is_idempotent(self) -> bool {
        Method::is_idempotent(&self)
    }

    fn read(response: Response) -> Result<Self::Response, CallError> {
        Ok(decode::<Resp, C>(&response)?)
    }

    fn read_all(response: Response) -> Result<Self::Responses, CallError> {
        Ok(response.items().map(decode::<Resp, C>).collect::<Result<_, _>>()?)
    }
}

impl<Req: ?Sized, Item: ?Sized, C: Codec<Req> + Codec<Item>> Streaming for StreamMethod<Req, Item, C> {
    type Item = <C as Codec<Item>>::Owned;

    fn read(item: Response) -> Result<Self::Item, CallError> {
        Ok(decode::<Item, C>(&item)?)
    }
}

impl<Req: ?Sized, C: Codec<Req>> Notified for OneWay<Req, C> {}
