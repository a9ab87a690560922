//! What can be measured: the contract of a mechanism, and all that come with this library.

mod channel;
mod memory;
mod message_queue;
mod mutex;
mod pipe;
mod ring;
mod session;
mod socket;

use crate::control::Control;
use crate::names::Names;
use crate::plan::{Form, Plan};
use crate::port::Port;
use crate::side::{Outcome, SideRun};
use rustix::fd::{BorrowedFd, OwnedFd};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

/// Which side of a pair a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sends first, and measures.
    Client,
    /// Answers.
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// One end of a mechanism that carries messages of a size both sides know, in both directions.
///
/// The same code serves both forms. In the blocking form an operation blocks the thread and its future is ready when
/// it is first polled; in the async form it waits in the reactor.
pub trait Transport: Send {
    /// Sends `message`.
    fn send(&mut self, message: &[u8]) -> impl Future<Output = io::Result<()>>;

    /// Receives the next message into `message`, which has the length that is expected; returns how many bytes the
    /// message really had. A mechanism that hands out vectors may replace `message` by one of another length.
    fn recv(&mut self, message: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>>;

    /// The kernel's buffer in bytes, read back, where the mechanism has one that can be set.
    fn buffer(&self) -> Option<u64> {
        None
    }
}

/// What is known about a mechanism before it starts.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Facts {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Most messages that may be in flight; `None` if only its own buffer limits them.
    pub max_depth: Option<usize>,
    /// Every message is answered, as the mechanism itself wants it, and not now and then one for many.
    pub answers_each: bool,
    /// Its ends meet over a descriptor or a file, so both are on one machine.
    pub local: bool,
    /// It has a buffer in the kernel that can be set.
    pub has_buffer: bool,
}

impl Facts {
    /// A mechanism of one machine, without anything special.
    #[must_use]
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, about, max_depth: None, answers_each: false, local: true, has_buffer: false }
    }
}

/// A mechanism of communication between processes.
///
/// ```
/// use ginnel_bench::{Facts, Link, Mechanism, Mechanisms, Role, Transport};
/// use std::io::{self, Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// struct Std;
/// struct End(UnixStream);
///
/// impl Transport for End {
///     async fn send(&mut self, message: &[u8]) -> io::Result<()> {
///         self.0.write_all(message)
///     }
///     async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
///         self.0.read_exact(message).map(|()| message.len())
///     }
/// }
///
/// impl Mechanism for Std {
///     type End = End;
///     fn facts(&self) -> Facts {
///         Facts::new("std-stream", "Unix stream socket by the standard library")
///     }
///     async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
///         Ok(End(match role {
///             Role::Server => {
///                 let (own, other) = UnixStream::pair()?;
///                 link.give(&(), &[std::os::fd::AsFd::as_fd(&other)])?;
///                 own
///             }
///             Role::Client => {
///                 let ((), mut fds) = link.take::<()>()?;
///                 fds.pop().ok_or(io::ErrorKind::UnexpectedEof)?.into()
///             }
///         }))
///     }
/// }
///
/// let mechanisms = Mechanisms::all().with(Std);
/// assert!(mechanisms.names().contains(&"std-stream"));
/// ```
pub trait Mechanism: Send + Sync + 'static {
    /// One end of it.
    type End: Transport + 'static;

    /// What is known about it.
    fn facts(&self) -> Facts;

    /// Why this cannot be measured here, with the limit named; `None` if it can. Asked before anything starts.
    fn refuses(&self, plan: &Plan) -> Option<String> {
        let _ = plan;
        None
    }

    /// Makes one end. The server makes what has to be made and [gives](Link::give) it; the client [takes](Link::take)
    /// it. Everything with a name is gone from the file system when both have returned.
    ///
    /// # Errors
    /// The system's refusal.
    fn open(&self, role: Role, link: &mut Link<'_>) -> impl Future<Output = io::Result<Self::End>>;
}

/// What two ends have until they have each other: the plan, a connection between the two, a place for names.
#[derive(Debug)]
pub struct Link<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) control: &'a Control,
    pub(crate) names: Option<Names>,
    pub(crate) pair: usize,
}

