//! The frames of a session of layout 2: an envelope whose flags, code and id say more, and a payload.
//!
//! ```text
//! frame        kind code  flags                   status id         items     payload
//! REQUEST      1    method 0 | 1 BATCH | 2 ONE_WAY  0     the call's 1 | batch u64 timeout_ns (0: none), body
//!                          | 3 both | 4 STREAM
//! RESPONSE     2    method 0 | 1 BATCH              0     the call's 1 | batch body
//! ITEM         2    method 4 STREAM | 5 and BATCH   0     the call's 1 | batch body
//! END          2    method 12 STREAM and END        0     the call's 1         none
//! ERROR        2    method 0                        not 0 the call's 1         none, or a structured error
//! METHODS      3    3     0                         0     its own    entries   see `methods`
//! METHODS_ACK  3    4     0                         0     METHODS'   entries   see `methods`
//! CANCEL       3    5     0                         0     the call's 1         none
//! CREDIT       3    6     0                         0     the call's 1         u32 items (not 0), u32 reserved 0
//! GOAWAY       3    7     0                         0     see below  1         u64 drain_ns
//! ```
//!
//! A call's id is chosen by the client: not 0, and above every id that it used before on this connection. The id of a
//! GOAWAY is the highest one that its sender will still answer; 0 for none.
//!
//! [`Head`] is what the 32 bytes say; [`Frame`] is the whole, borrowed. Everything that a sender could get wrong is
//! refused here, except what needs to know the session: limits, ids, credit.

use crate::bytes::{put, u16_at, u32_at, u64_at};
use crate::failure::{FAILURE_HEAD_LEN, Failure, FailureError, MAX_FAILURE_LEN};
use crate::methods::{METHOD_HASH_LEN, METHOD_LEN, MethodHashes, MethodList, MethodsError};
use crate::{ENVELOPE_LEN, Envelope, EnvelopeError, Kind, MAX_PAYLOAD_LEN, Status};
use alloc::vec::Vec;

/// Control opcode: what methods are there?
pub const METHODS: u16 = 3;
/// Control opcode: these.
pub const METHODS_ACK: u16 = 4;
/// Control opcode: the client does not want the answer any more.
pub const CANCEL: u16 = 5;
/// Control opcode: the client has room for more items of a stream.
pub const CREDIT: u16 = 6;
/// Control opcode: the sender will leave.
pub const GOAWAY: u16 = 7;
/// Bytes of a request's payload in front of its body.
pub const REQUEST_PREFIX_LEN: usize = 8;

pub(crate) const FLAG_BATCH: u16 = 0x0001;
pub(crate) const FLAG_ONE_WAY: u16 = 0x0002;
pub(crate) const FLAG_STREAM: u16 = 0x0004;
pub(crate) const FLAG_END: u16 = 0x0008;

/// What a request gets for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reply {
    /// One response.
    #[default]
    One,
    /// Nothing at all, not even an error.
    None,
    /// Any number of items, then an end or an error.
    Stream,
}

impl Reply {
    pub(crate) const fn flags(self) -> u16 {
        match self {
            Self::One => 0,
            Self::None => FLAG_ONE_WAY,
            Self::Stream => FLAG_STREAM,
        }
    }
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// A call.
    Request(Reply),
    /// The answer to a unary call.
    Response,
    /// A part of a stream.
    Item,
    /// The end of a stream.
    End,
    /// The end of a call of either sort, with this status.
    Error(Status),
    /// What methods are there?
    Methods,
    /// These.
    MethodsAck,
    /// The answer is not wanted any more.
    Cancel,
    /// Room for more items.
    Credit,
    /// The sender will leave.
    GoAway,
}

/// What the envelope of a frame says, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the frame is for.
    pub kind: FrameKind,
    /// The method, in requests and their answers; 0 in control frames.
    pub method: u16,
    /// The body is a [`Batch`](crate::Batch) of `items` items.
    pub batch: bool,
    /// 1, or how many items of a batch or entries of a list.
    pub items: u32,
    /// The call's id; see the module.
    pub id: u64,
    /// Bytes of the payload.
    pub payload_len: u32,
}

