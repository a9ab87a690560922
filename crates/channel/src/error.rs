//! Errors, one enum per family of operations.

use ginnel_codec::{DecodeError, EncodeError};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Fault, GeometryError};
use ginnel_memory::{NameError, RunDirError, SegmentError};
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// Why a channel cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The runtime directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Somebody writes this channel already.
    #[error("channel {name:?} already has a writer ({owner}): choose another name, or end that process")]
    InUse {
        /// The channel's name.
        name: String,
        /// Who writes it.
        owner: Identity,
    },
    /// Another user's channel has this name.
    #[error("channel {name:?} belongs to another user: choose another name, or a runtime directory of your own")]
    Foreign {
        /// The channel's name.
        name: String,
    },
    /// Sizes that do not fit together.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The shared memory cannot be had.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A system call failed.
    #[error("cannot {what}: {source}{}", advice(*.source))]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// The environment does not describe a channel to write.
    #[error(transparent)]
    Env(#[from] EnvError),
}

/// Why a channel cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The runtime directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Nobody has created it.
    #[error("there is no channel {name:?} in {dir}: start its writer first, or wait for it (`ReaderBuilder::wait`)")]
    Absent {
        /// The channel's name.
        name: String,
        /// Where was looked.
        dir: PathBuf,
    },
    /// It was created and its writer is dead.
    #[error(
        "the writer of channel {name:?} is dead: start it again, or remove what is left with `ginnel channel clean`"
    )]
    Dead {
        /// The channel's name.
        name: String,
    },
    /// It carries other records.
    #[error(
        "channel {name:?} carries records of another type (layout {found:016x}, this reader expects {expected:016x}, {type_name}): \
         use the writer's type, or give both the same `type_name`"
    )]
    WrongType {
        /// The channel's name.
        name: String,
        /// The layout hash of the channel.
        found: u64,
        /// The layout hash of this reader.
        expected: u64,
        /// The type that this reader expects.
        type_name: String,
    },
    /// The permissions of the channel do not allow it.
    #[error("channel {name:?} may not be read by uid {uid}: its writer must grant that (`WriterBuilder::permissions`)")]
    Denied {
        /// The channel's name.
        name: String,
        /// Who tried.
        uid: u32,
    },
    /// The permissions of the runtime directory, or of one above it, do not allow it.
    #[error(
        "channel {name:?} may not be looked for in {dir} by uid {uid}: use a directory that both may read \
         (`WriterBuilder::run_dir`, `ReaderBuilder::run_dir`), or grant that with chmod"
    )]
    DirDenied {
        /// The channel's name.
        name: String,
        /// The directory.
        dir: PathBuf,
        /// Who tried.
        uid: u32,
    },
    /// All places for readers are taken.
    #[error("channel {name:?} has its {max} readers already: raise `WriterBuilder::max_readers`")]
    Full {
        /// The channel's name.
        name: String,
        /// How many there may be.
        max: usize,
    },
    /// Thousands of readers have come and gone since the writer last published: it takes their connections then.
    #[error(
        "channel {name:?} has too many readers waiting for its writer's attention: try again after its next record"
    )]
    Crowded {
        /// The channel's name.
        name: String,
    },
    /// The writer has no file descriptor left for another reader.
    #[error(
        "the writer of channel {name:?} has no file descriptor left for another reader: raise its limit (ulimit -n)"
    )]
    Refused {
        /// The channel's name.
        name: String,
    },
    /// What is there is not a channel, or not a whole one.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The sizes in its header are impossible.
    #[error("channel {name:?} is damaged: {source}")]
    Geometry {
        /// The channel's name.
        name: String,
        /// What is wrong.
        source: GeometryError,
    },
    /// It is no state, of which the newest value could be looked at.
    #[error("channel {name:?} is {found:?}: only a channel of mode Latest can be looked at without reading it")]
    Mode {
        /// The channel's name.
        name: String,
        /// What it is instead.
        found: ginnel_memory::ring::Mode,
    },
    /// The writer advanced faster than this reader could join it.
    #[error("channel {name:?} cannot be joined: {what}")]
    Join {
        /// The channel's name.
        name: String,
        /// What went wrong.
        what: Corruption,
    },
    /// A system call failed.
    #[error("cannot {what}: {source}{}", advice(*.source))]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// The environment does not describe a channel to read.
    #[error(transparent)]
    Env(#[from] EnvError),
}

/// Why an environment variable does not lead to a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// It is not set.
    #[error(
        "the environment variable {variable} is not set: start this program through the one that exports the channel"
    )]
    Unset {
        /// The variable.
        variable: String,
    },
    /// Its value is neither a name nor a list of inherited descriptors.
    #[error("the environment variable {variable} is {value:?}, which is no exported channel")]
    Malformed {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// The descriptors that it names are not inherited ones, or have been taken already.
    #[error(
        "the environment variable {variable} names descriptor {fd}, which was not inherited for it or is taken already"
    )]
    Descriptor {
        /// The variable.
        variable: String,
        /// The descriptor.
        fd: i32,
    },
}