impl Link<'_> {
    /// What is to be measured.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// Hands words and descriptors (at most 8) to the other end.
    ///
    /// # Errors
    /// If the other end has gone, or is on another machine and there are descriptors.
    pub fn give<T: Serialize>(&mut self, words: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.control.tell_with(words, fds)
    }

    /// Takes what the other end has given.
    ///
    /// # Errors
    /// If the other end has gone, or does not answer in time.
    pub fn take<T: DeserializeOwned>(&mut self) -> io::Result<(T, Vec<OwnedFd>)> {
        self.control.hear_with()
    }

    /// A path for a socket or a file in this measurement's own directory, which is removed at its end. Short enough for
    /// a socket's address on every system: at most 103 bytes.
    ///
    /// # Errors
    /// If the path of the run directory is too long for that.
    pub fn path(&self, name: &str) -> io::Result<PathBuf> {
        self.names()?.path(name)
    }

    pub(crate) fn names(&self) -> io::Result<&Names> {
        self.names.as_ref().ok_or_else(|| io::Error::other("the two sides have no directory in common"))
    }

    /// The directory of this measurement, for mechanisms that have names of their own in it.
    pub(crate) fn directory(&self) -> io::Result<&Path> {
        self.names().map(|names| &*names.directory)
    }

    /// A descriptor in the form that the plan asks for.
    ///
    /// # Errors
    /// The system's refusal.
    pub(crate) fn port(&self, fd: OwnedFd) -> io::Result<Port> {
        Port::new(fd, self.plan.form)
    }

    /// Takes exactly `N` descriptors.
    pub(crate) fn take_fds<const N: usize>(&mut self) -> io::Result<[OwnedFd; N]> {
        let ((), fds) = self.take()?;
        fds.try_into().map_err(|fds: Vec<_>| io::Error::other(format!("{} descriptors came, not {N}", fds.len())))
    }
}

/// A mechanism without its types.
pub(crate) trait AnyMechanism: Send + Sync {
    fn facts(&self) -> Facts;
    fn refuses(&self, plan: &Plan) -> Option<String>;
    fn play(&self, run: SideRun) -> Outcome<()>;
}

impl<M: Mechanism> AnyMechanism for M {
    fn facts(&self) -> Facts {
        Mechanism::facts(self)
    }

    fn refuses(&self, plan: &Plan) -> Option<String> {
        Mechanism::refuses(self, plan)
    }

    fn play(&self, run: SideRun) -> Outcome<()> {
        run.play(self)
    }
}

/// The mechanisms that a program can measure.
pub struct Mechanisms(Vec<Box<dyn AnyMechanism>>);

impl Mechanisms {
    /// Every mechanism of this library.
    #[must_use]
    pub fn all() -> Self {
        Self(Vec::new())
            .with(pipe::Pipe { named: false })
            .with(pipe::Pipe { named: true })
            .with(socket::Socket::Pair)
            .with(socket::Socket::Stream)
            .with(socket::Socket::Seqpacket)
            .with(socket::Socket::Datagram)
            .with(socket::Socket::Tcp { no_delay: true })
            .with(socket::Socket::Tcp { no_delay: false })
            .with(message_queue::MessageQueue)
            .with(memory::Memory::EVENTFD)
            .with(memory::Memory::FUTEX)
            .with(mutex::MutexSlot)
            .with(memory::Memory::RING_SPIN)
            .with(memory::Memory::RING_FUTEX)
            .with(memory::Memory::RING_EVENTFD)
            .with(channel::Channel)
            .with(session::SessionOver::SEQPACKET)
            .with(session::SessionOver::SHM)
            .with(ring::Ring)
    }

    /// Adds a mechanism; one of the same name is replaced.
    #[must_use]
    pub fn with(mut self, mechanism: impl Mechanism) -> Self {
        let name = Mechanism::facts(&mechanism).name;
        self.0.retain(|known| known.facts().name != name);
        self.0.push(Box::new(mechanism));
        self
    }

    /// Their names, in the order in which they are measured.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|mechanism| mechanism.facts().name).collect()
    }

    /// What is known about each.
    #[must_use]
    pub fn facts(&self) -> Vec<Facts> {
        self.0.iter().map(|mechanism| mechanism.facts()).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Option<&dyn AnyMechanism> {
        self.0.iter().find(|mechanism| mechanism.facts().name == name).map(|found| &**found)
    }
}

impl Default for Mechanisms {
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Debug for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Whether this library was built with the async form.
pub(crate) fn has_form(form: Form) -> bool {
    form == Form::Blocking || cfg!(feature = "tokio")
}
