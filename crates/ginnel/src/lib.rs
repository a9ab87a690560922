//! Ginnel: a toolkit for processes that share a machine.
//!
//! | capability | module |
//! |---|---|
//! | typed broadcast through shared memory, one writer, many readers | [`channel`] |
//!
//! Each module is a crate of its own; this one gathers them, so that a program depends on `ginnel` alone.

#![forbid(unsafe_code)]

pub use ginnel_channel as channel;