/// Why bytes are not a frame of layout 2. Any of these ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not even an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A control frame of a kind that an open session does not have.
    #[error("control code {found} is no frame of an open session")]
    Control {
        /// What was there.
        found: u16,
    },
    /// Flags that this frame cannot have.
    #[error("flags {found:#x} do not belong to {frame}")]
    Flags {
        /// The frame.
        frame: &'static str,
        /// What was there.
        found: u16,
    },
    /// A status where only OK can be.
    #[error("{frame} has status {found}, not OK")]
    Status {
        /// The frame.
        frame: &'static str,
        /// What was there.
        found: Status,
    },
    /// No id where one must be.
    #[error("{frame} has no id")]
    Id {
        /// The frame.
        frame: &'static str,
    },
    /// A number of items that this frame cannot have.
    #[error("{frame} has {found} items")]
    Items {
        /// The frame.
        frame: &'static str,
        /// What was there.
        found: u32,
    },
    /// A length that this frame cannot have.
    #[error("{frame} cannot have a payload of {found} bytes")]
    PayloadLen {
        /// The frame.
        frame: &'static str,
        /// What was there.
        found: u32,
    },
    /// The payload is not as long as its envelope says.
    #[error("payload has {len} bytes, its envelope says {expected}")]
    Payload {
        /// Bytes there were.
        len: usize,
        /// What the envelope says.
        expected: u32,
    },
    /// CREDIT for nothing.
    #[error("CREDIT is for 0 items")]
    NoCredit,
    /// A reserved field is not zero.
    #[error("{frame} reserved field is {found:#x}, not 0")]
    Reserved {
        /// The frame.
        frame: &'static str,
        /// What was there.
        found: u32,
    },
    /// A structured error that is none.
    #[error(transparent)]
    Failure(#[from] FailureError),
    /// A list of methods that is none.
    #[error(transparent)]
    Methods(#[from] MethodsError),
}

impl FrameKind {
    /// The frame's name, as errors tell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request(_) => "REQUEST",
            Self::Response => "RESPONSE",
            Self::Item => "ITEM",
            Self::End => "END",
            Self::Error(_) => "ERROR",
            Self::Methods => "METHODS",
            Self::MethodsAck => "METHODS_ACK",
            Self::Cancel => "CANCEL",
            Self::Credit => "CREDIT",
            Self::GoAway => "GOAWAY",
        }
    }

    /// The envelope's kind, code (0: the method) and flags (but BATCH).
    const fn on_the_wire(self) -> (Kind, u16, u16) {
        match self {
            Self::Request(reply) => (Kind::Request, 0, reply.flags()),
            Self::Response | Self::Error(_) => (Kind::Response, 0, 0),
            Self::Item => (Kind::Response, 0, FLAG_STREAM),
            Self::End => (Kind::Response, 0, FLAG_STREAM | FLAG_END),
            Self::Methods => (Kind::Control, METHODS, 0),
            Self::MethodsAck => (Kind::Control, METHODS_ACK, 0),
            Self::Cancel => (Kind::Control, CANCEL, 0),
            Self::Credit => (Kind::Control, CREDIT, 0),
            Self::GoAway => (Kind::Control, GOAWAY, 0),
        }
    }

    const fn may_batch(self) -> bool {
        matches!(self, Self::Request(Reply::One | Reply::None) | Self::Response | Self::Item)
    }
}

impl Head {
    /// A request with a body of `body_len` bytes. `None` if that is more than a message holds.
    #[must_use]
    pub fn request(method: u16, id: u64, reply: Reply, body_len: usize) -> Option<Self> {
        let payload_len = payload_len(REQUEST_PREFIX_LEN, body_len)?;
        Some(Self { kind: FrameKind::Request(reply), method, batch: false, items: 1, id, payload_len })
    }

    /// The response, or an item of the stream, of `body_len` bytes. `None` if that is more than a message holds.
    #[must_use]
    pub fn answer(&self, kind: FrameKind, body_len: usize) -> Option<Self> {
        let payload_len = payload_len(0, body_len)?;
        Some(Self { kind, method: self.method, batch: false, items: 1, id: self.id, payload_len })
    }

