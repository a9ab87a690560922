//! What one measurement is asked to do.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How a side waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// In the system call, or where the mechanism spins, spinning.
    #[default]
    Blocking,
    /// In the reactor of tokio, on one thread. Needs feature `tokio`.
    Async,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocking => "blocking",
            Self::Async => "async",
        })
    }
}

/// What is done. Results of different modes are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mode {
    /// One message there and back at a time: the round trip.
    PingPong,
    /// Messages at a fixed rate, whatever becomes of them; latency counts from the intended moment of each.
    Paced,
    /// As many as go through with a given number in flight.
    Throughput,
    /// One client asks several servers at once: the round trip ends with the last answer.
    FanOut,
    /// Several clients ask one server at once.
    FanIn,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PingPong => "ping-pong",
            Self::Paced => "paced",
            Self::Throughput => "throughput",
            Self::FanOut => "fan-out",
            Self::FanIn => "fan-in",
        })
    }
}

/// When a measurement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// After so many messages of each pair.
    Count(u64),
    /// After so long.
    Duration(Duration),
}

/// What one measurement is asked to do. Checked by [`Suite::check`](crate::Suite::check) before anything starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Name of the mechanism.
    pub mechanism: String,
    /// How a side waits.
    pub form: Form,
    /// What is done.
    pub mode: Mode,
    /// Bytes of a message, everything included that is this tool's: sequence number, checksum, stamps.
    pub size: usize,
    /// When it ends.
    pub amount: Amount,
    /// Messages before, over the same connection, that are not measured.
    pub warm_up: u64,
    /// Measure the first message, too, which otherwise goes ahead and absorbs the cold start.
    pub include_first: bool,
    /// Most messages in flight (modes `throughput` and `paced`).
    pub depth: usize,
    /// Time between two intended sends (mode `paced`).
    pub interval: Duration,
    /// Mode `paced` only: each message is answered, and the round trip is measured instead of one way.
    pub round_trip: bool,
    /// Modes with answers: the server stamps each arrival, so that the time of one way is measured, too.
    pub one_way: bool,
    /// Pairs at the same time; of a fan, its width.
    pub pairs: usize,
    /// The kernel's buffer in bytes, where the mechanism has one.
    pub buffer: Option<usize>,
    /// Priority of messages in a POSIX queue.
    pub priority: u32,
    /// Where TCP connects; the port 0 is any.
    pub host: std::net::SocketAddr,
    /// CPU of the clients.
    pub client_cpu: Option<usize>,
    /// CPU of the servers.
    pub server_cpu: Option<usize>,
    /// How long nothing may move before the measurement is given up.
    pub patience: Duration,
}

impl Plan {
    /// A short ping-pong of 64 bytes, not pinned.
    #[must_use]
    pub fn new(mechanism: impl Into<String>, mode: Mode) -> Self {
        Self {
            mechanism: mechanism.into(),
            form: Form::Blocking,
            mode,
            size: 64,
            amount: Amount::Duration(Duration::from_millis(200)),
            warm_up: 100,
            include_first: false,
            depth: 64,
            interval: Duration::from_micros(100),
            round_trip: false,
            one_way: false,
            pairs: 1,
            buffer: None,
            priority: 0,
            host: ([127, 0, 0, 1], 0).into(),
            client_cpu: None,
            server_cpu: None,
            patience: Duration::from_secs(5),
        }
    }

    /// Whether there are many messages in one direction, and acknowledgements in the other.
    pub(crate) fn flows(&self) -> bool {
        matches!(self.mode, Mode::Paced | Mode::Throughput) && !self.answered()
    }

    /// Whether every message comes back.
    pub(crate) fn answered(&self) -> bool {
        self.mode != Mode::Throughput && (self.mode != Mode::Paced || self.round_trip)
    }
}
