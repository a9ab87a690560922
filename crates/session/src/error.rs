//! What can go wrong, one enum a family of operations.

use crate::endpoint::Endpoint;
use crate::proto::Refuse2;
#[cfg(target_os = "linux")]
use crate::ring::RingError;
use ginnel_wire::{
    BatchError, ChunkError, Envelope, EnvelopeError, Features, FrameError, Hello2Error, HelloAck2Error, HelloAckError,
    HelloError, Kind, Profiles, ServerFacts, Status,
};
#[cfg(target_os = "linux")]
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;

/// The peer broke the protocol. It ends its session, and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A message does not begin with an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A packet does not continue the message that was begun.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The directory of a batch is wrong.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The peer sent more than was negotiated.
    #[error("message {} announces {} payload bytes, the session's limit is {limit}", envelope.message_id, envelope.payload_len)]
    PayloadTooLarge {
        /// What arrived, so that a server can answer it.
        envelope: Envelope,
        /// Negotiated payload bytes.
        limit: u32,
    },
    /// The peer sent more batch items than were negotiated.
    #[error("message {} announces {} items, the session's limit is {limit}", envelope.message_id, envelope.item_count)]
    TooManyItems {
        /// What arrived, so that a server can answer it.
        envelope: Envelope,
        /// Negotiated items.
        limit: u32,
    },
    /// A response to a request that was never sent, or was answered already.
    #[error("response to message {id}, which is not in flight")]
    UnknownId {
        /// The id.
        id: u64,
    },
    /// A frame of layout 2 that is none.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame of layout 2 that only the other side sends.
    #[error("{frame} from the side that does not send it")]
    Side {
        /// The frame.
        frame: &'static str,
    },
    /// A frame of layout 2 that needs what was not granted.
    #[error("{frame} needs features {feature}, which were not granted")]
    Feature {
        /// The frame.
        frame: &'static str,
        /// What it needs.
        feature: Features,
    },
    /// The id of a call is not above those before it.
    #[error("call {id} is not above {last}, which was used before")]
    Id {
        /// The call.
        id: u64,
        /// The highest id so far.
        last: u64,
    },
    /// More calls without a final answer than were agreed.
    #[error("call {id} exceeds the window of {window} calls")]
    Window {
        /// The call.
        id: u64,
        /// What was agreed.
        window: u32,
    },
    /// A call of a client that has said that it sends no more.
    #[error("call {id} after GOAWAY")]
    AfterGoAway {
        /// The call.
        id: u64,
    },
    /// A GOAWAY that takes back what the one before said.
    #[error("GOAWAY up to call {last_id} after one up to {before}")]
    GoAwayRaised {
        /// The last call of the earlier one.
        before: u64,
        /// The last call of this one.
        last_id: u64,
    },
    /// An answer that its call does not take.
    #[error("{frame} is no answer to call {id}")]
    Answer {
        /// The frame.
        frame: &'static str,
        /// The call.
        id: u64,
    },
    /// More items of a stream than were allowed, or more credit than can be counted.
    #[error("the stream of call {id} exceeds its credit")]
    Credit {
        /// The call.
        id: u64,
    },
    /// A request where a response is due, or the other way round.
    #[error("a message of kind {found:?} where {expected:?} is due")]
    Kind {
        /// What arrived.
        found: Kind,
        /// What this side receives.
        expected: Kind,
    },
    /// A packet is larger than the session's packets are.
    #[error("a packet of {len} bytes where at most {limit} are due")]
    PacketTooLong {
        /// Bytes of the packet.
        len: usize,
        /// Bytes there was room for.
        limit: usize,
    },
    /// The length that the peer wrote into shared memory is no message's.
    #[error("shared memory announces a message of {len} bytes in a slot of {capacity}")]
    SlotLength {
        /// What the peer wrote.
        len: u32,
        /// Bytes of the slot.
        capacity: u32,
    },
    /// A word of a ring is not what it can be.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Ring(#[from] ginnel_memory::byte_ring::ByteRingError),
    /// The socket of a ring session carries nothing, but the peer sent something on it.
    #[error("data on the socket of a session whose messages travel in rings")]
    SocketData,
    /// The slot's count is neither that of the last message nor that of the next.
    #[error("the peer counts {seq} messages in the slot, where {expected} is next")]
    SlotSequence {
        /// What the peer wrote.
        seq: u64,
        /// The count of the next message.
        expected: u64,
    },
    /// The shared-memory file was truncated under us.
    #[error("the shared-memory file was truncated while in use")]
    RegionTruncated,
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer is gone: closed, crashed or killed.
    #[error("the peer closed the session")]
    Closed,
    /// The deadline passed. Receiving may be tried again.
    #[error("the deadline passed")]
    TimedOut,
    /// The peer has begun a message and did not go on with it: see
    /// [`ServerConfig::message_timeout`](crate::ServerConfig::message_timeout). The session is over.
    #[error("the peer stopped in the middle of a message")]
    Stalled,
    /// The system has no memory for a message that arrives, within the limits though it may be. The session is over.
    #[error(
        "there is no memory for a message that arrives ({bytes} bytes at once): lower the limit of payloads, or allow more memory"
    )]
    NoMemory {
        /// How much was needed at once.
        bytes: usize,
    },
    /// The abort that this wait watches was raised. Receiving may be tried again.
    #[error("aborted")]
    Aborted,
    /// The peer broke the protocol; the session is over.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The message is larger than the session's limit. Nothing was sent, the session goes on.
    #[error("a payload of {len} bytes is above the session's limit of {limit}")]
    PayloadTooLarge {
        /// Bytes of the payload.
        len: usize,
        /// Negotiated bytes.
        limit: u32,
    },
    /// The batch has more items than the session allows. Nothing was sent, the session goes on.
    #[error("a batch of {items} items is above the session's limit of {limit}")]
    TooManyItems {
        /// Items of the batch.
        items: u32,
        /// Negotiated items.
        limit: u32,
    },
    /// A request with this id waits for its response. Nothing was sent, the session goes on.
    #[error("message id {id} is in flight already")]
    DuplicateId {
        /// The id.
        id: u64,
    },
    /// This side sends messages of another kind. Nothing was sent, the session goes on.
    #[error("this side of a session cannot send a message of kind {kind:?}")]
    WrongKind {
        /// What was to be sent.
        kind: Kind,
    },
    /// The handshake is not over. Nothing was sent.
    #[error("the handshake is not over")]
    NotEstablished,
    /// A client has as much on its way as it may. Nothing was sent; try again when a response has come or bytes were
    /// written.
    #[error("{in_flight} requests are in flight and {queued} bytes wait to be written: no more can be sent now")]
    Full {
        /// Requests without a response.
        in_flight: usize,
        /// Payload bytes that are queued.
        queued: usize,
    },
    /// Layout 2: no such call is open here, or it takes another answer. Nothing was sent.
    #[error("call {id} is not open, or takes another answer")]
    NoCall {
        /// The call.
        id: u64,
    },
    /// Layout 2: the client has not allowed so many items of this stream yet. Nothing was sent.
    #[error("the client has room for {credit} more items of call {id}")]
    NoCredit {
        /// The call.
        id: u64,
        /// Items that may be sent.
        credit: u32,
    },
    /// Layout 2: the server did not grant what this needs. Nothing was sent.
    #[error("the server did not grant features {feature}")]
    NotGranted {
        /// What it needs.
        feature: Features,
    },
    /// Layout 2: a side of this session leaves, so it takes no more calls. Nothing was sent; use another session.
    #[error("the session takes no more calls, because one side leaves")]
    Leaving,
    /// In shared memory a server has one request at a time to answer, and there is none. Nothing was sent.
    #[error("there is no request to answer")]
    NothingToAnswer,
    /// An earlier send stopped in the middle of a message; nothing more can be sent.
    #[error("an earlier message was cut off in the middle; the session cannot be used any more")]
    Broken,
    /// The system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

