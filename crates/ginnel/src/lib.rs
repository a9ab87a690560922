//! Ginnel: a toolkit for processes that share a machine.
//!
//! | capability | module |
//! |---|---|
//! | typed broadcast through shared memory, one writer, many readers | [`channel`] |
//! | typed methods: server, client, streams, scheduler, cache | [`service`], over the [`session`] level |
//! | commands under a shepherd: nothing is left behind, whoever dies | [`process`] |
//!
//! Each module is a crate of its own; this one gathers them, so that a program depends on `ginnel` alone.

#![forbid(unsafe_code)]

pub use ginnel_channel as channel;
pub use ginnel_process as process;
pub use ginnel_service as service;
pub use ginnel_session as session;

/// What is printed there compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/front.md")]
struct Readme;

/// What is printed there compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/services.md")]
struct ServicesGuide;

/// What is printed there compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/channels.md")]
struct ChannelsGuide;
