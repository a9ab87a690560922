//! The handshake of Ginnel's own peers: HELLO and HELLO_ACK of layout 2, 96 bytes each behind an envelope.
//!
//! The first 44 bytes of HELLO are those of layout 1 but for the layout number, and the whole packet has 128 bytes, as
//! many as the known layout-1 servers read. Such a server answers INCOMPATIBLE, in a payload that says layout 1.
//!
//! ```text
//! HELLO 2                                 HELLO_ACK 2
//!  0 u16 layout_version 2                  0 u16 layout_version 2
//!  2 u16 flags 0                           2 u16 flags 0
//!  4 u32 supported_profiles                4 u32 server_supported_profiles
//!  8 u32 preferred_profiles                8 u32 intersection_profiles
//! 12 u32 max_request_payload_bytes        12 u32 selected_profile
//! 16 u32 max_request_batch_items          16 u32 agreed_max_request_payload_bytes
//! 20 u32 max_response_payload_bytes       20 u32 agreed_max_request_batch_items
//! 24 u32 max_response_batch_items         24 u32 agreed_max_response_payload_bytes
//! 28 u32 reserved 0                       28 u32 agreed_max_response_batch_items
//! 32 u64 auth_token                       32 u32 agreed_packet_size
//! 40 u32 packet_size                      36 u32 agreed_features
//! 44 u32 features                         40 u64 session_id
//! 48 u64 interface_id                     48 u64 interface_id
//! 56 u64 schema_hash                      56 u64 schema_hash
//! 64 u32 required_features                64 u32 reserved 0
//! 68 u32 request_window                   68 u32 agreed_request_window
//! 72 u32 stream_window                    72 u32 agreed_stream_window
//! 76 u32 request_ring_bytes               76 u32 request_ring_bytes
//! 80 u32 response_ring_bytes              80 u32 response_ring_bytes
//! 84 u32 reserved 0                       84 u32 descriptors
//! 88 u64 reserved 0                       88 u64 reserved 0
//! ```

use crate::bytes::{put, u16_at, u32_at, u64_at};
use crate::hello::control;
use crate::{ENVELOPE_LEN, HELLO, HELLO_ACK, Profiles, Status};
use core::fmt;
use core::ops::{BitAnd, BitOr};

/// The layout of Ginnel's own handshake.
pub const LAYOUT_2: u16 = 2;
/// Payload bytes of a HELLO of layout 2.
pub const HELLO_2_LEN: usize = 96;
/// Payload bytes of a HELLO_ACK of layout 2.
pub const HELLO_ACK_2_LEN: usize = 96;
/// Bytes of a ring, if there is one: a power of two in this range.
pub const RING_BYTES: core::ops::RangeInclusive<u32> = 4096..=1 << 30;
/// Descriptors that come with the HELLO_ACK of a RING session: the rings, the bell that the client hears, and both ends
/// of the one that it rings.
pub const RING_DESCRIPTORS: u32 = 4;

/// What a peer can do beyond unary calls with cancellation, structured errors and GOAWAY, which every peer of layout 2
/// can. A set; bits that a peer does not know are ignored in a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u32);

impl Features {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Requests that get no answer.
    pub const ONE_WAY: Self = Self(0x01);
    /// Responses of many items, with credit.
    pub const STREAMS: Self = Self(0x02);
    /// METHODS is answered.
    pub const METHOD_HASHES: Self = Self(0x04);
    /// All that this version knows.
    pub const ALL: Self = Self(0x07);

