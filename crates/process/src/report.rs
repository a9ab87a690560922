//! The one report of how a command ended.

use crate::frame::{self, Exit, cause, kind};
use crate::guarantee::Limit;
use crate::signal::Signal;
use std::time::Duration;

/// Why the tree ended: what came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Cause {
    /// The leader exited with this code.
    Exited(i32),
    /// The leader was ended by a signal that did not come from us.
    Signaled {
        /// Which.
        signal: Signal,
        /// Whether it left a core dump.
        core: bool,
    },
    /// The parent stopped it or dropped its handle.
    Stopped,
    /// It took longer than its timeout.
    TimedOut,
    /// A limit ended it: that of its output or, by the kernel's hand, that of its memory. (A refused fork ends nobody:
    /// it is counted in [`ExitReport::fork_refusals`], and what the command made of it is its own exit.)
    Limit(Limit),
    /// The parent died first.
    ParentDeath,
    /// Somebody asked the shepherd to end, by this signal.
    ShepherdSignaled(Signal),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled { signal, core: false } => write!(f, "ended by {signal}"),
            Self::Signaled { signal, core: true } => write!(f, "ended by {signal}, core dumped"),
            Self::Stopped => f.write_str("stopped by its parent"),
            Self::TimedOut => f.write_str("it took too long"),
            Self::Limit(limit) => write!(f, "it hit its {limit} limit"),
            Self::ParentDeath => f.write_str("its parent died"),
            Self::ShepherdSignaled(signal) => write!(f, "its shepherd got {signal}"),
        }
    }
}

/// The leader's own end, whatever caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which.
        signal: Signal,
        /// Whether it left a core dump.
        core: bool,
    },
}

/// What the leader and the processes it waited for have used, as `wait4` tells it (and `/usr/bin/time` prints it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ResourceUsage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The largest resident set of any one of them, in bytes.
    pub peak_memory: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
    /// 512-byte blocks read.
    pub blocks_in: u64,
    /// 512-byte blocks written.
    pub blocks_out: u64,
    /// Times it gave the CPU up.
    pub voluntary_switches: u64,
    /// Times the CPU was taken from it.
    pub involuntary_switches: u64,
}

/// What went through one stream of the parent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct StreamCount {
    /// Bytes handed to the caller, or written by it.
    pub bytes: u64,
    /// Reads or writes it took.
    pub calls: u64,
    /// Bytes read and thrown away: past a capture limit, or from a pipe nobody read while `wait` waited.
    pub discarded: u64,
}

/// How a command ended, and what it took. There is exactly one for each command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ExitReport {
    /// Why the tree ended.
    pub cause: Cause,
    /// How the leader itself ended; `None` when it is among the survivors.
    pub status: Option<ExitStatus>,
    /// What the leader used.
    pub usage: ResourceUsage,
    /// From the start to the end of the leader.
    pub duration: Duration,
    /// Processes that had to be killed, because the ladder's signals had not ended them. A lower bound: one whose own
    /// parent is quick enough to collect its status is not seen here.
    pub killed: u32,
    /// Processes that the ladder's signals have ended, or that ended by themselves after the first of them: without a
    /// kill. A lower bound, as [`killed`](Self::killed).
    pub obeyed: u32,
    /// Processes that could not be killed, because the kernel or another user holds them. 0 unless something is very
    /// wrong.
    pub survivors: u32,
    /// The first of the survivors.
    pub survivor_pids: Vec<u32>,
    /// Processes the kernel killed for the memory limit.
    pub oom_kills: u64,
    /// Forks refused for the limit on processes.
    pub fork_refusals: u64,
    /// The peak of the whole tree's memory in bytes, where a memory control group was used.
    pub tree_peak_memory: Option<u64>,
    /// Bytes and writes of stdin.
    pub stdin: StreamCount,
    /// Bytes and reads of stdout (or the terminal).
    pub stdout: StreamCount,
    /// Bytes and reads of stderr.
    pub stderr: StreamCount,
}

