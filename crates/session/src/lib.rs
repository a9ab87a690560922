//! Sessions of the netipc protocol: the byte level between two processes of one machine.
//!
//! A [`Listener`] takes an [`Endpoint`]; a client [connects](Session::connect); both get a [`Session`] that carries whole
//! messages within the limits they agreed on. What carries the bytes is negotiated: a SEQPACKET socket (the field's), a Unix
//! stream, TCP, or shared memory with the socket as liveness signal.
//!
//! The protocol itself is in [`proto`], as state machines that own no socket and no clock. The blocking face here and the
//! async one (feature `tokio`) drive the same ones.
//!
//! Every wait takes a [`Wait`]: a deadline, an [`Abort`], or both. Nothing polls on a timer: stop, abort and hang-up act at
//! once, also on a thread that sleeps on shared memory.
//!
//! Bytes, limits and rules: `docs/spec/netipc-v1.md`.
#![deny(unsafe_code)]

mod bind;
mod carrier;
mod config;
mod core;
mod credentials;
mod directory;
mod endpoint;
mod error;
mod greeting;
mod handshake;
mod inbound;
mod listener;
mod mailbox;
mod session;
mod shm;
mod socket;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
mod wait;

pub use config::{ClientConfig, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_PAYLOAD, Limits, ServerConfig};
pub use credentials::{InvocationIdError, PeerCredentials, UidPolicy, token_from_invocation_id};
pub use endpoint::Endpoint;
pub use error::{
    CloseReason, ConnectError, EndpointError, HandshakeError, ListenError, ProtocolError, Refusal, RefuseReason,
    SessionError, WritableDir,
};
pub use listener::{Incoming, Listener};
pub use session::{Agreement, Session};
pub use wait::{Abort, Wait};

/// The protocol without I/O: verdicts on handshakes, and the state of a session. For drivers, tests and fuzzers.
pub mod proto {
    pub use crate::core::{Core, Role, Transmit};
    pub use crate::handshake::{Offer, Verdict, judge_ack, judge_hello, propose};
    pub use crate::inbound::Framing;

    /// Reads a shared-memory region's header and checks that what is accepted lies within a file of `len` bytes. For the
    /// fuzzers.
    #[cfg(fuzzing)]
    pub fn check_region_header(header: &[u8; 64], len: usize) {
        crate::shm::Layout::check(header, len);
    }
}
