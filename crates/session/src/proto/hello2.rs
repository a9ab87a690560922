//! The handshake of layout 2 as decisions: bytes in, one verdict out. No I/O, no clock.
//!
//! The fields and the order of the checks are those of `docs/spec/ginnel-wire-2.md`, chapter 1.

use super::hello::{ack_envelope, select_profile};
use crate::credentials::same_token;
use crate::error::{Refusal, RefuseReason};
use ginnel_wire::{
    ENVELOPE_LEN, Features, Hello2, Hello2Error, HelloAck2, HelloAck2Error, LAYOUT_2, LAYOUT_VERSION, MIN_PACKET_SIZE,
    Profiles, RING_DESCRIPTORS, ServerFacts, Status, layout_of,
};

/// A ring holds at least so many packets, so that one is written while another is read.
const PACKETS_PER_RING: u32 = 4;

/// The server's side of one handshake of layout 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer2 {
    /// Profiles the server speaks in this session. The slot profiles belong to layout 1 and are never selected here.
    pub supported: Profiles,
    /// Profiles it chooses first.
    pub preferred: Profiles,
    /// Largest request body it takes, in bytes.
    pub max_request_payload: u32,
    /// Largest response body it sends, in bytes.
    pub max_response_payload: u32,
    /// Most items of one of its response or stream frames.
    pub max_response_items: u32,
    /// The secret.
    pub token: u64,
    /// Largest packet, in bytes.
    pub packet_size: u32,
    /// What it can do.
    pub features: Features,
    /// Its interface; 0 if it has none.
    pub interface_id: u64,
    /// Hash of its interface; 0 if it does not say.
    pub schema_hash: u64,
    /// Most requests that one client may have in flight; not 0.
    pub request_window: u32,
    /// Most items of a stream before the first CREDIT.
    pub stream_window: u32,
    /// Bytes of a ring where the client asks for none: a power of two, from `min_ring` to `max_ring`.
    pub ring: u32,
    /// Fewest bytes of a ring: a page.
    pub min_ring: u32,
    /// Most bytes of a ring.
    pub max_ring: u32,
    /// Number of this session.
    pub session_id: u64,
    /// A reason to refuse that lies outside HELLO (the user, a full server).
    pub refuse: Option<RefuseReason>,
}

/// What a server does with a HELLO payload of layout 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict2 {
    /// Answer with this (and, on RING, the descriptors), and the session stands.
    Accept(HelloAck2),
    /// Answer with [`HelloAck2::rejection`] of this, then close.
    Refuse(Refuse2, ServerFacts),
    /// Close without a word.
    Close(Hello2Error),
}

/// Why a server refuses a greeting of layout 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refuse2 {
    /// For a reason that layout 1 has, too.
    #[error(transparent)]
    Common(RefuseReason),
    /// The client wants another interface.
    #[error("the client wants interface {client:#018x}, this is {server:#018x}")]
    Interface {
        /// The client's.
        client: u64,
        /// The server's.
        server: u64,
    },
    /// The client requires what the server cannot do.
    #[error("the client requires features {required}, the server has {features}")]
    Features {
        /// What the client requires.
        required: Features,
        /// What the server has.
        features: Features,
    },
}

impl Refuse2 {
    /// The status that tells the client.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Common(reason) => reason.status(),
            Self::Interface { .. } => Status::UNSUPPORTED,
            Self::Features { .. } => Status::INCOMPATIBLE,
        }
    }
}

impl Offer2 {
    fn facts(&self) -> ServerFacts {
        ServerFacts {
            supported: self.supported,
            max_request_payload: self.max_request_payload,
            max_response_payload: self.max_response_payload,
            packet_size: self.packet_size,
            features: self.features,
            interface_id: self.interface_id,
            schema_hash: self.schema_hash,
        }
    }

    fn ring_for(&self, asked: u32) -> u32 {
        if asked == 0 { self.ring } else { asked.clamp(self.min_ring, self.max_ring) }
    }
}

/// The server's verdict on the payload of a HELLO whose layout is 2.
#[must_use]
pub fn judge_hello_2(payload: &[u8], offer: &Offer2) -> Verdict2 {
    let hello = match Hello2::decode(payload) {
        Ok(hello) => hello,
        Err(error) => return Verdict2::Close(error),
    };
    match agree(&hello, offer) {
        Ok(ack) => Verdict2::Accept(ack),
        // Who may not come in learns nothing.
        Err(reason) if reason.status() == Status::AUTH_FAILED => Verdict2::Refuse(reason, ServerFacts::default()),
        Err(reason) => Verdict2::Refuse(reason, offer.facts()),
    }
}

