//! A stream of typed items.

use crate::context::Context;
use crate::failure::Failure;
use crate::method::Types;
use crate::sink::{Sink, SinkError};
use ginnel_codec::{Codec, EncodeError, Postcard};
use std::fmt;
use std::marker::PhantomData;

/// Answers a streaming call with items of type `Item`, then [`finish`](Self::finish) or [`fail`](Self::fail). One that
/// is dropped before answers [`Failure::Aborted`]. It may go to another thread.
///
/// What it takes is bounded as a [`Sink`] is: items wait for the client, and the handler with them.
#[must_use = "a stream that is dropped answers ABORTED"]
pub struct ItemSink<Item: ?Sized, C = Postcard> {
    sink: Sink,
    _types: Types<(), Item, C>,
}

impl<Item: ?Sized, C> ItemSink<Item, C> {
    pub(super) fn new(sink: Sink) -> Self {
        Self { sink, _types: PhantomData }
    }

    /// The circumstances of the call.
    #[must_use]
    pub fn context(&self) -> &Context {
        self.sink.context()
    }

    /// Sends an item; blocks while the client takes none. See [`Sink::item`].
    ///
    /// # Errors
    /// See [`SinkError`].
    pub fn item(&mut self, item: &Item) -> Result<(), SinkError>
    where
        C: Codec<Item>,
    {
        self.sink.item(encoded::<Item, C>(item)?)
    }

    /// Sends an item if the client takes one now. Never blocks. See [`Sink::try_item`].
    ///
    /// # Errors
    /// See [`SinkError`].
    pub fn try_item(&mut self, item: &Item) -> Result<(), SinkError>
    where
        C: Codec<Item>,
    {
        self.sink.try_item(encoded::<Item, C>(item)?)
    }

    /// Sends an item; waits, asynchronously, while the client takes none.
    ///
    /// # Errors
    /// See [`SinkError`].
    pub async fn item_async(&mut self, item: &Item) -> Result<(), SinkError>
    where
        C: Codec<Item>,
    {
        let bytes = encoded::<Item, C>(item)?;
        self.sink.item_async(bytes).await
    }

    /// Ends the stream: the client has all of it.
    pub fn finish(self) {
        self.sink.finish();
    }

    /// Ends the stream with an error.
    pub fn fail(self, failure: impl Into<Failure>) {
        self.sink.fail(failure);
    }
}

fn encoded<Item: ?Sized, C: Codec<Item>>(item: &Item) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    C::encode(item, &mut bytes)?;
    Ok(bytes)
}

impl<Item: ?Sized, C> fmt::Debug for ItemSink<Item, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ItemSink").field(&self.sink).finish()
    }
}
