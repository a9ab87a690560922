//! The handshake: one HELLO of 44 bytes, one HELLO_ACK of 48, each behind an envelope.
//!
//! ```text
//! HELLO                                   HELLO_ACK
//!  0 u16 layout_version 1                  0 u16 layout_version 1
//!  2 u16 flags 0                           2 u16 flags 0
//!  4 u32 supported_profiles                4 u32 server_supported_profiles
//!  8 u32 preferred_profiles                8 u32 intersection_profiles
//! 12 u32 max_request_payload_bytes        12 u32 selected_profile
//! 16 u32 max_request_batch_items          16 u32 agreed_max_request_payload_bytes
//! 20 u32 max_response_payload_bytes       20 u32 agreed_max_request_batch_items
//! 24 u32 max_response_batch_items         24 u32 agreed_max_response_payload_bytes
//! 28 u32 reserved 0                       28 u32 agreed_max_response_batch_items
//! 32 u64 auth_token                       32 u32 agreed_packet_size
//! 40 u32 packet_size                      36 u32 reserved 0
//!                                         40 u64 session_id
//! ```

use crate::bytes::{put, u16_at, u32_at, u64_at};
use crate::{ENVELOPE_LEN, Envelope, Kind, Status};
use core::fmt;
use core::ops::{BitAnd, BitOr};

/// Control opcode of the client's greeting.
pub const HELLO: u16 = 1;
/// Control opcode of the server's answer.
pub const HELLO_ACK: u16 = 2;
/// Payload bytes of a HELLO.
pub const HELLO_LEN: usize = 44;
/// Payload bytes of a HELLO_ACK.
pub const HELLO_ACK_LEN: usize = 48;
/// The only layout of HELLO and HELLO_ACK of this version.
pub const LAYOUT_VERSION: u16 = 1;

/// A set of transport profiles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Profiles(pub u32);

impl Profiles {
    /// No profile.
    pub const NONE: Self = Self(0);
    /// Messages travel on the socket.
    pub const BASELINE: Self = Self(0x01);
    /// Messages travel in a shared-memory region with one slot per direction; the socket stays as liveness signal.
    pub const SHM_HYBRID: Self = Self(0x02);
    /// Treated by every peer exactly as [`Profiles::SHM_HYBRID`].
    pub const SHM_FUTEX: Self = Self(0x04);
    /// The Windows profile; never served here.
    pub const SHM_WAITADDR: Self = Self(0x08);
    /// Messages travel in two byte rings of one sealed memfd; only in a handshake of layout 2.
    pub const RING: Self = Self(0x10);

    /// Whether every profile of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it holds one profile and no more.
    #[must_use]
    pub const fn is_single(self) -> bool {
        self.0.is_power_of_two()
    }

    /// The highest profile of the set, or the empty set.
    #[must_use]
    pub const fn highest(self) -> Self {
        match self.0.checked_ilog2() {
            Some(bit) => Self(1 << bit),
            None => Self(0),
        }
    }

    /// `self` without the profiles of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether a message of this profile travels in the netipc shared-memory region.
    #[must_use]
    pub const fn is_shared_memory(self) -> bool {
        self.0 & (Self::SHM_HYBRID.0 | Self::SHM_FUTEX.0) != 0
    }
}

impl BitOr for Profiles {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Profiles {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Profiles({:#x})", self.0)
    }
}

impl fmt::Display for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What a client proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Profiles the client can speak.
    pub supported: Profiles,
    /// Profiles the client would rather speak; may be empty.
    pub preferred: Profiles,
    /// Largest request payload the client will send, in bytes.
    pub max_request_payload: u32,
    /// Most items of a request batch.
    pub max_request_items: u32,
    /// A hint: servers answer with their own value.
    pub max_response_payload: u32,
    /// Ignored by servers.
    pub max_response_items: u32,
    /// Opaque secret shared by both sides.
    pub auth_token: u64,
    /// Largest packet the client can send and receive, in bytes.
    pub packet_size: u32,
}

/// Why a payload is not a HELLO. Checks run in the order of the variants. `flags` is not checked, as in every known
/// server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Fewer than 44 bytes.
    #[error("HELLO is truncated: {len} of 44 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// A layout other than 1.
    #[error("HELLO layout is {found}, not 1")]
    Layout {
        /// What was there.
        found: u16,
    },
    /// The reserved field is not zero.
    #[error("HELLO reserved field is {found:#x}, not 0")]
    Reserved {
        /// What was there.
        found: u32,
    },
}

impl Hello {
    /// The 44 payload bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        put(&mut out, 0, LAYOUT_VERSION.to_ne_bytes());
        put(&mut out, 4, self.supported.0.to_ne_bytes());
        put(&mut out, 8, self.preferred.0.to_ne_bytes());
        put(&mut out, 12, self.max_request_payload.to_ne_bytes());
        put(&mut out, 16, self.max_request_items.to_ne_bytes());
        put(&mut out, 20, self.max_response_payload.to_ne_bytes());
        put(&mut out, 24, self.max_response_items.to_ne_bytes());
        put(&mut out, 32, self.auth_token.to_ne_bytes());
        put(&mut out, 40, self.packet_size.to_ne_bytes());
        out
    }

    /// The whole greeting: envelope and payload, one packet.
    #[must_use]
    pub fn packet(&self) -> [u8; ENVELOPE_LEN + HELLO_LEN] {
        let mut out = [0; ENVELOPE_LEN + HELLO_LEN];
        put(&mut out, 0, control(HELLO, Status::OK, HELLO_LEN as u32).encode());
        put(&mut out, ENVELOPE_LEN, self.encode());
        out
    }

    /// Reads a HELLO payload. Bytes after the 44th are ignored, as every known server does.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`HelloError`].
    pub fn decode(payload: &[u8]) -> Result<Self, HelloError> {
        if payload.len() < HELLO_LEN {
            return Err(HelloError::Truncated { len: payload.len() });
        }
        let layout = u16_at(payload, 0);
        if layout != LAYOUT_VERSION {
            return Err(HelloError::Layout { found: layout });
        }
        let reserved = u32_at(payload, 28);
        if reserved != 0 {
            return Err(HelloError::Reserved { found: reserved });
        }
        Ok(Self {
            supported: Profiles(u32_at(payload, 4)),
            preferred: Profiles(u32_at(payload, 8)),
            max_request_payload: u32_at(payload, 12),
            max_request_items: u32_at(payload, 16),
            max_response_payload: u32_at(payload, 20),
            max_response_items: u32_at(payload, 24),
            auth_token: u64_at(payload, 32),
            packet_size: u32_at(payload, 40),
        })
    }
}

