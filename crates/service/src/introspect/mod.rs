//! What servers and clients tell about themselves, to other processes of this user.
//!
//! Each endpoint publishes its counters in a `latest` channel of its own, `ginnel.service.PID.NUMBER` in the runtime
//! directory, readable by its user alone. To count costs one relaxed addition. The thread that does the endpoint's
//! input and output publishes the sum of it at most ten times a second, and only when something has changed: an idle
//! endpoint does not wake up. Whoever looks ([`Introspection::list`], `ginnel top`) costs the endpoint nothing, not a
//! single system call.
//!
//! The names of dead processes are removed by the next endpoint that begins in the same directory, and by
//! `ginnel channel clean`.

mod histogram;
mod list;
mod publisher;
mod record;
mod reminder;

pub use histogram::Latency;
pub(crate) use histogram::{BUCKETS, Histogram};
pub use list::Listed;
pub(crate) use publisher::{EVERY, Publisher};
pub use record::{Figures, Introspection, RecordError, Side};
pub(crate) use reminder::{Teller, remind};
use std::path::PathBuf;

/// What the name of each such channel begins with.
pub const PREFIX: &str = "ginnel.service.";

/// Whether an endpoint tells other processes of its user about itself, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Introspect {
    /// In the user's runtime directory. Where there is none that is safe, or it cannot be written, the endpoint works
    /// without: that is told once, by an event of level `info`.
    #[default]
    On,
    /// Not at all.
    Off,
    /// In this runtime directory.
    In(PathBuf),
}
