//! What can go wrong, and where.

use crate::frame::stage;
use crate::guarantee::Limit;
use crate::second_line::Aftermath;
use rustix::io::Errno;
use std::{ffi::OsString, fmt, io, time::Duration};

/// Where a spawn failed. Everything up to [`Stage::Shepherd`] happens in the parent, the rest in the shepherd or in the
/// new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Making the thread that watches over all shepherds, which starts with the first command.
    Watch,
    /// Making the sealed memfd that holds the shepherd.
    Embed,
    /// Making the socket to the shepherd, or sending it the frame.
    Socket,
    /// Making the pid namespace of [`Isolation::PidNamespace`](crate::Isolation::PidNamespace).
    Namespace,
    /// Starting the shepherd.
    Shepherd,
    /// Shepherd and library did not understand each other.
    Protocol,
    /// Making or entering a control group that a limit needs.
    Cgroup,
    /// Opening fd 0, 1 or 2, or the parent's ends of them.
    Stdio,
    /// Making the pseudo-terminal, or making it the controlling one.
    Pty,
    /// Making the new process.
    Fork,
    /// Making its session.
    Session,
    /// Putting descriptors at their numbers.
    Descriptors,
    /// Setting a resource limit.
    Rlimit,
    /// Setting the nice value.
    Nice,
    /// Setting the CPU affinity.
    Affinity,
    /// Setting the supplementary groups.
    Groups,
    /// Changing the group.
    Gid,
    /// Changing the user.
    Uid,
    /// Entering the working directory.
    Cwd,
    /// Executing the file: it is missing, not executable, no program, or its arguments are too long.
    Exec,
}

impl Stage {
    pub(crate) fn from_frame(byte: u8) -> Stage {
        match byte {
            stage::CGROUP => Stage::Cgroup,
            stage::STDIO => Stage::Stdio,
            stage::PTY => Stage::Pty,
            stage::FORK => Stage::Fork,
            stage::SESSION => Stage::Session,
            stage::DESCRIPTORS => Stage::Descriptors,
            stage::RLIMIT => Stage::Rlimit,
            stage::NICE => Stage::Nice,
            stage::AFFINITY => Stage::Affinity,
            stage::GROUPS => Stage::Groups,
            stage::GID => Stage::Gid,
            stage::UID => Stage::Uid,
            stage::CWD => Stage::Cwd,
            stage::EXEC => Stage::Exec,
            _ => Stage::Protocol,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Watch => "starting the watch over shepherds",
            Stage::Embed => "preparing the shepherd",
            Stage::Socket => "talking to the shepherd",
            Stage::Namespace => "making a pid namespace",
            Stage::Shepherd => "starting the shepherd",
            Stage::Protocol => "understanding the shepherd",
            Stage::Cgroup => "making a control group",
            Stage::Stdio => "opening a standard stream",
            Stage::Pty => "making the pseudo-terminal",
            Stage::Fork => "making the process",
            Stage::Session => "making its session",
            Stage::Descriptors => "passing descriptors",
            Stage::Rlimit => "setting a resource limit",
            Stage::Nice => "setting the nice value",
            Stage::Affinity => "setting the CPU affinity",
            Stage::Groups => "setting the supplementary groups",
            Stage::Gid => "changing the group",
            Stage::Uid => "changing the user",
            Stage::Cwd => "entering the working directory",
            Stage::Exec => "executing",
        })
    }
}

/// Why a command did not start. Nothing of it is left: no process, no control group, no descriptor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A system call refused.
    #[error("cannot run {program:?}: {stage}: {}", io::Error::from(*errno))]
    Failed {
        /// Where.
        stage: Stage,
        /// What the kernel said.
        errno: Errno,
        /// The program as it was named.
        program: OsString,
        /// Which descriptor, resource or group it was, for the stages that handle several.
        index: u32,
    },
    /// The command contradicts itself or cannot be expressed.
    #[error("cannot run {program:?}: {reason}")]
    Invalid {
        /// The program as it was named.
        program: OsString,
        /// What to change.
        reason: String,
    },
    /// A limit was asked for that this machine cannot enforce for a whole tree.
    #[error("cannot run {program:?}: the {limit} limit needs a control group: {reason}")]
    LimitUnavailable {
        /// The program as it was named.
        program: OsString,
        /// Which limit.
        limit: Limit,
        /// Why there is none.
        reason: String,
    },
    /// The file system or the machine did not answer; the attempt was killed.
    #[error("cannot run {program:?}: it had not started after {after:?}")]
    TimedOut {
        /// The program as it was named.
        program: OsString,
        /// How long we waited.
        after: Duration,
    },
    /// The shepherd was killed before it could say whether the command had started; what had started is gone.
    #[error("cannot run {program:?}: the shepherd was killed during the start")]
    ShepherdLost {
        /// The program as it was named.
        program: OsString,
    },
}

impl SpawnError {
    /// The stage, where there is one.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        match self {
            SpawnError::Failed { stage, .. } => Some(*stage),
            _ => None,
        }
    }

    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            SpawnError::Failed { errno, .. } => Some(errno.raw_os_error()),
            _ => None,
        }
    }
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> Self {
        let kind = match &error {
            SpawnError::Failed { errno, .. } => io::Error::from(*errno).kind(),
            SpawnError::Invalid { .. } => io::ErrorKind::InvalidInput,
            SpawnError::LimitUnavailable { .. } => io::ErrorKind::Unsupported,
            SpawnError::TimedOut { .. } => io::ErrorKind::TimedOut,
            SpawnError::ShepherdLost { .. } => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}

/// Why there is no exit report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// Somebody killed the shepherd. How the command ended is unknown, and nothing is invented; its tree has been ended
    /// by the second line of defence, with the result given here.
    #[error("the shepherd was killed, so how the command ended is not known; {aftermath}")]
    ShepherdLost {
        /// What became of the tree.
        aftermath: Aftermath,
    },
}

/// Why a signal was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// Everybody it was meant for has ended.
    #[error("no process is left to signal")]
    Ended,
    /// The kernel refused, for instance because a program of the tree runs as another user.
    #[error("the signal was refused: {}", io::Error::from(*.0))]
    Refused(Errno),
    /// The shepherd did not answer in time.
    #[error("the shepherd did not answer within {0:?}")]
    TimedOut(Duration),
}

/// Why [`Command::run`](crate::Command::run) has no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The command did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The command ran, but how it ended is not known.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// Reading or writing a stream failed; the tree has been ended.
    #[error("a stream of the command failed: {0}")]
    Stream(#[from] io::Error),
}

/// A command that ran, and did not end with code 0; see [`ExitReport::ok`](crate::ExitReport::ok).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsuccessful {
    /// How it ended.
    pub report: Box<crate::ExitReport>,
    /// The last line that it wrote to stderr, where that was captured; cut to 500 bytes, control characters replaced.
    pub last_words: Option<String>,
}

impl Unsuccessful {
    pub(crate) fn new(report: crate::ExitReport, stderr: &[u8]) -> Unsuccessful {
        const LONGEST: usize = 500;
        let line = stderr.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
        let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        Unsuccessful { report: Box::new(report), last_words: (!text.is_empty()).then_some(text) }
    }
}

impl fmt::Display for Unsuccessful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command failed: {}", self.report.cause)?;
        match &self.last_words {
            Some(words) => write!(f, ": {words}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Unsuccessful {}