    /// Whether every feature of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// `self` without the features of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Features {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Features {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({:#x})", self.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What a client of layout 2 proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello2 {
    /// Profiles the client can speak.
    pub supported: Profiles,
    /// Profiles the client would rather speak; may be empty.
    pub preferred: Profiles,
    /// Largest request body the client will send, in bytes.
    pub max_request_payload: u32,
    /// Most items of a request batch.
    pub max_request_items: u32,
    /// Largest response body the client takes, in bytes.
    pub max_response_payload: u32,
    /// Most items of one response or stream frame that the client takes.
    pub max_response_items: u32,
    /// Opaque secret shared by both sides.
    pub auth_token: u64,
    /// Largest packet the client can send and receive, in bytes.
    pub packet_size: u32,
    /// What the client can do.
    pub features: Features,
    /// What the server must be able to do; a subset of `features`.
    pub required: Features,
    /// The interface that the client wants; 0 takes any.
    pub interface_id: u64,
    /// Hash of the interface as the client knows it; 0 if it does not say.
    pub schema_hash: u64,
    /// Most requests that the client will have in flight; at least 1.
    pub request_window: u32,
    /// Most items of one stream that the server may send before the first CREDIT.
    pub stream_window: u32,
    /// Bytes of the ring for requests that the client would like; 0 leaves it to the server.
    pub request_ring: u32,
    /// Bytes of the ring for responses that the client would like; 0 leaves it to the server.
    pub response_ring: u32,
}

/// Why a payload is not a HELLO of layout 2. Checks run in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Hello2Error {
    /// Fewer than 96 bytes.
    #[error("HELLO 2 is truncated: {len} of 96 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// A layout other than 2.
    #[error("HELLO layout is {found}, not 2")]
    Layout {
        /// What was there.
        found: u16,
    },
    /// Flags that this version does not know.
    #[error("HELLO 2 flags are {found:#x}, not 0")]
    Flags {
        /// What was there.
        found: u16,
    },
    /// A reserved field is not zero.
    #[error("HELLO 2 reserved field at {offset} is {found:#x}, not 0")]
    Reserved {
        /// Where it is.
        offset: usize,
        /// What was there.
        found: u64,
    },
    /// The client requires what it cannot do itself.
    #[error("HELLO 2 requires features {required}, and offers {features}")]
    Required {
        /// What it requires.
        required: Features,
        /// What it offers.
        features: Features,
    },
    /// No request could ever be sent.
    #[error("HELLO 2 request window is 0")]
    RequestWindow,
    /// A ring that cannot be.
    #[error("HELLO 2 ring at {offset} has {found} bytes, not 0 or a power of two from 4096 to 2^30")]
    Ring {
        /// Where the field is.
        offset: usize,
        /// What was there.
        found: u32,
    },
}