/// What a server grants. A session uses these values and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloAck {
    /// Profiles the server can speak.
    pub supported: Profiles,
    /// Profiles both can speak.
    pub intersection: Profiles,
    /// The one profile of this session.
    pub selected: Profiles,
    /// Largest request payload in bytes.
    pub max_request_payload: u32,
    /// Most items of a request batch.
    pub max_request_items: u32,
    /// Largest response payload in bytes.
    pub max_response_payload: u32,
    /// Most items of a response batch.
    pub max_response_items: u32,
    /// Largest packet in bytes.
    pub packet_size: u32,
    /// The server's number of this session; names its shared-memory file.
    pub session_id: u64,
}

/// Why a payload is not a HELLO_ACK. Checks run in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloAckError {
    /// Fewer than 48 bytes.
    #[error("HELLO_ACK is truncated: {len} of 48 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// A layout other than 1.
    #[error("HELLO_ACK layout is {found}, not 1")]
    Layout {
        /// What was there.
        found: u16,
    },
    /// Flags that this version does not know.
    #[error("HELLO_ACK flags are {found:#x}, not 0")]
    Flags {
        /// What was there.
        found: u16,
    },
}

impl HelloAck {
    /// The 48 payload bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_ACK_LEN] {
        let mut out = [0; HELLO_ACK_LEN];
        put(&mut out, 0, LAYOUT_VERSION.to_ne_bytes());
        put(&mut out, 4, self.supported.0.to_ne_bytes());
        put(&mut out, 8, self.intersection.0.to_ne_bytes());
        put(&mut out, 12, self.selected.0.to_ne_bytes());
        put(&mut out, 16, self.max_request_payload.to_ne_bytes());
        put(&mut out, 20, self.max_request_items.to_ne_bytes());
        put(&mut out, 24, self.max_response_payload.to_ne_bytes());
        put(&mut out, 28, self.max_response_items.to_ne_bytes());
        put(&mut out, 32, self.packet_size.to_ne_bytes());
        put(&mut out, 40, self.session_id.to_ne_bytes());
        out
    }

    /// The whole acceptance: envelope and payload, one packet.
    #[must_use]
    pub fn packet(&self) -> [u8; ENVELOPE_LEN + HELLO_ACK_LEN] {
        ack_packet(Status::OK, self.encode())
    }

    /// The whole rejection: `status` in the envelope, a payload of zeros but for its layout.
    ///
    /// # Panics
    ///
    /// If `status` is OK: that would be no rejection, and no valid acceptance either.
    #[must_use]
    pub fn rejection(status: Status) -> [u8; ENVELOPE_LEN + HELLO_ACK_LEN] {
        assert!(!status.is_ok(), "a rejection needs a reason");
        let mut payload = [0; HELLO_ACK_LEN];
        put(&mut payload, 0, LAYOUT_VERSION.to_ne_bytes());
        ack_packet(status, payload)
    }

    /// Reads a HELLO_ACK payload; the reserved field and bytes after the 48th are ignored.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`HelloAckError`].
    pub fn decode(payload: &[u8]) -> Result<Self, HelloAckError> {
        if payload.len() < HELLO_ACK_LEN {
            return Err(HelloAckError::Truncated { len: payload.len() });
        }
        let layout = u16_at(payload, 0);
        if layout != LAYOUT_VERSION {
            return Err(HelloAckError::Layout { found: layout });
        }
        let flags = u16_at(payload, 2);
        if flags != 0 {
            return Err(HelloAckError::Flags { found: flags });
        }
        Ok(Self {
            supported: Profiles(u32_at(payload, 4)),
            intersection: Profiles(u32_at(payload, 8)),
            selected: Profiles(u32_at(payload, 12)),
            max_request_payload: u32_at(payload, 16),
            max_request_items: u32_at(payload, 20),
            max_response_payload: u32_at(payload, 24),
            max_response_items: u32_at(payload, 28),
            packet_size: u32_at(payload, 32),
            session_id: u64_at(payload, 40),
        })
    }
}

fn ack_packet(status: Status, payload: [u8; HELLO_ACK_LEN]) -> [u8; ENVELOPE_LEN + HELLO_ACK_LEN] {
    let mut out = [0; ENVELOPE_LEN + HELLO_ACK_LEN];
    put(&mut out, 0, control(HELLO_ACK, status, HELLO_ACK_LEN as u32).encode());
    put(&mut out, ENVELOPE_LEN, payload);
    out
}

pub(crate) fn control(code: u16, status: Status, payload_len: u32) -> Envelope {
    Envelope { kind: Kind::Control, batch: false, code, status, payload_len, item_count: 1, message_id: 0 }
}