impl ExitReport {
    pub(crate) fn new(exit: &Exit, [stdin, stdout, stderr]: [StreamCount; 3]) -> ExitReport {
        let status = (exit.ended != 0).then(|| decode_status(exit.status));
        let [user, system, peak, minor, major, blocks_in, blocks_out, voluntary, involuntary] = exit.rusage;
        ExitReport {
            cause: decode_cause(exit, status),
            status,
            usage: ResourceUsage {
                user: Duration::from_micros(user),
                system: Duration::from_micros(system),
                peak_memory: peak * 1024,
                minor_faults: minor,
                major_faults: major,
                blocks_in,
                blocks_out,
                voluntary_switches: voluntary,
                involuntary_switches: involuntary,
            },
            duration: Duration::from_nanos(exit.duration_ns),
            killed: exit.killed,
            obeyed: exit.obeyed,
            survivors: exit.survivors,
            survivor_pids: exit.named.iter().copied().filter(|pid| *pid != 0).collect(),
            oom_kills: exit.oom_kills,
            fork_refusals: exit.fork_refusals,
            tree_peak_memory: (exit.group_peak > 0).then_some(exit.group_peak),
            stdin,
            stdout,
            stderr,
        }
    }

    /// Reads what the shepherd wrote to a [`report_to`](crate::Command::report_to) descriptor. The streams' counts,
    /// which only the parent knows, are 0.
    /// `None` when it is not a report of this version.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<ExitReport> {
        match frame::open(bytes)? {
            (kind::EXIT, _, mut payload) => Some(ExitReport::new(&Exit::take(&mut payload)?, Default::default())),
            _ => None,
        }
    }

    /// The leader exited with code 0, by itself.
    #[must_use]
    pub fn success(&self) -> bool {
        self.cause == Cause::Exited(0)
    }

    /// This report, if the command ended with code 0; else an error that says how it ended.
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// let mut child = Command::new("false").spawn()?;
    /// let error = child.wait().unwrap().ok().unwrap_err();
    /// assert_eq!(error.to_string(), "the command failed: exit code 1");
    /// # Ok::<(), ginnel_process::SpawnError>(())
    /// ```
    ///
    /// # Errors
    /// [`Unsuccessful`](crate::Unsuccessful).
    pub fn ok(self) -> Result<ExitReport, crate::Unsuccessful> {
        if self.success() { Ok(self) } else { Err(crate::Unsuccessful::new(self, &[])) }
    }

    /// The leader's exit code, if it exited.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self.status {
            Some(ExitStatus::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended the leader, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        match self.status {
            Some(ExitStatus::Signal { signal, .. }) => Some(signal),
            _ => None,
        }
    }

    /// What a shell would have in `$?`: the code, or 128 and the signal; 255 when the leader has not ended.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        match self.status {
            Some(ExitStatus::Code(code)) => code as u8,
            Some(ExitStatus::Signal { signal, .. }) => 128 + signal.number() as u8,
            None => 255,
        }
    }
}

fn signal(number: u32) -> Signal {
    i32::try_from(number).ok().and_then(Signal::new).unwrap_or(Signal::KILL)
}

/// `wait(2)`: seven bits of signal, one of core dump, eight of exit code.
fn decode_status(status: u32) -> ExitStatus {
    match status & 0x7f {
        0 => ExitStatus::Code((status >> 8 & 0xff) as i32),
        number => ExitStatus::Signal { signal: signal(number), core: status & 0x80 != 0 },
    }
}

fn decode_cause(exit: &Exit, status: Option<ExitStatus>) -> Cause {
    match (exit.cause, status) {
        (cause::TIMEOUT, _) => Cause::TimedOut,
        (cause::OUTPUT_LIMIT, _) => Cause::Limit(Limit::Output),
        (cause::PARENT_DEATH, _) => Cause::ParentDeath,
        (cause::SHEPHERD_SIGNALLED, _) => Cause::ShepherdSignaled(signal(exit.cause_signal)),
        (cause::LEADER, Some(ExitStatus::Signal { signal: Signal::KILL, .. })) if exit.oom_kills > 0 => {
            Cause::Limit(Limit::Memory)
        }
        (cause::LEADER, Some(ExitStatus::Code(code))) => Cause::Exited(code),
        (cause::LEADER, Some(ExitStatus::Signal { signal, core })) => Cause::Signaled { signal, core },
        _ => Cause::Stopped,
    }
}
