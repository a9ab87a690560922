//! How two processes meet over a mechanism: the parent founds it, the child joins, the parent connects.

use crate::Outcome;
use crate::payload::Source;
use crate::rows::Row;
use rustix::fd::OwnedFd;

pub mod ginnel;
pub mod iceoryx;
pub mod ipc;
pub mod kernel;
pub mod line;
pub mod ring;
pub mod wake;

/// What both sides know of the row, beside its payload size (a constant of the code that is run).
pub struct Plan {
    pub row: Row,
    /// A name that no other run of this machine has: for channels, services, files.
    pub name: String,
    /// Where this run may leave files; removed at its end.
    pub directory: std::path::PathBuf,
}

/// What the founder gives to the child: inherited descriptors, and names.
#[derive(Default)]
pub struct Handoff {
    pub fds: Vec<OwnedFd>,
    pub names: Vec<String>,
}

impl Handoff {
    /// The same once more, for a process that joins several times.
    pub fn duplicate(&self) -> Outcome<Self> {
        let fds = self.fds.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?;
        Ok(Self { fds, names: self.names.clone() })
    }
}

/// A mechanism, as its two sides meet over it.
pub trait Meeting {
    type Founded;
    type Parent;
    type Child;

    /// In the parent, before the child exists.
    fn found(plan: &Plan) -> Outcome<(Self::Founded, Handoff)>;

    /// In the child. `index` counts the readers.
    fn join(plan: &Plan, handoff: Handoff, index: usize) -> Outcome<Self::Child>;

    /// In the parent, after every child has joined.
    fn connect(plan: &Plan, founded: Self::Founded) -> Outcome<Self::Parent>;
}

/// One end of a two-way link that carries copies: what is sent comes from private memory and ends in private memory.
pub trait Link<const W: usize> {
    fn send(&mut self, message: &[u64; W]) -> Outcome<()>;
    /// Waits for the next message and copies it out.
    fn receive(&mut self) -> Outcome<()>;
    /// The copy.
    fn received(&self) -> &[u64; W];
}

/// One end of a two-way link whose payloads are written and read where they lie. Only the first and last words are
/// touched.
pub trait LoanLink<const W: usize> {
    fn send_in_place(&mut self, number: u64) -> Outcome<()>;
    /// The first and the last word.
    fn receive_in_place(&mut self) -> Outcome<(u64, u64)>;
}

/// The sending end of a stream.
pub trait Sender<const W: usize> {
    /// Sends the next `count` messages of `source`, as one publication where the mechanism can.
    /// Waits where the mechanism is lossless and full.
    fn send_batch(&mut self, count: usize, source: &mut Source<W>) -> Outcome<()>;
}

/// The receiving end of a stream.
pub trait Receiver<const W: usize> {
    /// Waits for at least one message, copies out what is there (message by message), and shows each copy to `take`.
    fn drain(&mut self, take: impl FnMut(&[u64; W])) -> Outcome<()>;
}

/// A place of the newest value, written and read by one process.
pub trait Newest: Sized {
    fn create(plan: &Plan) -> Outcome<Self>;
    fn write(&mut self, value: &[u64; 8]) -> Outcome<()>;
    /// The value that was written last.
    fn read(&mut self) -> Outcome<&[u64; 8]>;
}
