//! The ground floor of Ginnel: small things that every crate above needs, written once.
//!
//! * [`Deadline`]: the end of a wait, which may be never. It takes any [`Duration`](std::time::Duration) without a
//!   panic.
//! * [`thread`]: the only way in which a crate of Ginnel starts a thread: named, all signals blocked from its first
//!   instruction, and its panic is logged and counted.
//! * [`Ending`]: something that ends once, and what is to be done then.
//! * [`Mailbox`]: letters to a loop that sleeps, without a lost wake.
//! * [`lead`]: many threads wait for one connection, and one of them at a time drives it.
//! * [`fork_generation`]: whether a process is a fork of the one that something belongs to.
//! * [`SignalsBlocked`]: keeps the signals of the calling thread waiting for a while.
//! * [`identity`]: who a process is, although ids are reused, and whether it lives.
//! * [`random_u64`]: a number that no other process has, for all practical purposes.
//!
//! On other systems than Linux there are the deadline, the thread (without signals), the mailbox and the number.

#![deny(unsafe_code)]

mod deadline;
mod ending;
#[allow(unsafe_code)]
#[cfg(target_os = "linux")]
mod fork;
#[cfg(target_os = "linux")]
pub mod identity;
pub mod lead;
mod mailbox;
mod random;
#[allow(unsafe_code)]
#[cfg(target_os = "linux")]
mod signals;
pub mod thread;

pub use deadline::Deadline;
pub use ending::Ending;
#[cfg(target_os = "linux")]
pub use fork::fork_generation;
pub use mailbox::{Mailbox, Wake};
pub use random::random_u64;
#[cfg(target_os = "linux")]
pub use signals::{SignalsBlocked, ignored_signals};