impl Hello2 {
    /// The 96 payload bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_2_LEN] {
        let mut out = [0; HELLO_2_LEN];
        put(&mut out, 0, LAYOUT_2.to_ne_bytes());
        put(&mut out, 4, self.supported.0.to_ne_bytes());
        put(&mut out, 8, self.preferred.0.to_ne_bytes());
        put(&mut out, 12, self.max_request_payload.to_ne_bytes());
        put(&mut out, 16, self.max_request_items.to_ne_bytes());
        put(&mut out, 20, self.max_response_payload.to_ne_bytes());
        put(&mut out, 24, self.max_response_items.to_ne_bytes());
        put(&mut out, 32, self.auth_token.to_ne_bytes());
        put(&mut out, 40, self.packet_size.to_ne_bytes());
        put(&mut out, 44, self.features.0.to_ne_bytes());
        put(&mut out, 48, self.interface_id.to_ne_bytes());
        put(&mut out, 56, self.schema_hash.to_ne_bytes());
        put(&mut out, 64, self.required.0.to_ne_bytes());
        put(&mut out, 68, self.request_window.to_ne_bytes());
        put(&mut out, 72, self.stream_window.to_ne_bytes());
        put(&mut out, 76, self.request_ring.to_ne_bytes());
        put(&mut out, 80, self.response_ring.to_ne_bytes());
        out
    }

    /// The whole greeting: envelope and payload, one packet of 128 bytes.
    #[must_use]
    pub fn packet(&self) -> [u8; ENVELOPE_LEN + HELLO_2_LEN] {
        packet(HELLO, Status::OK, self.encode())
    }

    /// Reads a HELLO payload of layout 2. Bytes after the 96th are ignored: a later minor version may append.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`Hello2Error`].
    pub fn decode(payload: &[u8]) -> Result<Self, Hello2Error> {
        if payload.len() < HELLO_2_LEN {
            // A shorter greeting of another layout is that layout's, and told so.
            if payload.len() >= 2 && u16_at(payload, 0) != LAYOUT_2 {
                return Err(Hello2Error::Layout { found: u16_at(payload, 0) });
            }
            return Err(Hello2Error::Truncated { len: payload.len() });
        }
        if u16_at(payload, 0) != LAYOUT_2 {
            return Err(Hello2Error::Layout { found: u16_at(payload, 0) });
        }
        if u16_at(payload, 2) != 0 {
            return Err(Hello2Error::Flags { found: u16_at(payload, 2) });
        }
        for offset in [28, 84] {
            let found = u64::from(u32_at(payload, offset));
            if found != 0 {
                return Err(Hello2Error::Reserved { offset, found });
            }
        }
        if u64_at(payload, 88) != 0 {
            return Err(Hello2Error::Reserved { offset: 88, found: u64_at(payload, 88) });
        }
        let hello = Self {
            supported: Profiles(u32_at(payload, 4)),
            preferred: Profiles(u32_at(payload, 8)),
            max_request_payload: u32_at(payload, 12),
            max_request_items: u32_at(payload, 16),
            max_response_payload: u32_at(payload, 20),
            max_response_items: u32_at(payload, 24),
            auth_token: u64_at(payload, 32),
            packet_size: u32_at(payload, 40),
            features: Features(u32_at(payload, 44)),
            required: Features(u32_at(payload, 64)),
            interface_id: u64_at(payload, 48),
            schema_hash: u64_at(payload, 56),
            request_window: u32_at(payload, 68),
            stream_window: u32_at(payload, 72),
            request_ring: u32_at(payload, 76),
            response_ring: u32_at(payload, 80),
        };
        if !hello.features.contains(hello.required) {
            return Err(Hello2Error::Required { required: hello.required, features: hello.features });
        }
        if hello.request_window == 0 {
            return Err(Hello2Error::RequestWindow);
        }
        for (offset, found) in [(76, hello.request_ring), (80, hello.response_ring)] {
            if found != 0 && !is_ring(found) {
                return Err(Hello2Error::Ring { offset, found });
            }
        }
        Ok(hello)
    }
}

/// What a server of layout 2 grants. A session uses these values and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HelloAck2 {
    /// Profiles the server can speak.
    pub supported: Profiles,
    /// Profiles both can speak.
    pub intersection: Profiles,
    /// The one profile of this session.
    pub selected: Profiles,
    /// Largest request body in bytes.
    pub max_request_payload: u32,
    /// Most items of a request batch.
    pub max_request_items: u32,
    /// Largest response body in bytes.
    pub max_response_payload: u32,
    /// Most items of one response or stream frame.
    pub max_response_items: u32,
    /// Largest packet in bytes.
    pub packet_size: u32,
    /// What both can do.
    pub features: Features,
    /// The server's number of this session.
    pub session_id: u64,
    /// The interface that this session is about; 0 if the server has none.
    pub interface_id: u64,
    /// Hash of the interface as the server knows it; 0 if it does not say.
    pub schema_hash: u64,
    /// Most requests in flight.
    pub request_window: u32,
    /// Most items of one stream before the first CREDIT.
    pub stream_window: u32,
    /// Bytes of the ring for requests; 0 without rings.
    pub request_ring: u32,
    /// Bytes of the ring for responses; 0 without rings.
    pub response_ring: u32,
    /// Descriptors that come with this packet.
    pub descriptors: u32,
}

