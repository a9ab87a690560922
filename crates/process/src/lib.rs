//! Run a command, and nothing is ever left behind.
//!
//! Beside each command stands a *shepherd*: a process of a few pages, embedded in this library and started from a
//! sealed memfd. It starts the command, adopts whatever the command leaves behind, and outlives the whole tree. When
//! the parent dies, in whatever way, its end of a socket closes, and the shepherd ends the tree. See `docs/process.md`
//! for what happens in each kind of failure.
//!
//! ```
//! use ginnel_process::Command;
//! use std::time::Duration;
//!
//! let output = Command::new("sh").args(["-c", "echo seen; sleep 1000 & exit 3"]).timeout(Duration::from_secs(5)).run()?;
//! assert_eq!(output.stdout, b"seen\n");
//! assert_eq!(output.report.code(), Some(3));
//! // The sleep that the shell left in the background has been ended as well.
//! assert_eq!(output.report.survivors, 0);
//! # Ok::<(), ginnel_process::RunError>(())
//! ```
//!
//! Beside [`Command::run`] there are [lines](Command::stream), [pipelines](Pipeline),
//! [waiting for any of many](wait_any), [daemons](Daemon), and with feature `tokio` the same for a runtime.
//! `docs/process.md` has a table of all of it.
//!
//! Which protection holds on this machine is said by [`Child::guarantee`]; nothing is claimed that was not established.
//!
//! Linux 5.9 or later, on x86_64 and aarch64.
#![deny(unsafe_code)]

#[cfg(feature = "tokio")]
mod aio;
#[cfg(feature = "tokio")]
mod aio_run;
mod capture;
mod cgroup;
mod check;
mod child;
mod command;
mod daemon;
mod daemon_set;
mod error;
#[path = "../shepherd/frame.rs"]
#[allow(missing_docs, unreachable_pub, dead_code, reason = "shared with the shepherd, each side uses its half")]
mod frame;
mod guarantee;
mod input;
mod keeper;
mod ladder;
mod launch;
mod lines;
mod link;
mod pipeline;
mod proc_table;
mod protect;
mod pty;
mod report;
mod restart;
mod rotate;
mod second_line;
mod shepherds;
mod signal;
mod stdio;
mod streams;
mod strings;
mod sys;
mod wait_any;
mod watch;

#[cfg(feature = "tokio")]
pub use aio::AsyncStream;
#[cfg(feature = "tokio")]
pub use aio_run::AsyncLines;
pub use capture::Output;
pub use check::Check;
pub use child::{Child, Handle};
pub use command::{Command, Isolation, Orphans, ParentDeath, Resource};
pub use daemon::{Daemon, DaemonError, RunningDaemon, Sink};
pub use daemon_set::{DaemonSet, RunningSet, SetError};
pub use error::{RunError, SignalError, SpawnError, Stage, Unsuccessful, WaitError};
pub use guarantee::{Enforcement, Guarantee, Limit, Protection};
pub use ladder::KillLadder;
pub use lines::{BothLines, ByteLines, Line, Lines, LossyLines, Source};
pub use pipeline::{Pipeline, PipelineOutput, RunningPipeline};
pub use proc_table::TreeStats;
pub use pty::{Pty, PtyMaster, Size, type_ahead};
pub use report::{Cause, ExitReport, ExitStatus, ResourceUsage, StreamCount};
pub use restart::{Backoff, Restart};
pub use rotate::RotatingFile;
pub use second_line::Aftermath;
pub use shepherds::{Shepherd, TreeProcess, processes, shepherds};
pub use signal::{Signal, UnknownSignal};
pub use stdio::Stdio;
pub use streams::{ChildStderr, ChildStdin, ChildStdout};
pub use sys::SignalsBlocked;
pub use wait_any::wait_any;

/// What is printed there compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/process.md")]
struct Guide;
