//! Handing descriptors to tokio's poller.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Types whose `AsRawFd` always gives the descriptor that they own.
///
/// # Safety
/// The number must be the same each time, and the descriptor stay open, for as long as the value lives.
pub(crate) unsafe trait Owns: AsFd + AsRawFd {}

// SAFETY: it owns the descriptor, never replaces it, and closes it when it is dropped.
unsafe impl Owns for crate::streams::Counted {}
// SAFETY: it owns a `Counted`, as above.
unsafe impl Owns for crate::capture::Sink {}
// SAFETY: as above.
unsafe impl Owns for crate::capture::Feed {}
// SAFETY: it keeps the link alive, which owns the shepherd's pidfd and never replaces it.
unsafe impl Owns for crate::aio::End {}
// SAFETY: as above, of the link's socket.
unsafe impl Owns for crate::aio::Said {}

/// Registers with the runtime this is called in.
pub(crate) fn watch<T: Owns>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: what `AsyncFd` asks for is what `Owns` promises.
    unsafe { AsyncFd::register_with_interest(owner, interest) }.map_err(|error| error.into_parts().1)
}
