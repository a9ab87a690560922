//! What client and server of the store agree on: numbers, names and types.

use ginnel::service::{Method, StreamMethod};
use serde::{Deserialize, Serialize};

/// Which state of a fork is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// What was committed last. It never waits for a write.
    Committed,
    /// That with all changes since.
    Uncommitted,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Get {
    pub fork: String,
    pub view: View,
    pub key: String,
}

/// A value, or its end.
pub type Change = (String, Option<String>);

#[derive(Debug, Serialize, Deserialize)]
pub struct Write {
    pub fork: String,
    /// All of them are seen together.
    pub changes: Vec<Change>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Fork {
    /// Its state is copied, changes that are not committed included.
    pub from: String,
    pub name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Scan {
    pub fork: String,
    pub view: View,
    /// The first key, and the first that is not wanted any more.
    pub from: String,
    pub to: Option<String>,
}

pub const GET: Method<Get, Option<String>> = Method::new(1, "get").idempotent();
/// Says how many keys were changed.
pub const WRITE: Method<Write, u64> = Method::new(2, "write");
/// Says the number of the commit.
pub const COMMIT: Method<String, u64> = Method::new(3, "commit");
pub const FORK: Method<Fork, ()> = Method::new(4, "fork");
pub const FORKS: Method<(), Vec<String>> = Method::new(5, "forks").idempotent();
pub const SCAN: StreamMethod<Scan, (String, String)> = StreamMethod::new(6, "scan");

/// Codes of the store's own errors.
pub const NO_SUCH_FORK: u32 = 1;
pub const FORK_EXISTS: u32 = 2;
