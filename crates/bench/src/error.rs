//! Why there is no number.

use std::io;
use std::time::Duration;

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Asked for something that cannot be measured.
    #[error("{mechanism}, {what}: {why}")]
    Refused {
        /// The mechanism.
        mechanism: String,
        /// Form, mode and size.
        what: String,
        /// The limit that is in the way.
        why: String,
    },
    /// No mechanism of this name.
    #[error("there is no mechanism `{name}`; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name.
        known: String,
    },
    /// A side could not be started.
    #[error("cannot start the {side}: {source}")]
    Spawn {
        /// `client` or `server`, and its number.
        side: String,
        /// The refusal.
        source: ginnel_process::SpawnError,
    },
    /// A side said why it cannot go on.
    #[error("the {side} gave up: {message}")]
    Side {
        /// `client` or `server`, and its number.
        side: String,
        /// Its words.
        message: String,
    },
    /// A side ended in the middle.
    #[error("the {side} ended while it was to {phase}: {cause}")]
    Died {
        /// `client` or `server`, and its number.
        side: String,
        /// What it was to do.
        phase: &'static str,
        /// How it ended.
        cause: String,
    },
    /// Nothing has moved for too long.
    #[error("nothing has moved for {patience:?} while the {side} was to {phase}{}", if *.stopped { "; it is stopped by a signal" } else { "" })]
    Stalled {
        /// The side that did not answer.
        side: String,
        /// What it was to do.
        phase: &'static str,
        /// How long nothing has moved.
        patience: Duration,
        /// Whether the kernel says that a signal has stopped it.
        stopped: bool,
    },
    /// A side was not where it should be.
    #[error("the {side} was pinned to CPU {wanted}, but the kernel says it may run on {found}")]
    Placement {
        /// `client` or `server`, and its number.
        side: String,
        /// Where it should be.
        wanted: usize,
        /// Where it may be.
        found: String,
    },
    /// The system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The refusal.
        source: io::Error,
    },
}

impl BenchError {
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }
}
