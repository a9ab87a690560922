//! Typed methods on the router: decode, call, encode.

mod item_sink;
mod reply;
mod scheduled;
#[cfg(feature = "tokio")]
mod tasks;

pub use item_sink::ItemSink;
pub use reply::Reply;

use crate::context::Context;
use crate::failure::Failure;
use crate::handler::Request;
use crate::method::{Method, OneWay, StreamMethod, decode};
use crate::request::OwnedRequest;
use crate::responder::Responder;
use crate::router::Router;
use crate::sink::Sink;
use ginnel_codec::{Codec, EncodeError};
use ginnel_wire::Batch;
use std::borrow::Borrow;

/// What a handler gets of a request of type `Req`.
type Owned<Req, C> = <C as Codec<Req>>::Owned;

/// # Typed methods
///
/// The same four forms, by [`Method`], [`StreamMethod`] and [`OneWay`]: requests come decoded, answers are encoded, and
/// the method's [hash](Method::hash) is told. A request that cannot be decoded is answered by
/// [`Failure::Undecodable`], which says why, and the handler does not see it.
///
/// ```
/// use ginnel_service::{Context, Failure, Interface, Method, Reply, Router};
///
/// const ADD: Method<(u64, u64), u64> = Method::new(1, "add");
/// const LATER: Method<String, String> = Method::new(2, "later");
///
/// let router = Router::new(Interface::named("sums"))
///     .on(ADD, |(one, other), _: &Context| one.checked_add(other).ok_or(Failure::Internal))
///     .on_responder(LATER, |request: String, reply: Reply<String>| {
///         std::thread::spawn(move || reply.respond(request));
///     });
/// assert_eq!(router.methods().count(), 2);
/// ```
impl Router {
    /// A method that is answered before `handler` returns; see [`handler`](Self::handler).
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on<Req, Resp, C, F>(self, method: Method<Req, Resp, C>, handler: F) -> Self
    where
        Req: ?Sized + 'static,
        Resp: ?Sized + 'static,
        C: Codec<Req> + Codec<Resp> + 'static,
        Owned<Resp, C>: Borrow<Resp>,
        F: Fn(Owned<Req, C>, &Context) -> Result<Owned<Resp, C>, Failure> + Send + Sync + 'static,
    {
        let answer = move |request: &Request<'_>, response: &mut Vec<u8>| {
            let answer = handler(decoded::<Req, C>(request.payload)?, request.context)?;
            <C as Codec<Resp>>::encode(answer.borrow(), response).map_err(|error| unencodable(&error))
        };
        self.handler(method.id(), method.name(), answer).hash(method.id(), method.hash())
    }

    /// A method whose answer is given by the [`Reply`], now or later, from any thread; see
    /// [`responder`](Self::responder). A batch comes item by item, each with a reply of its own; it is answered when
    /// all of them are, and fails with the first that does.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_responder<Req, Resp, C, F>(self, method: Method<Req, Resp, C>, begin: F) -> Self
    where
        Req: ?Sized + 'static,
        Resp: ?Sized + 'static,
        C: Codec<Req> + Codec<Resp> + 'static,
        F: Fn(Owned<Req, C>, Reply<Resp, C>) + Send + Sync + 'static,
    {
        let begin = move |request: OwnedRequest, responder: Responder| {
            let Some(items) = request.batch() else {
                let decoded = decoded::<Req, C>(request.payload());
                // What it held is given back before the handler takes its time.
                drop(request);
                return match decoded {
                    Ok(decoded) => begin(decoded, Reply::whole(responder)),
                    Err(failure) => responder.fail(failure),
                };
            };
            let Ok(batch) = Batch::parse(request.payload(), items) else { return responder.fail(Failure::Malformed) };
            let limit = request.response_limit();
            for (item, reply) in batch.into_iter().zip(Reply::each(responder, items, limit)) {
                match decoded::<Req, C>(item) {
                    Ok(decoded) => begin(decoded, reply),
                    Err(failure) => reply.fail(failure),
                }
            }
        };
        self.responder(method.id(), method.name(), begin).hash(method.id(), method.hash())
    }

    /// A method that answers with a stream of [`ItemSink`]; see [`stream`](Self::stream).
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_stream<Req, Item, C, F>(self, method: StreamMethod<Req, Item, C>, begin: F) -> Self
    where
        Req: ?Sized + 'static,
        Item: ?Sized + 'static,
        C: Codec<Req> + Codec<Item> + 'static,
        F: Fn(Owned<Req, C>, ItemSink<Item, C>) + Send + Sync + 'static,
    {
        let begin = move |request: OwnedRequest, sink: Sink| {
            let decoded = decoded::<Req, C>(request.payload());
            drop(request);
            match decoded {
                Ok(decoded) => begin(decoded, ItemSink::new(sink)),
                Err(failure) => sink.fail(failure),
            }
        };
        self.stream(method.id(), method.name(), begin).hash(method.id(), method.hash())
    }

    /// A method that nobody is answered for; see [`one_way`](Self::one_way).
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_one_way<Req, C, F>(self, method: OneWay<Req, C>, handler: F) -> Self
    where
        Req: ?Sized + 'static,
        C: Codec<Req> + 'static,
        F: Fn(Owned<Req, C>, &Context) -> Result<(), Failure> + Send + Sync + 'static,
    {
        let handler = move |request: &Request<'_>| handler(decoded::<Req, C>(request.payload)?, request.context);
        self.one_way(method.id(), method.name(), handler).hash(method.id(), method.hash())
    }
}

fn decoded<Req: ?Sized, C: Codec<Req>>(payload: &[u8]) -> Result<Owned<Req, C>, Failure> {
    decode::<Req, C>(payload).map_err(|error| Failure::Undecodable { reason: error.to_string().into() })
}

/// That is the service's fault, and the client cannot do anything about it.
fn unencodable(error: &EncodeError) -> Failure {
    tracing::error!(%error, "an answer cannot be sent");
    Failure::Internal
}
