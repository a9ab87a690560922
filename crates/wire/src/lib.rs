//! The bytes of the netipc protocol and of what Ginnel's own peers add to it, and nothing else: no I/O, no clock, no
//! allocation except in builders.
//!
//! * [`Envelope`]: the 32 bytes in front of every message;
//! * [`Hello`] and [`HelloAck`]: the handshake;
//! * [`Batch`] and [`BatchBuilder`]: many items in one message;
//! * [`ChunkHeader`], [`Packets`] and [`Assembler`]: one message in many packets;
//! * [`Hello2`] and [`HelloAck2`]: the handshake of layout 2;
//! * [`Frame`] and its [`Head`]: what travels in a session of layout 2;
//! * [`Failure`], [`MethodList`] and [`MethodHashes`]: structured errors, and what methods there are.
//!
//! Decoders borrow their input, accept exactly what `docs/spec/netipc-v1.md` and `docs/spec/ginnel-wire-2.md` accept,
//! and name what was wrong with everything else. Encoders and builders cannot produce bytes that their decoder refuses.
//! Integers are in native byte order: the protocol never leaves its machine.
//!
//! ```
//! use ginnel_wire::{Envelope, Message};
//!
//! let envelope = Envelope::request(1, 7, 8);
//! let mut bytes = envelope.encode().to_vec();
//! bytes.extend_from_slice(&41u64.to_ne_bytes());
//!
//! let message = Message::decode(&bytes)?;
//! assert_eq!(message.envelope, envelope);
//! assert_eq!(message.payload, 41u64.to_ne_bytes());
//! # Ok::<(), ginnel_wire::EnvelopeError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod batch;
mod bytes;
mod chunk;
mod envelope;
mod failure;
mod frame;
mod hello;
mod hello2;
mod methods;

pub use batch::{Batch, BatchBuilder, BatchError, BatchFull, BatchIter};
pub use chunk::{Assembler, CHUNK_MAGIC, ChunkError, ChunkHeader, MIN_PACKET_SIZE, Packet, Packets};
pub use envelope::{ENVELOPE_LEN, Envelope, EnvelopeError, Kind, MAGIC, MAX_PAYLOAD_LEN, Message, Status, VERSION};
pub use failure::{FAILURE_HEAD_LEN, Failure, FailureError, MAX_FAILURE_LEN};
pub use frame::{
    CANCEL, CREDIT, Frame, FrameError, FrameKind, GOAWAY, Head, METHODS, METHODS_ACK, REQUEST_PREFIX_LEN, Reply,
};
pub use hello::{
    HELLO, HELLO_ACK, HELLO_ACK_LEN, HELLO_LEN, Hello, HelloAck, HelloAckError, HelloError, LAYOUT_VERSION, Profiles,
};
pub use hello2::{
    Features, HELLO_2_LEN, HELLO_ACK_2_LEN, Hello2, Hello2Error, HelloAck2, HelloAck2Error, LAYOUT_2, RING_BYTES,
    RING_DESCRIPTORS, ServerFacts, layout_of,
};
pub use methods::{METHOD_HASH_LEN, METHOD_LEN, MethodHash, MethodHashes, MethodList, MethodsError};
