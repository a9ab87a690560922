//! The handshake as decisions: bytes in, one verdict out, one function a field. No I/O, no clock.
//!
//! The first message of a connection is gathered before limits are known ([`Greeting`]); then a server judges it
//! against its [`Offer`], and a client judges the answer against its own HELLO.
//!
//! The order of the server's checks is the order in which the known servers make them: envelope, kind, layout,
//! profiles, token, request limit, packet size.

use crate::config::{ClientConfig, DEFAULT_MAX_PAYLOAD, ServerConfig};
use crate::credentials::same_token;
use crate::error::{CloseReason, Refusal, RefuseReason};
use ginnel_wire::{
    ENVELOPE_LEN, Envelope, EnvelopeError, HELLO, HELLO_ACK, Hello, HelloAck, HelloError, Kind, MIN_PACKET_SIZE,
    Profiles, Status, VERSION,
};

/// The server's side of one handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Profiles the server speaks in this session.
    pub supported: Profiles,
    /// Profiles it chooses first.
    pub preferred: Profiles,
    /// Largest request payload it takes, in bytes.
    pub max_request_payload: u32,
    /// Largest response payload it sends, in bytes.
    pub max_response_payload: u32,
    /// The secret.
    pub token: u64,
    /// Largest packet, in bytes.
    pub packet_size: u32,
    /// Number of this session.
    pub session_id: u64,
    /// A reason to refuse that lies outside HELLO (the user, a full server); told only to those who sent a valid one.
    pub refuse: Option<RefuseReason>,
}

impl Offer {
    /// The offer of `config` for session `session_id`, with zeros replaced by the field's defaults.
    #[must_use]
    pub fn new(config: &ServerConfig, packet_size: u32, session_id: u64) -> Self {
        let or_default = |limit| if limit == 0 { DEFAULT_MAX_PAYLOAD } else { limit };
        Self {
            supported: or_baseline(layout_1(config.supported, config.layout_2.is_some())),
            preferred: config.preferred,
            max_request_payload: or_default(config.max_request_payload),
            max_response_payload: or_default(config.max_response_payload),
            token: config.token,
            packet_size,
            session_id,
            refuse: None,
        }
    }
}

/// What a server does with a HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer with this, and the session stands.
    Accept(HelloAck),
    /// Answer with this status, then close.
    Refuse(RefuseReason),
    /// Close without a word.
    Close(CloseReason),
}

impl RefuseReason {
    /// The status that tells the client.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Version { .. } | Self::Layout { .. } | Self::PacketSize { .. } => Status::INCOMPATIBLE,
            Self::Profiles { .. } => Status::UNSUPPORTED,
            Self::Token | Self::User { .. } => Status::AUTH_FAILED,
            Self::RequestLimit { .. } => Status::LIMIT_EXCEEDED,
            // Not LIMIT_EXCEEDED: that would make a client withdraw a request limit that the server would grant.
            // Every known client takes this status for "try again later".
            Self::Full | Self::Exhausted => Status::INTERNAL_ERROR,
        }
    }
}

/// The server's verdict on the first packet of a client.
#[must_use]
pub fn judge_hello(packet: &[u8], offer: &Offer) -> Verdict {
    match accept_hello(packet, offer) {
        Ok(ack) => Verdict::Accept(ack),
        Err(verdict) => verdict,
    }
}

fn accept_hello(packet: &[u8], offer: &Offer) -> Result<HelloAck, Verdict> {
    let envelope = hello_envelope(packet)?;
    expect_hello(&envelope)?;
    let hello = decode_hello(&packet[ENVELOPE_LEN..])?;
    if let Some(reason) = offer.refuse {
        return Err(Verdict::Refuse(reason));
    }
    let intersection = common_profiles(&hello, offer)?;
    check_token(&hello, offer)?;
    let max_request_payload = agree_request_payload(&hello, offer)?;
    let packet_size = agree_packet_size(&hello, offer)?;
    Ok(HelloAck {
        supported: offer.supported,
        intersection,
        selected: select_profile(intersection, hello.preferred, offer.preferred),
        max_request_payload,
        max_request_items: hello.max_request_items,
        max_response_payload: offer.max_response_payload,
        // A response answers item by item, so it has as many as its request.
        max_response_items: hello.max_request_items,
        packet_size,
        session_id: offer.session_id,
    })
}

