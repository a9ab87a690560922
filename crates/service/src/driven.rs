//! A server without a thread of its own: the program's event loop drives it.

use crate::reactor::Reactor;
use crate::router::Router;
use crate::server::{Server, ServerCounters, ServerOptions, Shared};
use ginnel_base::Deadline;
use ginnel_session::{Endpoint, ListenError};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A server that is driven by the program's own event loop, on the program's thread.
///
/// The loop waits until the descriptor ([`AsFd`]) is readable, or until [`due`](Self::due), and calls
/// [`turn`](Self::turn). Handlers run within turns, or on the executor, as they do in a [`Server`]. Dropping it closes
/// everything: handlers that still run are told.
///
/// It offers no netipc sessions over shared memory, because their futexes cannot be waited for by a descriptor; those
/// clients get a socket. Rings can be.
///
/// ```
/// use ginnel_service::{Deadline, Failure, Interface, Request, Router, Server, ServerOptions};
/// use ginnel_session::Endpoint;
/// use rustix::event::{PollFd, PollFlags, poll};
/// use std::time::Duration;
///
/// let dir = tempfile::tempdir()?;
/// let echo = |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
///     response.extend_from_slice(request.payload);
///     Ok(())
/// };
/// let router = Router::new(Interface::named("echo")).handler(1, "echo", echo);
/// let mut server = Server::driven(&Endpoint::seqpacket(dir.path(), "echo")?, ServerOptions::default(), router)?;
///
/// let over = Deadline::after(Duration::from_millis(20));
/// while !over.passed() {
///     // Descriptors of the program's own would stand beside this one.
///     let timeout = server.due().min(over).timespec();
///     poll(&mut [PollFd::new(&server, PollFlags::IN)], timeout.as_ref())?;
///     server.turn(Deadline::after(Duration::ZERO));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Driven {
    shared: Arc<Shared>,
    reactor: Box<Reactor>,
}

impl Server {
    /// Takes the endpoint as [`serve`](Self::serve) does, and leaves it to the caller to drive the server.
    ///
    /// # Errors
    /// Why the endpoint cannot be taken; see [`ListenError`].
    pub fn driven(endpoint: &Endpoint, mut options: ServerOptions, router: Router) -> Result<Driven, ListenError> {
        options.session.supported = options.session.supported.without(crate::server::SHARED_MEMORY);
        let (shared, mut reactor) = Self::prepare(endpoint, options, router)?;
        reactor.rest();
        Ok(Driven { shared, reactor: Box::new(reactor) })
    }
}

impl Driven {
    /// Does what is to be done; waits until `deadline` at most for something. It returns after a bounded amount of
    /// work: there may be more, which the descriptor tells.
    pub fn turn(&mut self, deadline: Deadline) {
        if !self.is_over() {
            self.reactor.turn(deadline);
            self.reactor.rest();
        }
    }

    /// When to call [`turn`](Self::turn) at the latest, though nothing be readable.
    #[must_use]
    pub fn due(&self) -> Deadline {
        self.reactor.due()
    }

    /// Where it listens; a TCP port of 0 has become the real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ServerCounters {
        self.shared.counters()
    }

    /// Stops accepting, frees the name, and tells clients that it leaves within that time. Sessions end with their
    /// last answer; go on with [`turn`](Self::turn) until [`is_over`](Self::is_over), or as long as you like.
    pub fn drain(&mut self, within: Duration) {
        self.reactor.begin_drain(within);
        self.reactor.rest();
    }

    /// Tells running handlers that their answers are no longer wanted.
    pub fn cancel(&mut self) {
        self.reactor.cancel_all();
        self.reactor.rest();
    }

    /// Whether a drain has come to its end: nothing is left to be done.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.reactor.is_over()
    }
}

impl AsFd for Driven {
    /// Readable when a turn is worth it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.reactor.cancel_all();
    }
}

impl fmt::Debug for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}
