//! What both sides of a session agreed on.

use crate::config::Limits;
use crate::credentials::PeerCredentials;
use ginnel_wire::Profiles;
#[cfg(target_os = "linux")]
use ginnel_wire::{HelloAck, HelloAck2};

/// What both sides agreed on, and with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The server's number of this session.
    pub session_id: u64,
    /// How messages travel: [`Profiles::BASELINE`] or one of the shared-memory profiles.
    pub profile: Profiles,
    /// Limits of what the client sends.
    pub request: Limits,
    /// Limits of what the server sends.
    pub response: Limits,
    /// Largest packet in bytes.
    pub packet_size: u32,
    /// Who is at the other end; `None` over TCP.
    pub peer: Option<PeerCredentials>,
}

#[cfg(target_os = "linux")]
impl Agreement {
    pub(crate) fn new_2(ack: &HelloAck2, peer: Option<PeerCredentials>) -> Self {
        Self {
            session_id: ack.session_id,
            profile: ack.selected,
            request: Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items },
            response: Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items },
            packet_size: ack.packet_size,
            peer,
        }
    }

    pub(crate) fn new(ack: &HelloAck, peer: Option<PeerCredentials>) -> Self {
        Self {
            session_id: ack.session_id,
            profile: ack.selected,
            request: Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items },
            response: Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items },
            packet_size: ack.packet_size,
            peer,
        }
    }
}
