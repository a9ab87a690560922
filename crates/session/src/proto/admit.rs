//! What may arrive, by what is said in the first 32 bytes of a message: a rule for each layout.

use super::event::Role;
use crate::config::Limits;
use crate::error::ProtocolError;
use ginnel_wire::{ENVELOPE_LEN, Envelope, Features, FrameError, FrameKind, Head, Kind, REQUEST_PREFIX_LEN, Reply};

/// Payload bytes of what is no body, whatever limit was agreed: errors (4096) and lists of methods.
pub(super) const MAX_LIST: u32 = 16 << 10;

#[derive(Debug)]
pub(super) enum Admit {
    One { limits: Limits, expected: Kind },
    Two(Rules2),
}

/// The rules of layout 2.
#[derive(Debug)]
pub(super) struct Rules2 {
    pub(super) role: Role,
    /// Of what this side receives.
    pub(super) limits: Limits,
    pub(super) features: Features,
}

/// The beginning of a message that may arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted {
    /// What it says in layout 2.
    pub(super) head: Option<Head>,
    /// Bytes of the payload in front of the body.
    pub(super) prefix: usize,
}

impl Admit {
    /// The most bytes that a message may have.
    pub(super) fn longest(&self) -> usize {
        ENVELOPE_LEN
            + match self {
                Self::One { limits, .. } => limits.max_payload as usize,
                Self::Two(rules) => {
                    let prefix = if rules.role == Role::Server { REQUEST_PREFIX_LEN } else { 0 };
                    (rules.limits.max_payload as usize + prefix).max(MAX_LIST as usize)
                }
            }
    }

    /// What can be said about a message by its beginning alone. `bytes` are those of `envelope`.
    pub(super) fn check(&self, envelope: &Envelope, bytes: &[u8]) -> Result<Admitted, ProtocolError> {
        match self {
            Self::One { limits, expected } => {
                check_limits(limits, envelope, envelope.payload_len)?;
                if envelope.kind != *expected {
                    return Err(ProtocolError::Kind { found: envelope.kind, expected: *expected });
                }
                Ok(Admitted { head: None, prefix: 0 })
            }
            Self::Two(rules) => rules.check(envelope, bytes),
        }
    }
}

impl Rules2 {
    fn check(&self, envelope: &Envelope, bytes: &[u8]) -> Result<Admitted, ProtocolError> {
        let head = Head::decode(bytes).map_err(|error| match error {
            FrameError::Envelope(error) => ProtocolError::Envelope(error),
            error => ProtocolError::Frame(error),
        })?;
        if sender(head.kind) == Some(self.role) {
            return Err(ProtocolError::Side { frame: head.kind.name() });
        }
        let needed = needed(head.kind);
        if !self.features.contains(needed) {
            return Err(ProtocolError::Feature { frame: head.kind.name(), feature: needed });
        }
        let mut prefix = 0;
        match head.kind {
            FrameKind::Request(_) => {
                prefix = REQUEST_PREFIX_LEN;
                check_limits(&self.limits, envelope, head.body_len())?;
            }
            FrameKind::Response | FrameKind::Item => check_limits(&self.limits, envelope, head.body_len())?,
            // Their lengths are bounded by what they are.
            _ if head.payload_len <= MAX_LIST => {}
            _ => return Err(ProtocolError::PayloadTooLarge { envelope: *envelope, limit: MAX_LIST }),
        }
        Ok(Admitted { head: Some(head), prefix })
    }
}

fn check_limits(limits: &Limits, envelope: &Envelope, len: u32) -> Result<(), ProtocolError> {
    if !limits.allows_payload(len.into()) {
        return Err(ProtocolError::PayloadTooLarge { envelope: *envelope, limit: limits.max_payload });
    }
    if !limits.allows_items(envelope.item_count) {
        return Err(ProtocolError::TooManyItems { envelope: *envelope, limit: limits.max_items });
    }
    Ok(())
}

/// The side that sends such frames; `None`: both.
fn sender(kind: FrameKind) -> Option<Role> {
    match kind {
        FrameKind::Request(_) | FrameKind::Methods | FrameKind::Cancel | FrameKind::Credit => Some(Role::Client),
        FrameKind::GoAway => None,
        _ => Some(Role::Server),
    }
}

/// The features without which there are no such frames.
pub(super) fn needed(kind: FrameKind) -> Features {
    match kind {
        FrameKind::Request(Reply::None) => Features::ONE_WAY,
        FrameKind::Request(Reply::Stream) | FrameKind::Item | FrameKind::End | FrameKind::Credit => Features::STREAMS,
        FrameKind::Methods | FrameKind::MethodsAck => Features::METHOD_HASHES,
        _ => Features::NONE,
    }
}
