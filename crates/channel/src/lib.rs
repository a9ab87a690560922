//! Channels: one writer, many readers, typed, through shared memory.
//!
//! A [`Writer`] publishes records into a ring that every [`Reader`] maps read-only. Publishing is a copy and a store;
//! it makes no system call unless a reader sleeps, and costs the same with 64 readers that are awake as with none. Up
//! to two sleepers are woken by one system call each, by the writer; more are woken by a thread of its process
//! (`ginnel-crier`), which costs a publication one system call at most, however many sleep.
//!
//! | mode | a reader that is too slow | use it for |
//! |---|---|---|
//! | [`Mode::Lossy`] (default) | is told exactly how many records it missed | telemetry, events, frames |
//! | [`Mode::Lossless`] | makes the writer wait (or fail, or is evicted) | logs, files, commands |
//! | [`Mode::Latest`] | sees the newest value only | shared state, configuration, poses |
//!
//! # One program to another
//!
//! ```
//! use ginnel_channel::{Reader, Writer};
//! # let dir = tempfile::tempdir().unwrap();
//! # let run_dir = dir.path().join("run");
//!
//! // In one process ...
//! let mut writer: Writer<[u8]> = Writer::builder().run_dir(&run_dir).create("greetings")?;
//! writer.publish(b"hello")?;
//!
//! // ... and in another.
//! let mut reader: Reader<[u8]> = Reader::builder().run_dir(&run_dir).open("greetings")?;
//! assert_eq!(reader.recv()?, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a record can be
//!
//! * plain memory: `Writer<T>` with `T: FromBytes + IntoBytes + Immutable` of [`zerocopy`], no encoding at all;
//! * anything that serde knows: `Writer<T, Postcard>`;
//! * bytes: `Writer<[u8]>`;
//! * whatever a [`Codec`] of your own makes of it: `Writer<T, MyCodec>`.
//!
//! # Finding each other
//!
//! By name, in the runtime directory ([`WriterBuilder::create`], [`ReaderBuilder::open`]); or by inheritance, without
//! any name or file ([`Writer::export`], [`Reader::from_env`], and [`Link`] for both directions).
//!
//! # Death
//!
//! Each reader is tied to its writer by a socket, so the kernel tells either at once when the other dies. Readers get
//! what was published before, then [`RecvError::Closed`]. A dead reader's slot is freed and never holds the writer up.
//! The name of a dead writer can be taken over at once.
//!
//! # Threads and forks
//!
//! Writers and readers can move between threads; each is used by one at a time. After `fork` without `exec`, use them
//! in one of the two processes only: the child shares the parent's file descriptions, and the death of one is noticed
//! when both are gone.

#![deny(unsafe_code)]

mod aggregator;
mod builder;
mod clock;
mod crier;
mod discovery;
mod env;
mod error;
mod glimpse;
mod hub;
mod loan;
mod merged;
mod pair;
mod reader;
mod sharded;
mod shrink;
#[cfg(feature = "tokio")]
mod stream;
#[allow(unsafe_code)]
mod sys;
mod tether;
mod writer;

pub use aggregator::{Aggregated, Aggregator};
pub use builder::{ReaderBuilder, WriterBuilder};
pub use discovery::{ChannelInfo, Cleaned, Permissions, ReaderInfo, clean, clean_prefix, half_made, inspect, list};
pub use env::Inherit;
pub use error::{CloseCause, Corruption, CreateError, EnvError, OpenError, PublishError, RecvError};
pub use ginnel_codec::{Codec, DecodeCause, DecodeError, EncodeError, Plain, Postcard, Source};
pub use ginnel_memory::identity::Identity;
pub use ginnel_memory::ring::{Mode, Start};
pub use ginnel_memory::{Spin, Trust};
pub use glimpse::Glimpse;
pub use loan::{Borrowed, Loan};
pub use merged::{Merged, MergedReader};
pub use pair::{Link, LinkError};
pub use reader::{Reader, ReaderCounters, Watch};
pub use sharded::{Sharded, shard_name, shard_of};
#[cfg(feature = "tokio")]
pub use stream::ReaderStream;
pub use writer::{Batch, OnFull, Writer, WriterCounters};