#[cfg(target_os = "linux")]
impl SessionError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            errno => Self::Io { doing, source: errno.into() },
        }
    }
}

/// Why a service name, path or address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not a service name.
    #[error("service name {name:?} must be letters, digits, '.', '_' or '-', and neither empty, \".\" nor \"..\"")]
    Name {
        /// What was given.
        name: String,
    },
    /// The kernel has no room for this path.
    #[error("socket path {} has {len} bytes, the kernel takes at most 107: use a shorter run directory", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// TCP is for this host unless its caller says otherwise.
    #[error("{address} is not a loopback address: say so explicitly to serve other hosts")]
    NotLoopback {
        /// What was given.
        address: std::net::SocketAddr,
    },
}

/// A run directory in which others can put what a server or a client takes for its peer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the run directory {} has mode {mode:04o}, so its group or everybody can write to it: `chmod go-w` it, or allow it explicitly",
    path.display()
)]
pub struct WritableDir {
    /// The directory.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// Why nobody listens now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// A server listens there already, or is just starting.
    #[error("{endpoint} is in use")]
    InUse {
        /// Where.
        endpoint: String,
    },
    /// The run directory may be written to by others: see
    /// [`ServerConfig::allow_writable_dir`](crate::ServerConfig::allow_writable_dir).
    #[error("{0}")]
    WritableDir(WritableDir),
    /// TCP has no peer credentials: it requires a token.
    #[error("{endpoint} needs a token: TCP carries no credentials")]
    TokenRequired {
        /// Where.
        endpoint: String,
    },
    /// The system refused.
    #[error("cannot {doing} for {endpoint}: {source}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// Where.
        endpoint: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("no server at {endpoint}: {source}")]
    NotFound {
        /// Where.
        endpoint: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The run directory may be written to by others: see
    /// [`ClientConfig::allow_writable_dir`](crate::ClientConfig::allow_writable_dir).
    #[error("{0}")]
    WritableDir(WritableDir),
    /// Somebody may listen there, but this user may not connect: the socket or a directory above it belongs to another.
    #[error("this user may not connect to {endpoint}: {source}")]
    Denied {
        /// Where.
        endpoint: String,
        /// The system's answer: EACCES or EPERM.
        source: io::Error,
    },
    /// The system could not connect: no file descriptor left, a socket of another type, no route.
    #[error("cannot connect to {endpoint}: {source}")]
    Io {
        /// Where.
        endpoint: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A user runs the server whom [`ClientConfig::server`](crate::ClientConfig::server) does not accept.
    #[error(
        "the server runs as user {uid}, which is not accepted: this user, root and the directory's owner are by default"
    )]
    ForeignServer {
        /// Whom.
        uid: u32,
    },
    /// The server answered, and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A server of layout 2 answered, and refused.
    #[error("{refusal}")]
    Refused2 {
        /// Why.
        refusal: Refusal,
        /// What it says of itself; all zero if it does not tell.
        server: Box<ServerFacts>,
    },
    /// The server chose rings and they are not what it said, or this process cannot attach them. Connect again without
    /// RING.
    #[cfg(target_os = "linux")]
    #[error("cannot attach the session's rings: {0}")]
    Rings(#[source] RingError),
    /// The server took the connection and closed it or broke it before the handshake was over.
    #[error("the handshake did not finish: {0}")]
    Session(#[source] SessionError),
    /// The server chose shared memory and this process cannot attach it. Connect again without it.
    #[error("cannot attach the session's shared memory {}: {reason}", path.display())]
    SharedMemory {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl ConnectError {
    /// The server's refusal, if it answered with one, in whatever layout.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) | Self::Refused2 { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }

    /// What the system's refusal to connect means.
    #[cfg(target_os = "linux")]
    pub(crate) fn not_connected(endpoint: &Endpoint, errno: Errno) -> Self {
        let (endpoint, source) = (endpoint.to_string(), errno.into());
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED => Self::NotFound { endpoint, source },
            Errno::ACCESS | Errno::PERM => Self::Denied { endpoint, source },
            _ => Self::Io { endpoint, source },
        }
    }
}

/// A server's answer to HELLO that is not a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The token is wrong, or this user is not accepted.
    #[error("the server refused the token or the user (AUTH_FAILED)")]
    AuthFailed,
    /// No profile in common.
    #[error("the server supports none of the profiles (UNSUPPORTED)")]
    NoCommonProfile,
    /// Versions, layouts or packet sizes do not fit.
    #[error("the server speaks an incompatible protocol (INCOMPATIBLE)")]
    Incompatible,
    /// The proposed request limit is above the server's.
    #[error("the server refused requests of {proposed} bytes (LIMIT_EXCEEDED)")]
    LimitExceeded {
        /// Request bytes that were proposed.
        proposed: u32,
    },
    /// Any other status: the server is full or failing.
    #[error("the server cannot take the session now ({status})")]
    Unavailable {
        /// The status.
        status: Status,
    },
    /// The answer does not begin with an envelope.
    #[error("the answer to HELLO is no envelope: {0}")]
    Envelope(EnvelopeError),
    /// The answer is some other message.
    #[error("the answer to HELLO is kind {kind:?} code {code}, not HELLO_ACK")]
    NotAnAck {
        /// Its kind.
        kind: Kind,
        /// Its code.
        code: u16,
    },
    /// The acceptance cannot be read.
    #[error(transparent)]
    Ack(HelloAckError),
    /// The acceptance of layout 2 cannot be read.
    #[error(transparent)]
    Ack2(HelloAck2Error),
    /// The acceptance of layout 2 grants what was not proposed.
    #[error("the server grants {field} {found}, which was not proposed")]
    Granted {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
    /// The acceptance selects no single profile that was proposed.
    #[error("the server selected profiles {selected}, where one of {supported} was proposed")]
    Selected {
        /// What the server chose.
        selected: Profiles,
        /// What was proposed.
        supported: Profiles,
    },
    /// The agreed packet size leaves no room for payload, or is larger than proposed.
    #[error("the server agreed on packets of {agreed} bytes where up to {proposed} were proposed")]
    PacketSize {
        /// What the server chose.
        agreed: u32,
        /// What was proposed.
        proposed: u32,
    },
}

/// Why a connection did not become a session, seen from the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The client left, fell silent or was aborted before its HELLO was complete.
    #[error("no HELLO: {0}")]
    NoHello(#[source] SessionError),
    /// The client was told `status`.
    #[error("refused with {status}: {reason}")]
    Refused {
        /// The status in the answer.
        status: Status,
        /// Why.
        reason: RefuseReason,
    },
    /// The client was told `status`, for a reason that only layout 2 has.
    #[error("refused with {status}: {reason}")]
    Refused2 {
        /// The status in the answer.
        status: Status,
        /// Why.
        reason: Refuse2,
    },
    /// What the client sent deserves no answer; the connection was closed.
    #[error("closed without an answer: {0}")]
    Closed(CloseReason),
    /// The answer could not be sent.
    #[error("cannot answer HELLO: {0}")]
    Answer(#[source] SessionError),
}

/// Why a server refuses a HELLO that it understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefuseReason {
    /// Protocol version.
    #[error("envelope version is {found}, not 1")]
    Version {
        /// The client's.
        found: u16,
    },
    /// HELLO layout.
    #[error("HELLO layout is {found}, not 1")]
    Layout {
        /// The client's.
        found: u16,
    },
    /// No profile in common.
    #[error("client supports profiles {client}, server {server}")]
    Profiles {
        /// The client's.
        client: Profiles,
        /// The server's.
        server: Profiles,
    },
    /// Wrong token.
    #[error("the token does not match")]
    Token,
    /// A user that the policy does not accept.
    #[error("user {uid} is not accepted")]
    User {
        /// Who.
        uid: u32,
    },
    /// Request limit.
    #[error("client proposes requests of {proposed} bytes, the server takes {limit}")]
    RequestLimit {
        /// The client's.
        proposed: u32,
        /// The server's.
        limit: u32,
    },
    /// Packet size.
    #[error("packets of {agreed} bytes leave no room for payload")]
    PacketSize {
        /// The smaller of both.
        agreed: u32,
    },
    /// No file descriptor or thread is left for the session.
    #[error("the server has no file descriptor or thread left")]
    Exhausted,
    /// As many sessions as the server may have.
    #[error("the server has as many sessions as it may have")]
    Full,
}

/// Why a server closes a connection without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// Not an envelope.
    #[error(transparent)]
    Envelope(EnvelopeError),
    /// Not a HELLO.
    #[error("kind {kind:?} code {code} is not HELLO")]
    NotHello {
        /// Its kind.
        kind: Kind,
        /// Its code.
        code: u16,
    },
    /// A HELLO that cannot be read.
    #[error(transparent)]
    Hello(HelloError),
    /// A HELLO of layout 2 that cannot be read.
    #[error(transparent)]
    Hello2(Hello2Error),
}
