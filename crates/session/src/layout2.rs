//! What each side brings into a handshake of layout 2, and the server's half of it.

use crate::agreement::Agreement;
use crate::carrier::{Carrier, RingLink, Slot, send};
use crate::config::{ClientConfig, ClientLayout2, ServerConfig, ServerLayout2};
use crate::error::{CloseReason, HandshakeError, SessionError};
use crate::listener::Incoming;
use crate::parts::Parts;
use crate::proto::{Connection, Framing, Offer2, Pool, Refuse2, Timing, Verdict, Verdict2, or_baseline};
use crate::ring::{self, RingOffer};
use crate::session::Established;
use ginnel_wire::{Hello2, HelloAck2, Profiles, RING_BYTES};
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// What may be spoken in layout 2: not the slots, and rings only where descriptors can be passed.
fn profiles(supported: Profiles, descriptors: bool) -> Profiles {
    let slots = Profiles::SHM_HYBRID | Profiles::SHM_FUTEX | Profiles::SHM_WAITADDR;
    let supported = supported.without(slots);
    or_baseline(if descriptors { supported } else { supported.without(Profiles::RING) })
}

/// The client's HELLO of layout 2. `descriptors`: its socket can pass them.
pub(crate) fn propose_2(config: &ClientConfig, own: &ClientLayout2, packet_size: u32, descriptors: bool) -> Hello2 {
    let (least, most) = (*RING_BYTES.start(), own.max_ring.clamp(*RING_BYTES.start(), *RING_BYTES.end()));
    let ring = |bytes: u32| if bytes == 0 { 0 } else { floor_power(bytes.clamp(least, most)) };
    Hello2 {
        supported: profiles(config.supported, descriptors),
        preferred: config.preferred,
        max_request_payload: config.request.max_payload,
        max_request_items: config.request.max_items,
        max_response_payload: config.response.max_payload,
        max_response_items: config.response.max_items,
        auth_token: config.token,
        packet_size,
        features: own.features,
        required: own.required & own.features,
        interface_id: own.interface_id,
        schema_hash: own.schema_hash,
        request_window: own.request_window.max(1),
        stream_window: own.stream_window,
        request_ring: ring(own.request_ring),
        response_ring: ring(own.response_ring),
    }
}

fn floor_power(bytes: u32) -> u32 {
    1 << bytes.ilog2()
}

/// What a server makes of its configuration for each connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offering {
    own: ServerLayout2,
    supported: Profiles,
}

impl Offering {
    pub(crate) fn new(config: &ServerConfig, descriptors: bool) -> Option<Self> {
        let own = config.layout_2?;
        Some(Self { own, supported: profiles(config.supported, descriptors) })
    }
}

impl Incoming {
    /// Answers a HELLO that has arrived, for a driver of many sessions. Does not block. `timing` says how long the
    /// client may keep silent from `now` on. Only here layout 2 is offered, if [`ServerConfig::layout_2`] says so.
    ///
    /// # Errors
    /// As [`Incoming::finish`]; also [`HandshakeError::Refused2`].
    pub fn into_parts(self, timing: Timing, now: Instant) -> Result<Parts, HandshakeError> {
        if let Some(offer) = self.offer_2() {
            let verdict = self.drive.connection.judge_2(&offer);
            if let Some(verdict) = verdict {
                return self.answer_2(offer, verdict, timing, now);
            }
        }
        let Established { mut connection, ack, link, peer, .. } = self.establish()?;
        if let Some(longest) = link.slot().map(Slot::longest) {
            connection.set_framing(Framing::Slot(longest));
        }
        connection.set_timing(timing, now);
        Ok(Parts { connection, carrier: link.into_carrier(), agreement: Agreement::new(&ack, peer) })
    }

    /// Whether the HELLO that has arrived will be accepted by [`Incoming::into_parts`], in whichever layout it is, as
    /// the offer stands. Nothing is sent.
    #[must_use]
    pub fn is_acceptable(&self) -> bool {
        match self.offer_2().and_then(|offer| self.drive.connection.judge_2(&offer)) {
            Some(verdict) => matches!(verdict, Verdict2::Accept(_)),
            None => matches!(self.verdict(), Verdict::Accept(_)),
        }
    }

    /// Largest request that the HELLO that has arrived proposes, in whichever layout it is; 0 if it cannot be read.
    #[must_use]
    pub fn proposed_request(&self) -> u32 {
        let of_layout_2 = || self.drive.connection.hello_2().map(|hello| hello.max_request_payload);
        self.hello().map(|hello| hello.max_request_payload).or_else(of_layout_2).unwrap_or(0)
    }

    /// Whether a HELLO of layout 2 has arrived, and is answered in it.
    #[must_use]
    pub fn is_in_layout_2(&self) -> bool {
        self.offering.is_some() && self.drive.connection.hello_2().is_some()
    }

