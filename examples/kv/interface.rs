//! What client and server of the store agree on: numbers, names and types.

use ginnel::service::{Method, StreamMethod};
use serde::{Deserialize, Serialize};

/// Which state of a fork is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum View {
    /// What was committed last. It never waits for a write.
    Committed,
    /// That with all changes since.
    Uncommitted,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Get {
    pub(crate) fork: String,
    pub(crate) view: View,
    pub(crate) key: String,
}

/// A value, or its end.
pub(crate) type Change = (String, Option<String>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) fork: String,
    /// All of them are seen together.
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fork {
    /// Its state is copied, changes that are not committed included.
    pub(crate) from: String,
    pub(crate) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub(crate) fork: String,
    pub(crate) view: View,
    /// The first key, and the first that is not wanted any more.
    pub(crate) from: String,
    pub(crate) to: Option<String>,
}

pub(crate) const GET: Method<Get, Option<String>> = Method::new(1, "get").idempotent();
/// Says how many keys were changed.
pub(crate) const WRITE: Method<Write, u64> = Method::new(2, "write");
/// Says the number of the commit.
pub(crate) const COMMIT: Method<String, u64> = Method::new(3, "commit");
pub(crate) const FORK: Method<Fork, ()> = Method::new(4, "fork");
pub(crate) const FORKS: Method<(), Vec<String>> = Method::new(5, "forks").idempotent();
pub(crate) const SCAN: StreamMethod<Scan, (String, String)> = StreamMethod::new(6, "scan");

/// Codes of the store's own errors.
pub(crate) const NO_SUCH_FORK: u32 = 1;
pub(crate) const FORK_EXISTS: u32 = 2;