/// Why a payload is not a HELLO_ACK of layout 2. Checks run in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloAck2Error {
    /// Fewer than 96 bytes.
    #[error("HELLO_ACK 2 is truncated: {len} of 96 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// A layout other than 2. With layout 1 the server is a plain netipc peer: greet it again on a fresh connection.
    #[error("HELLO_ACK layout is {found}, not 2")]
    Layout {
        /// What was there.
        found: u16,
    },
    /// Flags that this version does not know.
    #[error("HELLO_ACK 2 flags are {found:#x}, not 0")]
    Flags {
        /// What was there.
        found: u16,
    },
    /// A reserved field is not zero.
    #[error("HELLO_ACK 2 reserved field at {offset} is {found:#x}, not 0")]
    Reserved {
        /// Where it is.
        offset: usize,
        /// What was there.
        found: u64,
    },
    /// None, or more than one profile.
    #[error("HELLO_ACK 2 selects profiles {found}, not exactly one")]
    Selected {
        /// What was there.
        found: Profiles,
    },
    /// No request could ever be sent.
    #[error("HELLO_ACK 2 request window is 0")]
    RequestWindow,
    /// A ring that cannot be, or one without the RING profile.
    #[error("HELLO_ACK 2 ring at {offset} has {found} bytes, which profile {selected} does not allow")]
    Ring {
        /// Where the field is.
        offset: usize,
        /// What was there.
        found: u32,
        /// The profile of the session.
        selected: Profiles,
    },
    /// Not the number of descriptors that the profile takes.
    #[error("HELLO_ACK 2 announces {found} descriptors, profile {selected} takes {expected}")]
    Descriptors {
        /// What was there.
        found: u32,
        /// What the profile takes.
        expected: u32,
        /// The profile of the session.
        selected: Profiles,
    },
}