/// Why a record was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Larger than the channel's records may be.
    #[error("a record of {len} bytes is larger than this channel's limit of {max}: raise `WriterBuilder::max_record`")]
    TooLarge {
        /// The record's length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The slowest reader has not made room (lossless channels).
    #[error("the channel is full: its slowest reader is {backlog} bytes behind")]
    Full {
        /// How many bytes it has still to read.
        backlog: u64,
    },
    /// The slowest reader has not made room in time (lossless channels).
    #[error("the channel stayed full for {waited:?}: its slowest reader is {backlog} bytes behind")]
    Timeout {
        /// How long was waited.
        waited: Duration,
        /// How many bytes the reader has still to read.
        backlog: u64,
    },
    /// An aggregator was stopped while its output was full: the record was not published.
    #[error("the writer was stopped while the channel was full")]
    Stopped,
    /// The record cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The memory was taken away: somebody shrank the channel's file.
    #[error("the channel's memory was truncated by somebody: create the channel anew")]
    Truncated,
    /// Somebody wrote to the channel's memory beside its writer.
    #[error("the channel is corrupt, because somebody else wrote to its memory ({0}): create the channel anew")]
    Corrupt(Corruption),
    /// A system call failed.
    #[error("cannot {what}: {source}{}", advice(*.source))]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
}

/// Why no record was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The writer overtook this reader; the next call continues at a valid record.
    ///
    /// In a lossless channel this means that the writer has evicted the reader.
    #[error("{skipped} records were overwritten before they were read")]
    Lagged {
        /// How many records were missed, exactly.
        skipped: u64,
    },
    /// There will be no more records.
    #[error("the channel is closed ({cause})")]
    Closed {
        /// How its writer ended.
        cause: CloseCause,
    },
    /// The writer has no file descriptor left for another reader. This reader is of no more use; a new one may be
    /// opened later.
    #[error(
        "the channel's writer has no file descriptor left for this reader: raise its limit (ulimit -n) and open again"
    )]
    Refused,
    /// The writer is broken or hostile. This reader is of no more use.
    #[error("the channel is corrupt: {0}")]
    Corrupt(#[from] Corruption),
    /// A record cannot be decoded; the next call continues behind it.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The system has no memory for a copy of the next record, which is still there: the next call tries again.
    #[error(
        "there is no memory for a record of {len} bytes: allow this process more, or let the channel's records be smaller"
    )]
    NoMemory {
        /// Its length.
        len: usize,
    },
    /// Records of this channel cannot be borrowed: its writer may overwrite them at any time.
    #[error("records can be borrowed from a lossless channel only: receive a copy")]
    NotLossless,
    /// A system call failed.
    #[error("cannot {what}: {source}{}", advice(*.source))]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: Errno,
    },
}

impl RecvError {
    /// Whether the reader can go on: the error concerned some records, not the channel.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Lagged { .. } | Self::Decode(_) | Self::NotLossless)
    }
}

/// How a writer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseCause {
    /// It closed the channel.
    Closed,
    /// It died without closing it; what it had published was delivered.
    Died,
}

impl std::fmt::Display for CloseCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Closed => "its writer closed it",
            Self::Died => "its writer died",
        })
    }
}

/// What is wrong with the memory of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// Its file was shrunk.
    #[error("its file was truncated")]
    Truncated,
    /// A record claims a length that the channel does not allow.
    #[error("a record claims {len} bytes")]
    Length {
        /// The claimed length.
        len: u64,
    },
    /// A position that no ring has.
    #[error("it claims the impossible position {value}")]
    Position {
        /// The claimed position.
        value: u64,
    },
}

impl From<Fault> for RecvError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Lagged { skipped } => Self::Lagged { skipped },
            Fault::Truncated => Self::Corrupt(Corruption::Truncated),
            Fault::NoMemory { len } => Self::NoMemory { len },
            Fault::Length { len } => Self::Corrupt(Corruption::Length { len }),
            Fault::Position { value } => Self::Corrupt(Corruption::Position { value }),
        }
    }
}

impl From<Fault> for Corruption {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Truncated => Self::Truncated,
            Fault::Length { len } => Self::Length { len },
            // Nobody copies who asks what is corrupt.
            Fault::NoMemory { len } => Self::Length { len: len as u64 },
            Fault::Position { value } | Fault::Lagged { skipped: value } => Self::Position { value },
        }
    }
}

pub(crate) fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE => "; this process has too many open files: close some or raise `ulimit -n`",
        Errno::NFILE => "; the system has too many open files",
        Errno::ACCESS | Errno::PERM => "; permission is missing",
        Errno::NOSPC => "; the file system is full",
        _ => "",
    }
}
