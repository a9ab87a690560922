//! What each side brings into a handshake.

use crate::UidPolicy;
pub use crate::layout2::{ClientLayout2, ServerLayout2};
use ginnel_wire::{MAX_PAYLOAD_LEN, Profiles};
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