/// Undecodable: no answer. Another version of an otherwise valid envelope: told so.
fn hello_envelope(packet: &[u8]) -> Result<Envelope, Verdict> {
    let error = match Envelope::decode(packet) {
        Ok(envelope) => return Ok(envelope),
        Err(error) => error,
    };
    if let EnvelopeError::Version { found } = error {
        let mut as_ours = [0; ENVELOPE_LEN];
        as_ours.copy_from_slice(&packet[..ENVELOPE_LEN]);
        as_ours[4..6].copy_from_slice(&VERSION.to_ne_bytes());
        if Envelope::decode(&as_ours).is_ok_and(|envelope| expect_hello(&envelope).is_ok()) {
            return Err(Verdict::Refuse(RefuseReason::Version { found }));
        }
    }
    Err(Verdict::Close(CloseReason::Envelope(error)))
}

fn expect_hello(envelope: &Envelope) -> Result<(), Verdict> {
    match (envelope.kind, envelope.code) {
        (Kind::Control, HELLO) => Ok(()),
        (kind, code) => Err(Verdict::Close(CloseReason::NotHello { kind, code })),
    }
}

fn decode_hello(payload: &[u8]) -> Result<Hello, Verdict> {
    Hello::decode(payload).map_err(|error| match error {
        HelloError::Layout { found } => Verdict::Refuse(RefuseReason::Layout { found }),
        other => Verdict::Close(CloseReason::Hello(other)),
    })
}

fn common_profiles(hello: &Hello, offer: &Offer) -> Result<Profiles, Verdict> {
    let common = hello.supported & offer.supported;
    if common.is_empty() {
        let reason = RefuseReason::Profiles { client: hello.supported, server: offer.supported };
        return Err(Verdict::Refuse(reason));
    }
    Ok(common)
}

/// The highest profile that both prefer, else the highest that both support.
pub(super) fn select_profile(common: Profiles, client_prefers: Profiles, server_prefers: Profiles) -> Profiles {
    let preferred = common & client_prefers & server_prefers;
    if preferred.is_empty() { common.highest() } else { preferred.highest() }
}

fn check_token(hello: &Hello, offer: &Offer) -> Result<(), Verdict> {
    if same_token(offer.token, hello.auth_token) { Ok(()) } else { Err(Verdict::Refuse(RefuseReason::Token)) }
}

/// The client's proposal, if it is not above the server's limit.
fn agree_request_payload(hello: &Hello, offer: &Offer) -> Result<u32, Verdict> {
    let (proposed, limit) = (hello.max_request_payload, offer.max_request_payload);
    if proposed > limit { Err(Verdict::Refuse(RefuseReason::RequestLimit { proposed, limit })) } else { Ok(proposed) }
}

/// The smaller of both, if it holds more than a header.
fn agree_packet_size(hello: &Hello, offer: &Offer) -> Result<u32, Verdict> {
    let agreed = hello.packet_size.min(offer.packet_size);
    if agreed < MIN_PACKET_SIZE { Err(Verdict::Refuse(RefuseReason::PacketSize { agreed })) } else { Ok(agreed) }
}

/// The client's HELLO.
#[must_use]
pub fn propose(config: &ClientConfig, packet_size: u32) -> Hello {
    Hello {
        supported: or_baseline(layout_1(config.supported, config.layout_2.is_some())),
        preferred: layout_1(config.preferred, config.layout_2.is_some()),
        max_request_payload: config.request.max_payload,
        max_request_items: config.request.max_items,
        max_response_payload: config.response.max_payload,
        max_response_items: config.response.max_items,
        auth_token: config.token,
        packet_size,
    }
}

