//! Clients of one service.

pub(crate) mod baseline;

pub use baseline::{BaselineClient, BaselineCounters, BaselineError, BaselineOptions, BatchReply};
