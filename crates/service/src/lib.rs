//! Clients and servers of netipc services, above the byte level of [`ginnel_session`].
//!
//! A [`Server`] answers one service on one endpoint with a [`Handler`], for many sessions at once. A [`BaselineClient`]
//! finds the service, late or restarted as it may be, retries a call at most once, and learns the sizes it needs.
//!
//! ```
//! use ginnel_service::{BaselineClient, BaselineOptions, Failure, Request, Server, ServerOptions};
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
//! let mut client = BaselineClient::new(&endpoint, BaselineOptions::default())?;
//! assert!(client.refresh().is_ready());
//! assert_eq!(client.call(7, b"hello")?, b"HELLO");
//! server.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod cache;
mod client;
mod context;
mod counters;
mod dispatch;
mod driven;
mod executor;
mod failure;
mod handler;
pub mod introspect;
mod learned;
mod method;
mod reactor;
mod request;
mod responder;
mod router;
mod scheduler;
mod server;
mod sink;
mod state;
mod sync;
#[cfg(feature = "tokio")]
mod tasks;
mod typed;

pub use cache::{Cache, CacheCounters, CacheReader, Index, Keyed, Refresher, Table};
#[cfg(feature = "tokio")]
pub use client::{AsyncItems, CallFuture, StreamFuture};
pub use client::{BaselineClient, BaselineCounters, BaselineError, BaselineOptions, BatchReply};
pub use client::{CallError, CallOptions, Client, ClientCounters, ClientOptions, Items, Response};
pub use context::Context;
pub use dispatch::Execution;
pub use driven::Driven;
pub use executor::{Executor, Job, Pool, Rejected};
pub use failure::{ApplicationError, Failure};
pub use ginnel_base::Deadline;
pub use ginnel_codec::{Codec, DecodeCause, DecodeError, EncodeError, Plain, Postcard};
pub use handler::{Handler, Request};
pub use introspect::Introspect;
pub use learned::DEFAULT_CEILING;
pub use method::{Method, OneWay, StreamMethod};
pub use request::OwnedRequest;
pub use responder::Responder;
pub use router::{Interface, Router};
pub use scheduler::{Access, KeyedScheduler, ScheduleError, Scheduled, SchedulerCounters, Turn};
pub use server::{DEFAULT_MAX_BATCH_ITEMS, Drained, Order, Server, ServerCounters, ServerOptions};
pub use sink::{Sink, SinkError};
pub use state::State;
pub use typed::{ItemSink, Reply};