impl HelloAck2 {
    /// The 96 payload bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_ACK_2_LEN] {
        let mut out = [0; HELLO_ACK_2_LEN];
        put(&mut out, 0, LAYOUT_2.to_ne_bytes());
        put(&mut out, 4, self.supported.0.to_ne_bytes());
        put(&mut out, 8, self.intersection.0.to_ne_bytes());
        put(&mut out, 12, self.selected.0.to_ne_bytes());
        put(&mut out, 16, self.max_request_payload.to_ne_bytes());
        put(&mut out, 20, self.max_request_items.to_ne_bytes());
        put(&mut out, 24, self.max_response_payload.to_ne_bytes());
        put(&mut out, 28, self.max_response_items.to_ne_bytes());
        put(&mut out, 32, self.packet_size.to_ne_bytes());
        put(&mut out, 36, self.features.0.to_ne_bytes());
        put(&mut out, 40, self.session_id.to_ne_bytes());
        put(&mut out, 48, self.interface_id.to_ne_bytes());
        put(&mut out, 56, self.schema_hash.to_ne_bytes());
        put(&mut out, 68, self.request_window.to_ne_bytes());
        put(&mut out, 72, self.stream_window.to_ne_bytes());
        put(&mut out, 76, self.request_ring.to_ne_bytes());
        put(&mut out, 80, self.response_ring.to_ne_bytes());
        put(&mut out, 84, self.descriptors.to_ne_bytes());
        out
    }

    /// The whole acceptance: envelope and payload, one packet of 128 bytes.
    #[must_use]
    pub fn packet(&self) -> [u8; ENVELOPE_LEN + HELLO_ACK_2_LEN] {
        packet(HELLO_ACK, Status::OK, self.encode())
    }

    /// The whole rejection, an answer to a HELLO of layout 2 only: `status` in the envelope, and in the payload what
    /// the server is, so that the client can say what does not fit or propose what does. Everything else there is zero.
    ///
    /// # Panics
    ///
    /// If `status` is OK: that would be no rejection.
    #[must_use]
    pub fn rejection(status: Status, server: &ServerFacts) -> [u8; ENVELOPE_LEN + HELLO_ACK_2_LEN] {
        assert!(!status.is_ok(), "a rejection needs a reason");
        let facts = Self {
            supported: server.supported,
            max_request_payload: server.max_request_payload,
            max_response_payload: server.max_response_payload,
            packet_size: server.packet_size,
            features: server.features,
            interface_id: server.interface_id,
            schema_hash: server.schema_hash,
            ..Self::default()
        };
        packet(HELLO_ACK, status, facts.encode())
    }

    /// Reads the payload of a HELLO_ACK of layout 2 whose status is OK; bytes after the 96th are ignored.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`HelloAck2Error`].
    pub fn decode(payload: &[u8]) -> Result<Self, HelloAck2Error> {
        let ack = Self::read(payload)?;
        if !ack.selected.is_single() {
            return Err(HelloAck2Error::Selected { found: ack.selected });
        }
        if ack.request_window == 0 {
            return Err(HelloAck2Error::RequestWindow);
        }
        let selected = ack.selected;
        let ring = selected == Profiles::RING;
        for (offset, found) in [(76, ack.request_ring), (80, ack.response_ring)] {
            if if ring { !is_ring(found) } else { found != 0 } {
                return Err(HelloAck2Error::Ring { offset, found, selected });
            }
        }
        let expected = if ring { RING_DESCRIPTORS } else { 0 };
        if ack.descriptors != expected {
            return Err(HelloAck2Error::Descriptors { found: ack.descriptors, expected, selected });
        }
        Ok(ack)
    }

    /// Reads what the server says of itself in the payload of a rejection.
    ///
    /// # Errors
    /// The first of the length, layout, flags and reserved checks that fails. [`HelloAck2Error::Layout`] with layout 1
    /// is the answer of a plain netipc peer, which has no facts to tell.
    pub fn decode_rejection(payload: &[u8]) -> Result<ServerFacts, HelloAck2Error> {
        let ack = Self::read(payload)?;
        Ok(ServerFacts {
            supported: ack.supported,
            max_request_payload: ack.max_request_payload,
            max_response_payload: ack.max_response_payload,
            packet_size: ack.packet_size,
            features: ack.features,
            interface_id: ack.interface_id,
            schema_hash: ack.schema_hash,
        })
    }

    fn read(payload: &[u8]) -> Result<Self, HelloAck2Error> {
        if payload.len() < HELLO_ACK_2_LEN {
            if payload.len() >= 2 && u16_at(payload, 0) != LAYOUT_2 {
                return Err(HelloAck2Error::Layout { found: u16_at(payload, 0) });
            }
            return Err(HelloAck2Error::Truncated { len: payload.len() });
        }
        if u16_at(payload, 0) != LAYOUT_2 {
            return Err(HelloAck2Error::Layout { found: u16_at(payload, 0) });
        }
        if u16_at(payload, 2) != 0 {
            return Err(HelloAck2Error::Flags { found: u16_at(payload, 2) });
        }
        if u32_at(payload, 64) != 0 {
            return Err(HelloAck2Error::Reserved { offset: 64, found: u64::from(u32_at(payload, 64)) });
        }
        if u64_at(payload, 88) != 0 {
            return Err(HelloAck2Error::Reserved { offset: 88, found: u64_at(payload, 88) });
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
            features: Features(u32_at(payload, 36)),
            session_id: u64_at(payload, 40),
            interface_id: u64_at(payload, 48),
            schema_hash: u64_at(payload, 56),
            request_window: u32_at(payload, 68),
            stream_window: u32_at(payload, 72),
            request_ring: u32_at(payload, 76),
            response_ring: u32_at(payload, 80),
            descriptors: u32_at(payload, 84),
        })
    }
}

/// What a server says of itself when it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// Profiles it speaks.
    pub supported: Profiles,
    /// Largest request body it takes, in bytes.
    pub max_request_payload: u32,
    /// Largest response body it sends, in bytes.
    pub max_response_payload: u32,
    /// Largest packet, in bytes.
    pub packet_size: u32,
    /// What it can do.
    pub features: Features,
    /// Its interface; 0 if it has none.
    pub interface_id: u64,
    /// Hash of its interface; 0 if it does not say.
    pub schema_hash: u64,
}

/// The layout that a HELLO or HELLO_ACK payload says it has; `None` if it is too short to say.
#[must_use]
pub fn layout_of(payload: &[u8]) -> Option<u16> {
    (payload.len() >= 2).then(|| u16_at(payload, 0))
}

fn is_ring(bytes: u32) -> bool {
    bytes.is_power_of_two() && RING_BYTES.contains(&bytes)
}

fn packet(code: u16, status: Status, payload: [u8; 96]) -> [u8; ENVELOPE_LEN + 96] {
    let mut out = [0; ENVELOPE_LEN + 96];
    put(&mut out, 0, control(code, status, 96).encode());
    put(&mut out, ENVELOPE_LEN, payload);
    out
}
