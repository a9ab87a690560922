//! The protocol without I/O: a session as a state machine that owns no socket and no clock.
//!
//! A [`Connection`] is one end of a session from its first byte to its last. A driver tells it what has happened
//! ([`Connection::handle`]: bytes, a hang-up, the time), and it says what to write ([`Connection::poll_transmit`]),
//! what has come of it ([`Connection::poll_event`]) and when to call again at the latest
//! ([`Connection::poll_timeout`]). Blocking and async drivers, a reactor, tests and fuzzers drive the same one.

mod admit;
mod calls;
mod connection;
mod control;
mod event;
mod greet;
mod hello;
mod hello2;
mod inbound;
mod outbox;
mod pool;
#[cfg(test)]
mod tests;
mod timers;
mod window;

pub use connection::Connection;
pub use control::Call;
pub use event::{End, Event, Input, Role};
pub(crate) use hello::or_baseline;
pub use hello::{Offer, Verdict, judge_ack, judge_hello, propose};
pub use hello2::{Answer2, BadAnswer, Offer2, Refuse2, Verdict2, judge_ack_2, judge_hello_2};
pub use inbound::{Framing, Received};
pub use outbox::{Body, Transmit};
pub use pool::Pool;
pub(crate) use timers::Pace;
pub use timers::{Silence, Timing};

/// Reads a shared-memory region's header and checks that what is accepted lies within a file of `len` bytes. For the
/// fuzzers.
#[cfg(all(fuzzing, target_os = "linux"))]
pub fn check_region_header(header: &[u8; 64], len: usize) {
    crate::shm::Layout::check(header, len);
}
