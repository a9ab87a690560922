//! The record that a server or client publishes about itself, byte by byte.
//!
//! ```text
//! offset  bytes  all numbers in the byte order of the machine; written by the endpoint's own process, whole
//!      0      8  magic "GNLSTAT\0"
//!      8      4  version, 1
//!     12      4  kind: 1 server, 2 client
//!     16      4  pid of the process, in its own pid namespace
//!     20      4  flags: 1 draining
//!     24      8  start of the process, clock ticks since boot (field 22 of /proc/PID/stat)
//!     32      8  when the endpoint began, nanoseconds since 1970
//!     40      8  when this record was made, nanoseconds of CLOCK_MONOTONIC
//!     48     64  name of the service, UTF-8, cut to what fits, filled up with zeros
//!    112    144  its endpoint as text (a path, or tcp://address), likewise
//!    256    512  64 counters of 8 bytes: [`Figures`], and zeros for what may come
//!    768   1024  128 counters of 8 bytes: what handlers took until they returned (client: calls), see `histogram`
//!   1792    256  zeros
//!   2048
//! ```
//!
//! It travels as the record of a `latest` channel with type name [`TYPE_NAME`]. Another size or alignment is another
//! channel layout, which a reader refuses when it opens the channel; another version it refuses here. Fields that are
//! added later take the zeros, and keep the version: zero must mean "not known, or none".

use super::histogram::{BUCKETS, Latency};
use ginnel_channel::{OpenError, RecvError};
use std::time::{Duration, SystemTime};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What tells the channel of such records from others.
pub(super) const TYPE_NAME: &str = "ginnel.service.introspection";
const MAGIC: [u8; 8] = *b"GNLSTAT\0";
const VERSION: u32 = 1;
const SERVER: u32 = 1;
const CLIENT: u32 = 2;
const DRAINING: u32 = 1;
const SERVICE_BYTES: usize = 64;
const ENDPOINT_BYTES: usize = 144;
const FIGURES: usize = 64;
const RESERVED_FIGURES: usize = FIGURES - size_of::<Figures>() / 8;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Record {
    magic: [u8; 8],
    version: u32,
    kind: u32,
    pid: u32,
    flags: u32,
    start: u64,
    began: u64,
    pub(super) published: u64,
    service: [u8; SERVICE_BYTES],
    endpoint: [u8; ENDPOINT_BYTES],
    pub(super) figures: Figures,
    _later_figures: [u64; RESERVED_FIGURES],
    pub(super) latency: [u64; BUCKETS],
    _later: [u64; 32],
}

const _: () = assert!(size_of::<Record>() == 2048);
const _: () = assert!(std::mem::offset_of!(Record, service) == 48);
const _: () = assert!(std::mem::offset_of!(Record, figures) == 256);
const _: () = assert!(std::mem::offset_of!(Record, latency) == 768);

/// What an endpoint has done, and does at this moment. Counters grow from its beginning; the others, marked "now", go
/// up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[non_exhaustive]
pub struct Figures {
    /// Sessions begun.
    pub sessions: u64,
    /// Sessions, now.
    pub active: u64,
    /// Of these: over seqpacket sockets, now.
    pub seqpacket: u64,
    /// Over stream sockets, now.
    pub stream: u64,
    /// Over TCP, now.
    pub tcp: u64,
    /// Over one-slot shared memory (the netipc profiles), now.
    pub slots: u64,
    /// Over rings of shared memory, now.
    pub ring: u64,
    /// Connections refused in the handshake, or whose handshake failed. Client: attempts to connect that failed.
    pub refused: u64,
    /// Connections dropped because no HELLO came.
    pub silent: u64,
    /// Connections refused because the process had no file descriptor left.
    pub exhausted: u64,
    /// Idle sessions that ended because a newcomer needed their place.
    pub made_room: u64,
    /// Sessions that ended because the peer did not take what was sent to it.
    pub slow: u64,
    /// Sessions that ended because the peer broke the protocol, or stopped in the middle of a message.
    pub dismissed: u64,
    /// Most requests of one session that may be under way at once.
    pub window: u64,
    /// Requests without an answer, now.
    pub in_flight: u64,
    /// Requests received (client: sent), a batch being one.
    pub requests: u64,
    /// Requests whose handler failed or panicked (client: calls that failed).
    pub failures: u64,
    /// Bytes of payload received.
    pub bytes_in: u64,
    /// Bytes of payload sent.
    pub bytes_out: u64,
    /// Sessions that are not read from because too many bytes of requests are under way, now.
    pub paused: u64,
    /// How often that happened to a session.
    pub pauses: u64,
    /// Bytes of requests that are under way, now.
    pub held: u64,
    /// The most that [`held`](Self::held) may reach before sessions are paused.
    pub budget: u64,
    /// Jobs that wait for a thread of the executor, now; 0 if it does not tell.
    pub queued: u64,
    /// Client: requests that were sent a second time.
    pub retries: u64,
}

