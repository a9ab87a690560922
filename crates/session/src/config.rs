//! What each side brings into a handshake.

use crate::UidPolicy;
use ginnel_wire::{Features, MAX_PAYLOAD_LEN, Profiles};
use std::time::Duration;

/// Payload limit of either direction when nothing else is said, in bytes. The field's default.
pub const DEFAULT_MAX_PAYLOAD: u32 = 1024;
/// How long a peer may take for its part of a handshake when nothing else is said.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may stand still in its middle when nothing else is said.
pub const DEFAULT_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The limits of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload of one message in bytes, envelope excluded.
    pub max_payload: u32,
    /// Most items of one batch; 0 sets no limit.
    pub max_items: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_payload: DEFAULT_MAX_PAYLOAD, max_items: 1 }
    }
}

impl Limits {
    pub(crate) fn allows_payload(&self, len: u64) -> bool {
        len <= u64::from(self.max_payload.min(MAX_PAYLOAD_LEN))
    }

    pub(crate) fn allows_items(&self, items: u32) -> bool {
        self.max_items == 0 || items <= self.max_items
    }
}

/// What a client proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Profiles to speak. The empty set stands for [`Profiles::BASELINE`].
    pub supported: Profiles,
    /// Profiles to choose first; may be empty.
    pub preferred: Profiles,
    /// Limits of what this client sends.
    pub request: Limits,
    /// Hint about the responses this client expects; servers answer with their own limits.
    pub response: Limits,
    /// Secret shared with the server; 0 where none is used.
    pub token: u64,
    /// Packet size to propose in bytes; `None` proposes the largest the kernel takes
    /// (`SO_SNDBUF` - 32), which also bounds any other value.
    pub packet_size: Option<u32>,
    /// Which users may run the server. Checked on Unix sockets, before anything is sent.
    pub server: UidPolicy,
    /// Accept a run directory that its group or everybody may write to. Whoever may write there can put a socket or a
    /// region of its own in the place of a server's, so such a directory is refused unless this is set.
    pub allow_writable_dir: bool,
    /// Ginnel's own layout, which a [`Connector`](crate::Connector) proposes first; `None` speaks layout 1 only.
    pub layout_2: Option<ClientLayout2>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            supported: Profiles::BASELINE,
            preferred: Profiles::NONE,
            request: Limits::default(),
            response: Limits::default(),
            token: 0,
            packet_size: None,
            server: UidPolicy::default(),
            allow_writable_dir: false,
            layout_2: None,
        }
    }
}

/// What a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Profiles to speak. The empty set stands for [`Profiles::BASELINE`].
    pub supported: Profiles,
    /// Profiles to choose first; may be empty.
    pub preferred: Profiles,
    /// Largest request payload in bytes; a client that proposes more is refused. 0 stands for 1024.
    pub max_request_payload: u32,
    /// Largest response payload in bytes; every client is told this value. 0 stands for 1024.
    pub max_response_payload: u32,
    /// Secret that clients must bring; 0 where none is used. TCP requires one.
    pub token: u64,
    /// Packet size to offer in bytes; `None` offers the largest the kernel takes
    /// (`SO_SNDBUF` - 32), which also bounds any other value.
    pub packet_size: Option<u32>,
    /// Connections the kernel keeps waiting for `accept`.
    pub backlog: u16,
    /// Which users may connect. Checked on Unix sockets.
    pub clients: UidPolicy,
    /// Accept a run directory that its group or everybody may write to. Whoever may write there can put a socket or a
    /// region of its own in the place of a server's, so such a directory is refused unless this is set.
    pub allow_writable_dir: bool,
    /// How long a client may take to send its HELLO.
    pub handshake_timeout: Duration,
    /// How long a client that has begun a request may take for the rest, or for the next 64 KiB of it.
    pub message_timeout: Duration,
    /// Ginnel's own layout, which [`Incoming::into_parts`](crate::Incoming::into_parts) offers beside layout 1; `None`
    /// offers layout 1 only.
    pub layout_2: Option<ServerLayout2>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            supported: Profiles::BASELINE,
            preferred: Profiles::NONE,
            max_request_payload: DEFAULT_MAX_PAYLOAD,
            max_response_payload: DEFAULT_MAX_PAYLOAD,
            token: 0,
            packet_size: None,
            backlog: 16,
            clients: UidPolicy::default(),
            allow_writable_dir: false,
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            message_timeout: DEFAULT_MESSAGE_TIMEOUT,
            layout_2: None,
        }
    }
}

/// Calls that may be in flight where nothing else is said.
const WINDOW: u32 = 64;
/// Items of a stream before the first CREDIT where nothing else is said.
const STREAM_WINDOW: u32 = 32;
/// Bytes of a ring where nothing else is said, and the most.
const RING: u32 = 256 << 10;
const MAX_RING: u32 = 16 << 20;

/// What a client proposes in layout 2, beside its [`ClientConfig`]. RING is proposed if that supports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLayout2 {
    /// What it can do.
    pub features: Features,
    /// What the server must be able to do; a subset of `features`.
    pub required: Features,
    /// The interface that it wants; 0 takes any.
    pub interface_id: u64,
    /// Hash of the interface as it knows it; 0 if it does not say.
    pub schema_hash: u64,
    /// Most calls in flight; 0 counts as 1.
    pub request_window: u32,
    /// Most items of a stream before the first CREDIT.
    pub stream_window: u32,
    /// Bytes of the ring for requests, a power of two from 4096 to 2^30; 0 leaves it to the server.
    pub request_ring: u32,
    /// Bytes of the ring for responses; as above.
    pub response_ring: u32,
    /// Most bytes of a ring that it takes.
    pub max_ring: u32,
}

impl Default for ClientLayout2 {
    fn default() -> Self {
        Self {
            features: Features::ALL,
            required: Features::NONE,
            interface_id: 0,
            schema_hash: 0,
            request_window: WINDOW,
            stream_window: STREAM_WINDOW,
            request_ring: 0,
            response_ring: 0,
            max_ring: MAX_RING,
        }
    }
}

/// What a server offers in layout 2, beside its [`ServerConfig`]. RING is offered if that supports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLayout2 {
    /// What it can do.
    pub features: Features,
    /// Its interface; 0 if it has none.
    pub interface_id: u64,
    /// Hash of its interface; 0 if it does not say.
    pub schema_hash: u64,
    /// Most calls of one client in flight; 0 counts as 1.
    pub request_window: u32,
    /// Most items of a stream before the first CREDIT.
    pub stream_window: u32,
    /// Most items of one of its response or item frames; 0 sets no limit.
    pub max_response_items: u32,
    /// Bytes of a ring where the client does not say: raised to a power of two, a page or more.
    pub ring: u32,
    /// Most bytes of a ring.
    pub max_ring: u32,
}

impl Default for ServerLayout2 {
    fn default() -> Self {
        Self {
            features: Features::ALL,
            interface_id: 0,
            schema_hash: 0,
            request_window: WINDOW,
            stream_window: STREAM_WINDOW,
            max_response_items: 0,
            ring: RING,
            max_ring: MAX_RING,
        }
    }
}
