//! Clients and servers of services, above the byte level of [`ginnel_session`].
//!
//! A [`Server`] answers the methods of a [`Router`] on one endpoint, for many sessions at once. A [`Client`] has many
//! calls in flight over one connection, from many threads and (feature `tokio`) tasks. Both speak Ginnel's own layout
//! to each other and layout 1 to netipc peers. A [`BaselineClient`] speaks layout 1 only, one thread at a time, with
//! its shared-memory profiles.
//!
//! ```
//! use ginnel_service::{Client, ClientOptions, Failure, Request, Server, ServerOptions};
//! use ginnel_session::Endpoint;
//!
//! let dir = tempfile::tempdir()?;
//! let endpoint = Endpoint::seqpacket(dir.path(), "shout")?;
//! let shout = |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
//!     response.extend(request.payload.to_ascii_uppercase());
//!     Ok(())
//! };
//! let server = Server::start(&endpoint, ServerOptions::default(), 7, shout)?;
//!
//! let client = Client::new(&endpoint, ClientOptions::default())?;
//! assert_eq!(*client.call(7, b"hello")?, *b"HELLO");
//! server.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On other systems than Linux there are the parts that are not bound to one: methods and the router, the scheduler, the
//! executor and the cache. The server and the clients follow where [`ginnel_session`] has carriers.
#![forbid(unsafe_code)]
// What the reactor uses of the rest.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod cache;
#[cfg(target_os = "linux")]
mod client;
mod context;
mod cost;
#[cfg(target_os = "linux")]
mod counters;
#[cfg(target_os = "linux")]
mod dispatch;
#[cfg(target_os = "linux")]
mod driven;
mod executor;
mod failure;
mod handler;
#[cfg(target_os = "linux")]
pub mod introspect;
#[cfg(target_os = "linux")]
mod learned;
mod mail;
mod method;
#[cfg(target_os = "linux")]
mod reactor;
mod request;
mod responder;
mod router;
mod scheduler;
#[cfg(target_os = "linux")]
mod server;
mod sink;
#[cfg(target_os = "linux")]
mod state;
mod sync;
mod sys;
#[cfg(feature = "tokio")]
mod tasks;
mod typed;

pub use cache::{Cache, CacheCounters, CacheReader, Index, Keyed, Refresher, Table};
#[cfg(all(feature = "tokio", target_os = "linux"))]
pub use client::{AsyncItems, CallFuture, StreamFuture};
#[cfg(target_os = "linux")]
pub use client::{BaselineClient, BaselineCounters, BaselineError, BaselineOptions, BatchReply};
#[cfg(target_os = "linux")]
pub use client::{
    CallError, CallOptions, Callable, Client, ClientCounters, ClientOptions, Items, Notified, Response, Streaming,
};
pub use context::Context;
pub use cost::Execution;
#[cfg(target_os = "linux")]
pub use driven::Driven;
pub use executor::{Executor, Job, Pool, Rejected};
pub use failure::{ApplicationError, Failure};
pub use ginnel_base::Deadline;
pub use ginnel_codec::{Codec, DecodeCause, DecodeError, EncodeError, Plain, Postcard};
pub use handler::{Handler, Request};
#[cfg(target_os = "linux")]
pub use introspect::Introspect;
#[cfg(target_os = "linux")]
pub use learned::DEFAULT_CEILING;
pub use method::{Method, OneWay, StreamMethod};
pub use request::OwnedRequest;
pub use responder::Responder;
pub use router::{Interface, Router};
pub use scheduler::{Access, KeyedScheduler, ScheduleError, Scheduled, SchedulerCounters, Turn};
#[cfg(target_os = "linux")]
pub use server::{DEFAULT_MAX_BATCH_ITEMS, Drained, Order, Server, ServerCounters, ServerOptions};
pub use sink::{Sink, SinkError};
#[cfg(target_os = "linux")]
pub use state::State;
pub use typed::{ItemSink, Reply};