    fn offer_2(&self) -> Option<Offer2> {
        let Offering { own, supported } = self.offering?;
        let page = u32::try_from(rustix::param::page_size()).unwrap_or(*RING_BYTES.end());
        let min_ring = page.clamp(*RING_BYTES.start(), *RING_BYTES.end());
        let max_ring = floor_power(own.max_ring.clamp(min_ring, *RING_BYTES.end()));
        Some(Offer2 {
            supported,
            preferred: self.offer.preferred,
            max_request_payload: self.offer.max_request_payload,
            max_response_payload: self.offer.max_response_payload,
            max_response_items: if own.max_response_items == 0 { u32::MAX } else { own.max_response_items },
            token: self.offer.token,
            packet_size: self.offer.packet_size,
            features: own.features,
            interface_id: own.interface_id,
            schema_hash: own.schema_hash,
            request_window: own.request_window.max(1),
            stream_window: own.stream_window,
            ring: floor_power(own.ring.clamp(min_ring, max_ring)),
            min_ring,
            max_ring,
            session_id: self.offer.session_id,
            refuse: self.offer.refuse,
        })
    }

    fn answer_2(
        mut self,
        mut offer: Offer2,
        mut verdict: Verdict2,
        timing: Timing,
        now: Instant,
    ) -> Result<Parts, HandshakeError> {
        let mut rings = None;
        if let Verdict2::Accept(ack) = &verdict
            && ack.selected == Profiles::RING
        {
            match RingOffer::create(ack.request_ring, ack.response_ring, ack.session_id) {
                Ok(made) => rings = Some(made),
                Err(error) => {
                    tracing::warn!(%error, session = ack.session_id, "no rings for this session");
                    // This session goes without: judged again, as a server that never had rings.
                    offer.supported = or_baseline(offer.supported.without(Profiles::RING));
                    verdict = self.drive.connection.judge_2(&offer).unwrap_or(verdict);
                }
            }
        }
        match verdict {
            Verdict2::Accept(ack) => self.accept_2(&ack, rings, timing, now),
            Verdict2::Refuse(reason, facts) => {
                let status = reason.status();
                self.drive.connection.refuse_2(status, &facts, now);
                answer(&mut self.drive.connection, self.drive.carrier.socket(), &[], now)?;
                Err(match reason {
                    Refuse2::Common(reason) => HandshakeError::Refused { status, reason },
                    reason => HandshakeError::Refused2 { status, reason },
                })
            }
            Verdict2::Close(error) => Err(HandshakeError::Closed(CloseReason::Hello2(error))),
        }
    }

    fn accept_2(
        self,
        ack: &HelloAck2,
        rings: Option<RingOffer>,
        timing: Timing,
        now: Instant,
    ) -> Result<Parts, HandshakeError> {
        let mut connection = self.drive.connection;
        connection.accept_2(ack, now);
        let socket = self.drive.carrier.socket();
        let carrier: Box<dyn Carrier> = match rings {
            Some(rings) => {
                answer(&mut connection, socket, &rings.descriptors(), now)?;
                Box::new(RingLink::new(rings.accept(self.drive.carrier.into_fd())))
            }
            None => {
                answer(&mut connection, socket, &[], now)?;
                Box::new(self.drive.carrier)
            }
        };
        connection.set_timing(timing, now);
        tracing::debug!(session = ack.session_id, profile = %ack.selected, peer = ?self.peer, "session of layout 2 accepted");
        Ok(Parts { connection, carrier, agreement: Agreement::new_2(ack, self.peer) })
    }
}

/// Sends the answer, which a fresh connection has room for. A peer that made it otherwise gets none.
pub(crate) fn answer(
    connection: &mut Connection,
    socket: BorrowedFd<'_>,
    descriptors: &[BorrowedFd<'_>],
    now: Instant,
) -> Result<(), HandshakeError> {
    // Nothing of a handshake is worth keeping.
    let mut pool = Pool::new(0);
    while let Some(transmit) = connection.poll_transmit(&[]) {
        let (head, body) = (transmit.head, transmit.body);
        let sent = if transmit.with_descriptors && !descriptors.is_empty() {
            ring::send(socket, &[head, body].concat(), descriptors).map_err(|error| SessionError::Io {
                doing: "answer with descriptors",
                source: std::io::Error::other(error),
            })
        } else {
            send(socket, head, body)
        };
        match sent {
            Ok(Some(len)) => connection.transmitted(now, len, &mut pool),
            Ok(None) => return Err(HandshakeError::Answer(SessionError::Closed)),
            Err(error) => return Err(HandshakeError::Answer(error)),
        }
    }
    Ok(())
}