    /// The same head for a body that is a batch of `items` items.
    #[must_use]
    pub const fn with_batch(self, items: u32) -> Self {
        Self { batch: true, items, ..self }
    }

    /// Bytes of the body: the payload without a request's timeout. Limits count these.
    #[must_use]
    pub const fn body_len(&self) -> u32 {
        match self.kind {
            FrameKind::Request(_) => self.payload_len.saturating_sub(REQUEST_PREFIX_LEN as u32),
            _ => self.payload_len,
        }
    }

    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; ENVELOPE_LEN] {
        let (kind, control, flags) = self.kind.on_the_wire();
        let code = if control == 0 { self.method } else { control };
        let status = if let FrameKind::Error(status) = self.kind { status } else { Status::OK };
        let (payload_len, item_count, message_id) = (self.payload_len, self.items, self.id);
        let envelope = Envelope { kind, batch: self.batch, code, status, payload_len, item_count, message_id };
        let mut out = envelope.encode();
        put(&mut out, 10, (flags | u16::from(self.batch)).to_ne_bytes());
        out
    }

    /// The first 40 bytes of a request: envelope and timeout. The body follows.
    #[must_use]
    pub fn encode_request(&self, timeout_ns: u64) -> [u8; ENVELOPE_LEN + REQUEST_PREFIX_LEN] {
        let mut out = [0; ENVELOPE_LEN + REQUEST_PREFIX_LEN];
        put(&mut out, 0, self.encode());
        put(&mut out, ENVELOPE_LEN, timeout_ns.to_ne_bytes());
        out
    }

    /// Reads the envelope at the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// The first check that fails: envelope, control code, flags, status, id, items, payload length.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let envelope = Envelope::decode(bytes)?;
        let flags = u16_at(bytes, 10);
        let kind = frame_kind(&envelope, flags)?;
        let frame = kind.name();
        let known = kind.on_the_wire().2 | if kind.may_batch() { FLAG_BATCH } else { 0 };
        if flags & !known != 0 {
            return Err(FrameError::Flags { frame, found: flags });
        }
        if !envelope.status.is_ok() && !matches!(kind, FrameKind::Error(_)) {
            return Err(FrameError::Status { frame, found: envelope.status });
        }
        if envelope.message_id == 0 && kind != FrameKind::GoAway {
            return Err(FrameError::Id { frame });
        }
        let head = Self {
            kind,
            method: if envelope.kind == Kind::Control { 0 } else { envelope.code },
            batch: envelope.batch,
            items: envelope.item_count,
            id: envelope.message_id,
            payload_len: envelope.payload_len,
        };
        head.check_counts()?;
        Ok(head)
    }

    fn check_counts(&self) -> Result<(), FrameError> {
        let frame = self.kind.name();
        let (items, len) = (self.items, self.payload_len);
        let list = |each: usize| u64::from(items) * each as u64 == u64::from(len);
        let items_fit = match self.kind {
            FrameKind::Methods | FrameKind::MethodsAck => items <= 1 << 16,
            _ => {
                if self.batch {
                    items > 0
                } else {
                    items == 1
                }
            }
        };
        if !items_fit {
            return Err(FrameError::Items { frame, found: items });
        }
        let len_fits = match self.kind {
            FrameKind::Request(_) => len >= REQUEST_PREFIX_LEN as u32,
            FrameKind::Response | FrameKind::Item => true,
            FrameKind::End | FrameKind::Cancel => len == 0,
            FrameKind::Error(_) => len == 0 || (FAILURE_HEAD_LEN..=MAX_FAILURE_LEN).contains(&(len as usize)),
            FrameKind::Methods => list(METHOD_LEN),
            FrameKind::MethodsAck => list(METHOD_HASH_LEN),
            FrameKind::Credit | FrameKind::GoAway => len == 8,
        };
        if len_fits && len <= MAX_PAYLOAD_LEN { Ok(()) } else { Err(FrameError::PayloadLen { frame, found: len }) }
    }
}

