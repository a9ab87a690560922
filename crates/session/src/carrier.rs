//! What carries the bytes of a session: sockets and shared memory behind one trait, for one driver.

use crate::core::Role;
use crate::error::SessionError;
use crate::wait::{Abort, Wait};
use std::fmt::Debug;
use std::os::fd::BorrowedFd;

/// What a wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Receive,
    Send,
    Both,
}

/// What a wait has found. Either may be wrong: the next attempt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) receive: bool,
    pub(crate) send: bool,
}

/// A way to move bytes. Attempts never block; waiting is separate and always bounded by a [`Wait`].
pub(crate) trait Carrier: Debug + Send {
    /// Sends `head` and `body` as one packet, or as much of them as a stream takes. `None`: not now.
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError>;

    /// Receives into `space`; the length of a packet that was cut exceeds it. `None`: not now.
    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError>;

    /// Receives as [`Carrier::try_recv`] does, sleeping until there is something.
    fn recv(&mut self, space: &mut [u8], wait: &Wait<'_>) -> Result<usize, SessionError> {
        loop {
            if let Some(len) = self.try_recv(space)? {
                return Ok(len);
            }
            self.wait(Interest::Receive, wait)?;
        }
    }

    /// Raising `abort` may end what this carries for good, if that makes waiting cheaper.
    fn end_with(&mut self, _abort: &Abort, _role: Role) {}

    /// Sleeps until an attempt is worth making.
    fn wait(&mut self, interest: Interest, wait: &Wait<'_>) -> Result<Ready, SessionError>;

    /// The socket: readable when a message may be there, or (in shared memory) when the peer has hung up.
    fn fd(&self) -> BorrowedFd<'_>;
}
