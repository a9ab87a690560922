//! The outer header, 32 bytes, first in every message on every carrier.
//!
//! ```text
//!  0 u32 magic 0x4e495043   4 u16 version 1   6 u16 header_len 32
//!  8 u16 kind              10 u16 flags      12 u16 code          14 u16 transport_status
//! 16 u32 payload_len       20 u32 item_count 24 u64 message_id
//! ```

use crate::bytes::{put, u16_at, u32_at, u64_at};
use core::fmt;

/// First four bytes of every message, as a native integer.
pub const MAGIC: u32 = 0x4e49_5043;
/// The only protocol version there is.
pub const VERSION: u16 = 1;
/// Length of the envelope in bytes.
pub const ENVELOPE_LEN: usize = 32;
/// Largest payload of one message: envelope and payload together fit a `u32`.
pub const MAX_PAYLOAD_LEN: u32 = u32::MAX - ENVELOPE_LEN as u32;

const FLAG_BATCH: u16 = 1;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// A client asks.
    Request = 1,
    /// A server answers.
    Response = 2,
    /// The handshake; `code` is [`HELLO`](crate::HELLO) or [`HELLO_ACK`](crate::HELLO_ACK).
    Control = 3,
}

/// Outcome of the envelope, as carried in `transport_status`. What the service has to say is inside the payload.
///
/// A newtype and not an enum: a peer may send values that this version does not know, and they must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u16);

impl Status {
    /// Success.
    pub const OK: Self = Self(0);
    /// The payload could not be decoded.
    pub const BAD_ENVELOPE: Self = Self(1);
    /// The token does not match.
    pub const AUTH_FAILED: Self = Self(2);
    /// Version, layout or packet size do not fit together.
    pub const INCOMPATIBLE: Self = Self(3);
    /// No common profile, or a method that this endpoint does not serve.
    pub const UNSUPPORTED: Self = Self(4);
    /// A size is above the negotiated limit.
    pub const LIMIT_EXCEEDED: Self = Self(5);
    /// The handler failed, or the server cannot take another session.
    pub const INTERNAL_ERROR: Self = Self(6);
    /// The client took the request back before it was answered (layout 2 only, as are all that follow).
    pub const CANCELLED: Self = Self(7);
    /// The request's time was over before it was answered.
    pub const DEADLINE_EXCEEDED: Self = Self(8);
    /// The handler ended without an answer.
    pub const ABORTED: Self = Self(9);
    /// The server has no room now, or is going away; the request was not begun.
    pub const UNAVAILABLE: Self = Self(10);
    /// The service's own error: its code is in the payload.
    pub const APPLICATION: Self = Self(11);

    /// Whether this is [`Status::OK`].
    #[must_use]
    #[inline]
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "OK",
            1 => "BAD_ENVELOPE",
            2 => "AUTH_FAILED",
            3 => "INCOMPATIBLE",
            4 => "UNSUPPORTED",
            5 => "LIMIT_EXCEEDED",
            6 => "INTERNAL_ERROR",
            7 => "CANCELLED",
            8 => "DEADLINE_EXCEEDED",
            9 => "ABORTED",
            10 => "UNAVAILABLE",
            11 => "APPLICATION",
            other => return write!(f, "status {other}"),
        })
    }
}

/// The decoded outer header. Magic, version and header length are constants and not kept; flag bits other than BATCH
/// are ignored on receive and sent as zero, as the contract demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// Request, response or control.
    pub kind: Kind,
    /// The payload is a [`Batch`](crate::Batch) of `item_count` items.
    pub batch: bool,
    /// Method code, or control opcode.
    pub code: u16,
    /// Outcome; zero in requests.
    pub status: Status,
    /// Bytes of the whole logical payload, which may span several packets.
    pub payload_len: u32,
    /// 1 for a single message, N for a batch.
    pub item_count: u32,
    /// Chosen by the client, echoed by the response.
    pub message_id: u64,
}