fn frame_kind(envelope: &Envelope, flags: u16) -> Result<FrameKind, FrameError> {
    Ok(match envelope.kind {
        Kind::Request => match flags & (FLAG_ONE_WAY | FLAG_STREAM) {
            0 => FrameKind::Request(Reply::One),
            FLAG_ONE_WAY => FrameKind::Request(Reply::None),
            FLAG_STREAM => FrameKind::Request(Reply::Stream),
            _ => return Err(FrameError::Flags { frame: "REQUEST", found: flags }),
        },
        Kind::Response if !envelope.status.is_ok() => FrameKind::Error(envelope.status),
        Kind::Response => match flags & (FLAG_STREAM | FLAG_END) {
            0 => FrameKind::Response,
            FLAG_STREAM => FrameKind::Item,
            FLAG_END => return Err(FrameError::Flags { frame: "RESPONSE", found: flags }),
            _ => FrameKind::End,
        },
        Kind::Control => match envelope.code {
            METHODS => FrameKind::Methods,
            METHODS_ACK => FrameKind::MethodsAck,
            CANCEL => FrameKind::Cancel,
            CREDIT => FrameKind::Credit,
            GOAWAY => FrameKind::GoAway,
            found => return Err(FrameError::Control { found }),
        },
    })
}

fn payload_len(prefix: usize, body: usize) -> Option<u32> {
    let len = u32::try_from(prefix.checked_add(body)?).ok()?;
    (len <= MAX_PAYLOAD_LEN).then_some(len)
}

/// One whole frame, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame<'a> {
    /// A call of `head.method`, or a batch of calls.
    Request {
        /// What the envelope says.
        head: Head,
        /// How long the client waits from now on, in nanoseconds; 0: for ever. Relative, because clocks may differ.
        timeout_ns: u64,
        /// What the method takes.
        body: &'a [u8],
    },
    /// The answer to a call, or an item of its stream: `head.kind` tells which.
    Body {
        /// What the envelope says.
        head: Head,
        /// What the method returns.
        body: &'a [u8],
    },
    /// The end of a stream.
    End {
        /// What the envelope says.
        head: Head,
    },
    /// The end of a call with an error.
    Error {
        /// What the envelope says.
        head: Head,
        /// The status; not OK.
        status: Status,
        /// What more there is to say.
        failure: Option<Failure<'a>>,
    },
    /// What methods are there?
    Methods {
        /// The id that the answer shall have.
        id: u64,
        /// Those asked about.
        methods: MethodList<'a>,
    },
    /// These.
    MethodsAck {
        /// The id of the METHODS.
        id: u64,
        /// What the server has of them.
        hashes: MethodHashes<'a>,
    },
    /// The answer to call `id` is not wanted any more.
    Cancel {
        /// The call.
        id: u64,
    },
    /// So many more items of call `id` may be sent.
    Credit {
        /// The call.
        id: u64,
        /// How many; not 0.
        items: u32,
    },
    /// The sender will leave.
    GoAway {
        /// The highest id that it will still answer; 0 for none.
        last_id: u64,
        /// How long it will stay for those at most, in nanoseconds; 0 if it does not say.
        drain_ns: u64,
    },
}

impl<'a> Frame<'a> {
    /// Reads the payload that belongs to `head`. The directory of a batch is not checked here: [`Batch`](crate::Batch)
    /// does.
    ///
    /// # Errors
    /// The payload has another length than `head` says, or is not what its frame must have.
    pub fn decode(head: &Head, payload: &'a [u8]) -> Result<Self, FrameError> {
        if payload.len() as u64 != u64::from(head.payload_len) {
            return Err(FrameError::Payload { len: payload.len(), expected: head.payload_len });
        }
        head.check_counts()?; // a head need not come from `Head::decode`
        let (head, id) = (*head, head.id);
        Ok(match head.kind {
            FrameKind::Request(_) => {
                Self::Request { head, timeout_ns: u64_at(payload, 0), body: &payload[REQUEST_PREFIX_LEN..] }
            }
            FrameKind::Response | FrameKind::Item => Self::Body { head, body: payload },
            FrameKind::End => Self::End { head },
            FrameKind::Error(status) => {
                let failure = if payload.is_empty() { None } else { Some(Failure::decode(payload)?) };
                Self::Error { head, status, failure }
            }
            FrameKind::Methods => Self::Methods { id, methods: MethodList::parse(payload, head.items)? },
            FrameKind::MethodsAck => Self::MethodsAck { id, hashes: MethodHashes::parse(payload, head.items)? },
            FrameKind::Cancel => Self::Cancel { id },
            FrameKind::Credit => {
                let (items, reserved) = (u32_at(payload, 0), u32_at(payload, 4));
                if items == 0 {
                    return Err(FrameError::NoCredit);
                }
                if reserved != 0 {
                    return Err(FrameError::Reserved { frame: "CREDIT", found: reserved });
                }
                Self::Credit { id, items }
            }
            FrameKind::GoAway => Self::GoAway { last_id: id, drain_ns: u64_at(payload, 0) },
        })
    }