fn agree(hello: &Hello2, offer: &Offer2) -> Result<HelloAck2, Refuse2> {
    let common = |reason| Err(Refuse2::Common(reason));
    // First, because a refusal tells what the server is.
    if !same_token(offer.token, hello.auth_token) {
        return common(RefuseReason::Token);
    }
    if let Some(reason) = offer.refuse {
        return common(reason);
    }
    if hello.interface_id != 0 && hello.interface_id != offer.interface_id {
        return Err(Refuse2::Interface { client: hello.interface_id, server: offer.interface_id });
    }
    let slots = Profiles::SHM_HYBRID | Profiles::SHM_FUTEX | Profiles::SHM_WAITADDR;
    let intersection = (hello.supported & offer.supported).without(slots);
    if intersection.is_empty() {
        return common(RefuseReason::Profiles { client: hello.supported, server: offer.supported });
    }
    if !offer.features.contains(hello.required) {
        return Err(Refuse2::Features { required: hello.required, features: offer.features });
    }
    let (proposed, limit) = (hello.max_request_payload, offer.max_request_payload);
    if proposed > limit {
        return common(RefuseReason::RequestLimit { proposed, limit });
    }
    let selected = select_profile(intersection, hello.preferred, offer.preferred);
    let rings = if selected == Profiles::RING {
        [offer.ring_for(hello.request_ring), offer.ring_for(hello.response_ring)]
    } else {
        [0, 0]
    };
    let mut packet_size = hello.packet_size.min(offer.packet_size);
    if selected == Profiles::RING {
        packet_size = packet_size.min(rings[0].min(rings[1]) / PACKETS_PER_RING);
    }
    if packet_size < MIN_PACKET_SIZE {
        return common(RefuseReason::PacketSize { agreed: packet_size });
    }
    let features = hello.features & offer.features;
    let smaller = |proposed: u32, own: u32| if proposed == 0 { own } else { proposed.min(own) };
    let streams = u32::from(features.contains(Features::STREAMS));
    Ok(HelloAck2 {
        supported: offer.supported,
        intersection,
        selected,
        max_request_payload: hello.max_request_payload,
        max_request_items: hello.max_request_items,
        max_response_payload: smaller(hello.max_response_payload, offer.max_response_payload),
        max_response_items: smaller(hello.max_response_items, offer.max_response_items),
        packet_size,
        features,
        session_id: offer.session_id,
        interface_id: offer.interface_id,
        schema_hash: offer.schema_hash,
        request_window: hello.request_window.min(offer.request_window).max(1),
        stream_window: hello.stream_window.min(offer.stream_window).max(streams),
        request_ring: rings[0],
        response_ring: rings[1],
        descriptors: if selected == Profiles::RING { RING_DESCRIPTORS } else { 0 },
    })
}

/// What a client makes of the answer to its HELLO of layout 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer2 {
    /// The session stands.
    Accepted(HelloAck2),
    /// A plain netipc server: greet it in layout 1, on a fresh connection, and remember that.
    FallBack,
    /// Refused by a server of layout 2, for this reason; what it says of itself.
    Refused(Refusal, ServerFacts),
    /// No answer of this protocol.
    Bad(BadAnswer),
}

/// Why an answer to a HELLO of layout 2 is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnswer {
    /// It does not begin as an answer does.
    #[error(transparent)]
    Refusal(Refusal),
    /// Its payload cannot be read.
    #[error(transparent)]
    Ack(HelloAck2Error),
    /// It grants what was not proposed.
    #[error("the server's answer grants {field} {found}, which the client did not propose")]
    Granted {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
}

/// The client's verdict on the whole answer to `hello`. `max_ring` is the most bytes that it takes for a ring.
#[must_use]
pub fn judge_ack_2(packet: &[u8], hello: &Hello2, max_ring: u32) -> Answer2 {
    let status = match ack_envelope(packet) {
        Ok(envelope) => envelope.status,
        Err(refusal) => return Answer2::Bad(BadAnswer::Refusal(refusal)),
    };
    let payload = &packet[ENVELOPE_LEN..];
    if status.is_ok() {
        return match HelloAck2::decode(payload).map_err(BadAnswer::Ack).and_then(|ack| check(ack, hello, max_ring)) {
            Ok(ack) => Answer2::Accepted(ack),
            Err(bad) => Answer2::Bad(bad),
        };
    }
    if layout_of(payload) == Some(LAYOUT_VERSION) && status == Status::INCOMPATIBLE {
        return Answer2::FallBack;
    }
    let refusal = match status {
        Status::AUTH_FAILED => Refusal::AuthFailed,
        Status::UNSUPPORTED => Refusal::NoCommonProfile,
        Status::INCOMPATIBLE => Refusal::Incompatible,
        Status::LIMIT_EXCEEDED => Refusal::LimitExceeded { proposed: hello.max_request_payload },
        status => Refusal::Unavailable { status },
    };
    // What a refusal says of the server helps, and its absence changes nothing.
    let facts = if layout_of(payload) == Some(LAYOUT_2) {
        HelloAck2::decode_rejection(payload)
    } else {
        Ok(ServerFacts::default())
    };
    Answer2::Refused(refusal, facts.unwrap_or_default())
}

fn check(ack: HelloAck2, hello: &Hello2, max_ring: u32) -> Result<HelloAck2, BadAnswer> {
    let granted = |field, found: u64, fits: bool| if fits { Ok(()) } else { Err(BadAnswer::Granted { field, found }) };
    let at_most = |field, found: u32, most: u32| granted(field, found.into(), found <= most);
    let or_any = |proposed: u32| if proposed == 0 { u32::MAX } else { proposed };
    granted("profile", ack.selected.0.into(), hello.supported.contains(ack.selected))?;
    at_most("max_response_payload_bytes", ack.max_response_payload, or_any(hello.max_response_payload))?;
    at_most("max_response_batch_items", ack.max_response_items, or_any(hello.max_response_items))?;
    let packet = (MIN_PACKET_SIZE..=hello.packet_size).contains(&ack.packet_size);
    granted("packet_size", ack.packet_size.into(), packet)?;
    let features = hello.features.contains(ack.features) && ack.features.contains(hello.required);
    granted("features", ack.features.0.into(), features)?;
    granted("interface_id", ack.interface_id, hello.interface_id == 0 || hello.interface_id == ack.interface_id)?;
    at_most("request_window", ack.request_window, hello.request_window)?;
    at_most("stream_window", ack.stream_window, hello.stream_window.max(1))?;
    at_most("request_ring_bytes", ack.request_ring, max_ring)?;
    at_most("response_ring_bytes", ack.response_ring, max_ring)?;
    Ok(ack)
}