/// Why 32 bytes are not an envelope. Checks run in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Fewer than 32 bytes.
    #[error("envelope is truncated: {len} of 32 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// The first four bytes are not the magic: the peer does not speak netipc, or has another byte order.
    #[error("envelope magic is {found:#010x}, not 0x4e495043")]
    Magic {
        /// What was there.
        found: u32,
    },
    /// A version other than 1.
    #[error("envelope version is {found}, not 1")]
    Version {
        /// What was there.
        found: u16,
    },
    /// A header length other than 32.
    #[error("envelope header length is {found}, not 32")]
    HeaderLen {
        /// What was there.
        found: u16,
    },
    /// A kind that is neither request, response nor control.
    #[error("envelope kind is {found}, not 1, 2 or 3")]
    Kind {
        /// What was there.
        found: u16,
    },
}

impl Envelope {
    /// A single request.
    #[must_use]
    #[inline]
    pub const fn request(code: u16, message_id: u64, payload_len: u32) -> Self {
        Self { kind: Kind::Request, batch: false, code, status: Status::OK, payload_len, item_count: 1, message_id }
    }

    /// The single response to `request`: same code, same id.
    #[must_use]
    #[inline]
    pub const fn response_to(request: &Self, status: Status, payload_len: u32) -> Self {
        let (code, message_id) = (request.code, request.message_id);
        Self { kind: Kind::Response, batch: false, code, status, payload_len, item_count: 1, message_id }
    }

    /// The same envelope for a payload that is a batch of `item_count` items.
    #[must_use]
    #[inline]
    pub const fn with_batch(self, item_count: u32) -> Self {
        Self { batch: true, item_count, ..self }
    }

    /// Envelope and payload together, in bytes.
    #[must_use]
    #[inline]
    pub const fn total_len(&self) -> u64 {
        ENVELOPE_LEN as u64 + self.payload_len as u64
    }

    /// The 32 bytes.
    #[must_use]
    #[inline]
    pub fn encode(&self) -> [u8; ENVELOPE_LEN] {
        let mut out = [0; ENVELOPE_LEN];
        put(&mut out, 0, MAGIC.to_ne_bytes());
        put(&mut out, 4, VERSION.to_ne_bytes());
        put(&mut out, 6, (ENVELOPE_LEN as u16).to_ne_bytes());
        put(&mut out, 8, (self.kind as u16).to_ne_bytes());
        put(&mut out, 10, (if self.batch { FLAG_BATCH } else { 0 }).to_ne_bytes());
        put(&mut out, 12, self.code.to_ne_bytes());
        put(&mut out, 14, self.status.0.to_ne_bytes());
        put(&mut out, 16, self.payload_len.to_ne_bytes());
        put(&mut out, 20, self.item_count.to_ne_bytes());
        put(&mut out, 24, self.message_id.to_ne_bytes());
        out
    }

    /// Reads the envelope at the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`EnvelopeError`].
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() < ENVELOPE_LEN {
            return Err(EnvelopeError::Truncated { len: bytes.len() });
        }
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(EnvelopeError::Magic { found: magic });
        }
        let version = u16_at(bytes, 4);
        if version != VERSION {
            return Err(EnvelopeError::Version { found: version });
        }
        let header_len = u16_at(bytes, 6);
        if usize::from(header_len) != ENVELOPE_LEN {
            return Err(EnvelopeError::HeaderLen { found: header_len });
        }
        let kind = match u16_at(bytes, 8) {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Control,
            found => return Err(EnvelopeError::Kind { found }),
        };
        Ok(Self {
            kind,
            batch: u16_at(bytes, 10) & FLAG_BATCH != 0,
            code: u16_at(bytes, 12),
            status: Status(u16_at(bytes, 14)),
            payload_len: u32_at(bytes, 16),
            item_count: u32_at(bytes, 20),
            message_id: u64_at(bytes, 24),
        })
    }
}

/// One message, borrowed: its envelope and all bytes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The decoded envelope.
    pub envelope: Envelope,
    /// What follows it. A receiver has checked that its length is `envelope.payload_len`, except in shared memory,
    /// where the contract takes the length from the slot.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Splits `bytes` into envelope and payload; `payload_len` is not compared.
    ///
    /// # Errors
    /// Those of [`Envelope::decode`].
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        Ok(Self { envelope: Envelope::decode(bytes)?, payload: &bytes[ENVELOPE_LEN..] })
    }
}