    /// Reads one whole frame: head and payload, and nothing behind it.
    ///
    /// # Errors
    /// Those of [`Head::decode`] and [`Frame::decode`].
    pub fn decode_whole(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let head = Head::decode(bytes)?;
        Self::decode(&head, &bytes[ENVELOPE_LEN..])
    }

    /// The frame's head.
    #[must_use]
    pub fn head(&self) -> Head {
        let control = |kind, id, items: usize, len: usize| Head {
            kind,
            method: 0,
            batch: false,
            items: u32::try_from(items).unwrap_or(u32::MAX),
            id,
            payload_len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        match *self {
            Self::Request { head, .. } | Self::Body { head, .. } | Self::End { head } | Self::Error { head, .. } => {
                head
            }
            Self::Methods { id, methods } => control(FrameKind::Methods, id, methods.len(), methods.as_bytes().len()),
            Self::MethodsAck { id, hashes } => {
                control(FrameKind::MethodsAck, id, hashes.len(), hashes.as_bytes().len())
            }
            Self::Cancel { id } => control(FrameKind::Cancel, id, 1, 0),
            Self::Credit { id, .. } => control(FrameKind::Credit, id, 1, 8),
            Self::GoAway { last_id, .. } => control(FrameKind::GoAway, last_id, 1, 8),
        }
    }

    /// The whole frame in bytes. Where a copy of the body counts, send [`Head::encode`] or [`Head::encode_request`] and
    /// the body instead.
    ///
    /// # Panics
    ///
    /// If the payload has another length than the frame's head says: they were put together wrongly.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = self.head();
        let mut out = head.encode().to_vec();
        match *self {
            Self::Request { timeout_ns, body, .. } => {
                out.extend_from_slice(&timeout_ns.to_ne_bytes());
                out.extend_from_slice(body);
            }
            Self::Body { body, .. } => out.extend_from_slice(body),
            Self::End { .. } | Self::Cancel { .. } | Self::Error { failure: None, .. } => {}
            Self::Error { failure: Some(failure), .. } => out.extend_from_slice(&failure.encode()),
            Self::Methods { methods, .. } => out.extend_from_slice(methods.as_bytes()),
            Self::MethodsAck { hashes, .. } => out.extend_from_slice(hashes.as_bytes()),
            Self::Credit { items, .. } => {
                out.extend_from_slice(&items.to_ne_bytes());
                out.extend_from_slice(&[0; 4]);
            }
            Self::GoAway { drain_ns, .. } => out.extend_from_slice(&drain_ns.to_ne_bytes()),
        }
        assert_eq!(out.len() - ENVELOPE_LEN, head.payload_len as usize, "a frame whose head says another length");
        out
    }

    /// The error that ends the call of `head`, as it is sent.
    #[must_use]
    pub fn error(head: &Head, status: Status, failure: Option<&Failure<'_>>) -> Vec<u8> {
        let payload = failure.map(Failure::encode).unwrap_or_default();
        let (method, id) = (head.method, head.id);
        let payload_len = payload.len() as u32; // at most MAX_FAILURE_LEN
        let head = Head { kind: FrameKind::Error(status), method, batch: false, items: 1, id, payload_len };
        let mut out = head.encode().to_vec();
        out.extend_from_slice(&payload);
        out
    }
}