/// Which side an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Side {
    /// It serves.
    Server,
    /// It calls.
    Client,
}

/// What a server or client tells about itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Introspection {
    /// Which side it is.
    pub side: Side,
    /// The service's name; the address where the endpoint is one of TCP.
    pub service: String,
    /// Where it listens or connects to: the path of a socket, or `tcp://` and an address.
    pub endpoint: String,
    /// The process, in its own pid namespace.
    pub process: ginnel_base::identity::Identity,
    /// When the endpoint began.
    pub began: SystemTime,
    /// When this was published, on the clock CLOCK_MONOTONIC: two of one endpoint give rates.
    pub published: Duration,
    /// It takes no more connections, and ends with its last session.
    pub draining: bool,
    /// What it has done.
    pub figures: Figures,
    /// What its handlers took until they returned (client: its calls). One that answers later, or streams, is measured
    /// as long as it holds its thread.
    pub latency: Latency,
}

/// Why a record cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The channel cannot be opened: also if its records have another size, which is another version.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The channel's memory makes no sense.
    #[error(transparent)]
    Channel(#[from] RecvError),
    /// Nothing has been published yet: the endpoint is just starting, or died while it did.
    #[error("it has published nothing yet")]
    Empty,
    /// Something else writes to this channel.
    #[error("it begins with {found:02x?}, so something other than a ginnel service writes to it")]
    Magic {
        /// What it begins with.
        found: [u8; 8],
    },
    /// It was written by an older or newer library.
    #[error("its layout is version {found}, and this program knows version {known}: use the same version of ginnel")]
    Version {
        /// What the record says.
        found: u32,
        /// What this library reads.
        known: u32,
    },
    /// Neither a server nor a client.
    #[error("it is of the unknown kind {found}")]
    Kind {
        /// What the record says.
        found: u32,
    },
}

impl Record {
    /// The record of an endpoint that begins now.
    pub(super) fn new(side: Side, service: &str, endpoint: &str) -> Self {
        let own = ginnel_base::identity::Identity::own();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            magic: MAGIC,
            version: VERSION,
            kind: if side == Side::Server { SERVER } else { CLIENT },
            pid: own.pid,
            flags: 0,
            start: own.start,
            began: nanos(since_1970),
            published: 0,
            service: text(service),
            endpoint: text(endpoint),
            figures: Figures::default(),
            _later_figures: [0; RESERVED_FIGURES],
            latency: [0; BUCKETS],
            _later: [0; 32],
        }
    }

    pub(super) fn set_draining(&mut self, draining: bool) {
        self.flags = if draining { DRAINING } else { 0 };
    }

    /// What it says, however hostile its writer: every pattern of bytes is either refused or harmless to show.
    pub(super) fn read(&self) -> Result<Introspection, RecordError> {
        if self.magic != MAGIC {
            return Err(RecordError::Magic { found: self.magic });
        }
        if self.version != VERSION {
            return Err(RecordError::Version { found: self.version, known: VERSION });
        }
        let side = match self.kind {
            SERVER => Side::Server,
            CLIENT => Side::Client,
            found => return Err(RecordError::Kind { found }),
        };
        let began = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(self.began));
        Ok(Introspection {
            side,
            service: shown(&self.service),
            endpoint: shown(&self.endpoint),
            process: ginnel_base::identity::Identity { pid: self.pid, start: self.start },
            began: began.unwrap_or(SystemTime::UNIX_EPOCH),
            published: Duration::from_nanos(self.published),
            draining: self.flags & DRAINING != 0,
            figures: self.figures,
            latency: Latency::new(self.latency),
        })
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A text in a field of fixed size, cut between two characters.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let end = (0..=text.len().min(N)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let text = &text.as_bytes()[..end];
    field[..text.len()].copy_from_slice(text);
    field
}