/// The client's verdict on the server's answer to `hello`.
///
/// # Errors
/// The server's refusal, or what is wrong with its answer.
pub fn judge_ack(packet: &[u8], hello: &Hello) -> Result<HelloAck, Refusal> {
    let envelope = ack_envelope(packet)?;
    check_ack_status(envelope.status, hello)?;
    let ack = HelloAck::decode(&packet[ENVELOPE_LEN..]).map_err(Refusal::Ack)?;
    check_selected(&ack, hello)?;
    check_ack_packet_size(&ack, hello)?;
    Ok(ack)
}

pub(super) fn ack_envelope(packet: &[u8]) -> Result<Envelope, Refusal> {
    let envelope = Envelope::decode(packet).map_err(|error| match error {
        EnvelopeError::Version { .. } => Refusal::Incompatible,
        other => Refusal::Envelope(other),
    })?;
    match (envelope.kind, envelope.code) {
        (Kind::Control, HELLO_ACK) => Ok(envelope),
        (kind, code) => Err(Refusal::NotAnAck { kind, code }),
    }
}

fn check_ack_status(status: Status, hello: &Hello) -> Result<(), Refusal> {
    match status {
        Status::OK => Ok(()),
        Status::AUTH_FAILED => Err(Refusal::AuthFailed),
        Status::UNSUPPORTED => Err(Refusal::NoCommonProfile),
        Status::INCOMPATIBLE => Err(Refusal::Incompatible),
        Status::LIMIT_EXCEEDED => Err(Refusal::LimitExceeded { proposed: hello.max_request_payload }),
        status => Err(Refusal::Unavailable { status }),
    }
}

fn check_selected(ack: &HelloAck, hello: &Hello) -> Result<(), Refusal> {
    if ack.selected.is_single() && hello.supported.contains(ack.selected) {
        Ok(())
    } else {
        Err(Refusal::Selected { selected: ack.selected, supported: hello.supported })
    }
}

/// Larger than proposed would let the server choose the size of our packet buffer.
fn check_ack_packet_size(ack: &HelloAck, hello: &Hello) -> Result<(), Refusal> {
    if (MIN_PACKET_SIZE..=hello.packet_size).contains(&ack.packet_size) {
        Ok(())
    } else {
        Err(Refusal::PacketSize { agreed: ack.packet_size, proposed: hello.packet_size })
    }
}

/// What a peer that knows layout 2 speaks in layout 1, where there is no RING. Another one's bits are its own.
fn layout_1(profiles: Profiles, knows_layout_2: bool) -> Profiles {
    if knows_layout_2 { profiles.without(Profiles::RING) } else { profiles }
}

pub(crate) fn or_baseline(profiles: Profiles) -> Profiles {
    if profiles.is_empty() { Profiles::BASELINE } else { profiles }
}

/// What the known servers receive a HELLO into; a longer packet is cut, and its tail ignored.
const MAX_GREETING: usize = 128;

/// The first message of a connection: never more than 128 bytes, and on a stream never a byte of what follows it.
#[derive(Debug)]
pub(super) struct Greeting {
    bytes: [u8; MAX_GREETING],
    len: usize,
    packets: bool,
    complete: bool,
}

impl Greeting {
    pub(super) fn new(packets: bool) -> Self {
        Self { bytes: [0; MAX_GREETING], len: 0, packets, complete: false }
    }

    /// Where the next bytes go.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let end = if self.packets { MAX_GREETING } else { self.due() };
        &mut self.bytes[self.len..end]
    }

    /// `len` bytes were received; more than fit, if a packet was cut.
    pub(super) fn received(&mut self, len: usize) {
        self.len = (self.len + len).min(MAX_GREETING);
        self.complete = self.packets || self.len == self.due();
    }

    /// The whole message, once it is there.
    pub(super) fn packet(&self) -> Option<&[u8]> {
        self.complete.then_some(&self.bytes[..self.len])
    }

    /// Whether nothing has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Length of the message as far as it is known. What is no envelope is complete as it stands: there is no more to
    /// say.
    fn due(&self) -> usize {
        if self.len < ENVELOPE_LEN {
            return ENVELOPE_LEN;
        }
        let payload = Envelope::decode(&self.bytes).map_or(0, |envelope| envelope.payload_len as usize);
        ENVELOPE_LEN + payload.min(MAX_GREETING - ENVELOPE_LEN)
    }
}