/// The text of a field, without what could harm a terminal.
fn shown(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_was_put_in() {
        let mut record = Record::new(Side::Client, "cgroups", "/run/x/cgroups.sock");
        record.figures.requests = 7;
        record.set_draining(true);
        let read = Record::read_from_bytes(record.as_bytes()).unwrap().read().unwrap();
        assert_eq!(
            (read.side, read.service.as_str(), read.endpoint.as_str()),
            (Side::Client, "cgroups", "/run/x/cgroups.sock")
        );
        assert_eq!(
            (read.process, read.figures.requests, read.draining),
            (ginnel_base::identity::Identity::own(), 7, true)
        );
        assert!(read.began.elapsed().unwrap() < Duration::from_secs(60));
    }

    /// The layout is a promise to other versions: these are its bytes.
    #[test]
    fn the_layout_does_not_move() {
        let mut record = Record::new(Side::Server, "a", "b");
        (record.pid, record.start, record.began, record.published) = (1, 2, 3, 4);
        record.figures.sessions = 5;
        record.figures.retries = 6;
        record.latency[BUCKETS - 1] = 7;
        let bytes = record.as_bytes();
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(&bytes[..8], b"GNLSTAT\0");
        assert_eq!((word(24), word(32), word(40), bytes[48], bytes[112]), (2, 3, 4, b'a', b'b'));
        assert_eq!((word(256), word(256 + 24 * 8), word(1784)), (5, 6, 7));
        assert_eq!(bytes.iter().filter(|&&byte| byte != 0).count(), 7 + 3 + 3 + 2 + 3);
    }

    #[test]
    fn a_hostile_or_older_record_is_refused_by_what_is_wrong_with_it() {
        let honest = Record::new(Side::Server, "a", "b");
        let with = |change: fn(&mut Record)| {
            let mut record = honest;
            change(&mut record);
            record.read()
        };
        assert!(matches!(with(|record| record.magic = *b"ELF\0...."), Err(RecordError::Magic { .. })));
        assert!(matches!(with(|record| record.version = 0), Err(RecordError::Version { found: 0, known: VERSION })));
        assert!(matches!(with(|record| record.kind = 9), Err(RecordError::Kind { found: 9 })));
        let odd = with(|record| {
            record.service = [0xff; SERVICE_BYTES];
            record.endpoint[..6].copy_from_slice(b"\x1b[2J\0x");
            (record.began, record.published, record.flags) = (u64::MAX, u64::MAX, u32::MAX);
            record.latency = [u64::MAX; BUCKETS];
        });
        let odd = odd.unwrap();
        assert_eq!((odd.service.chars().count(), odd.endpoint.as_str()), (SERVICE_BYTES, "?[2J"));
        assert_eq!(odd.latency.count(), u64::MAX);
    }

    #[test]
    fn a_long_name_is_cut_between_two_characters() {
        let record = Record::new(Side::Server, &"ü".repeat(40), &format!("x{}", "ü".repeat(100)));
        let read = record.read().unwrap();
        assert_eq!((read.service, read.endpoint.len()), ("ü".repeat(32), 143));
    }
}
