//! Commands one after the other, each reading what the one before it writes.

use crate::capture;
use crate::child::Child;
use crate::command::Command;
use crate::error::{RunError, SpawnError, Stage, WaitError};
use crate::report::{Cause, ExitReport};
use crate::signal::Signal;
use crate::stdio::Stdio;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::ops::BitOr;

/// Commands whose stdout is the stdin of the next, as often as wanted. Made by `|`, or by [`Pipeline::new`] and
/// [`then`](Self::then).
///
/// Each command has a shepherd, limits and a report of its own. No end of a pipe stays in this process, so a command
/// whose reader has ended is told by the kernel, as in a shell.
///
/// ```
/// use ginnel_process::Command;
///
/// let output = (Command::new("yes") | Command::new("head").args(["-n", "2"])).run()?;
/// assert_eq!(output.stdout, b"y\ny\n");
/// // `yes` was ended by SIGPIPE, which is no failure here.
/// assert!(output.success());
/// # Ok::<(), ginnel_process::RunError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a pipeline does nothing until it is spawned or run"]
pub struct Pipeline {
    commands: Vec<Command>,
}

/// A pipeline that was started. Dropping it ends every tree by its kill ladder, without waiting.
#[derive(Debug)]
pub struct RunningPipeline {
    children: Vec<Child>,
}

/// What a pipeline wrote, and how its commands ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PipelineOutput {
    /// What the last command wrote to stdout, up to its capture limit.
    pub stdout: Vec<u8>,
    /// What the last command wrote to stderr, up to its capture limit. Those of the others go where they were set to,
    /// by default to the parent's.
    pub stderr: Vec<u8>,
    /// How each command ended, in their order.
    pub reports: Vec<ExitReport>,
}

impl PipelineOutput {
    /// Whether every command ended with code 0, or by SIGPIPE because the next one had read enough. (The last has no
    /// next.)
    #[must_use]
    pub fn success(&self) -> bool {
        succeeded(&self.reports)
    }
}

/// As [`PipelineOutput::success`].
fn succeeded(reports: &[ExitReport]) -> bool {
    let Some((last, others)) = reports.split_last() else { return false };
    let enough = |report: &ExitReport| matches!(report.cause, Cause::Signaled { signal: Signal::PIPE, .. });
    last.success() && others.iter().all(|report| report.success() || enough(report))
}

impl From<&mut Command> for Command {
    /// A copy, so that what the methods of a builder return can be a part of a [`Pipeline`].
    fn from(command: &mut Command) -> Command {
        command.clone()
    }
}

impl<C: Into<Command>> BitOr<C> for Command {
    type Output = Pipeline;

    fn bitor(self, next: C) -> Pipeline {
        Pipeline::new(self).then(next)
    }
}

impl<C: Into<Command>> BitOr<C> for &mut Command {
    type Output = Pipeline;

    fn bitor(self, next: C) -> Pipeline {
        Pipeline::new(self).then(next)
    }
}

impl<C: Into<Command>> BitOr<C> for Pipeline {
    type Output = Pipeline;

    fn bitor(self, next: C) -> Pipeline {
        self.then(next)
    }
}

impl Pipeline {
    /// With one command.
    pub fn new(first: impl Into<Command>) -> Pipeline {
        Pipeline { commands: vec![first.into()] }
    }

    /// Another command, which reads what the last one until now writes.
    pub fn then(mut self, next: impl Into<Command>) -> Pipeline {
        self.commands.push(next.into());
        self
    }

    /// Starts all commands, from the first to the last. The first one's stdin, the last one's stdout and every stderr
    /// are what they were set to, by default the parent's.
    ///
    /// Blocks for the time of the starts, at most 30 seconds for each.
    ///
    /// # Errors
    /// As [`Command::spawn`]; those that had started are killed and waited for. [`SpawnError::Invalid`] when a stream
    /// between two commands was set, or a command has a terminal.
    pub fn spawn(&self) -> Result<RunningPipeline, SpawnError> {
        self.check()?;
        start(self.commands.clone())
    }

    /// Runs all commands to their end and captures what the last one writes. The first one's stdin is its
    /// [`input`](Command::input), else empty, unless it was set.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), and when a stream fails or a shepherd is killed; an exit code is not an error. All
    /// trees have ended then.
    pub fn run(&self) -> Result<PipelineOutput, RunError> {
        let commands = self.for_run()?;
        let last = commands[commands.len() - 1].clone();
        let mut running = start(commands)?;
        let result = running.fill(self.commands[0].input.as_ref(), &last);
        if result.is_err() {
            running.kill_all();
        }
        let reports = running.wait();
        running.conclude(result?, reports)
    }

    /// The commands as `run` starts them.
    pub(crate) fn for_run(&self) -> Result<Vec<Command>, SpawnError> {
        self.check()?;
        let mut commands = self.commands.clone();
        let stdin = if commands[0].input.is_some() { Stdio::piped() } else { Stdio::null() };
        commands[0].stdio[0].get_or_insert(stdin);
        if let Some(last) = commands.last_mut() {
            last.stdio[1].get_or_insert(Stdio::piped());
            last.stdio[2].get_or_insert(Stdio::piped());
        }
        Ok(commands)
    }

    fn check(&self) -> Result<(), SpawnError> {
        let last = self.commands.len() - 1;
        for (index, command) in self.commands.iter().enumerate() {
            let taken = (index > 0 && command.stdio[0].is_some()) || (index < last && command.stdio[1].is_some());
            let reason = if command.pty.is_some() {
                "a command of a pipeline has no terminal of its own: its streams are pipes"
            } else if taken {
                "in a pipeline only the first command's stdin and the last one's stdout can be set"
            } else if index > 0 && command.input.is_some() {
                "in a pipeline only the first command can be given input"
            } else {
                continue;
            };
            return Err(SpawnError::Invalid { program: command.program.clone(), reason: reason.to_owned() });
        }
        Ok(())
    }
}

/// Starts them in their order. Each copy of a command, and with it the ends of its pipes, goes as soon as it runs.
pub(crate) fn start(commands: Vec<Command>) -> Result<RunningPipeline, SpawnError> {
    let mut running = RunningPipeline { children: Vec::with_capacity(commands.len()) };
    let mut input = None;
    let last = commands.len() - 1;
    for (index, mut command) in commands.into_iter().enumerate() {
        if let Some(input) = input.take() {
            command.stdin(Stdio::once(input));
        }
        let started = if index < last {
            pipe(&command).and_then(|(read, write)| {
                input = Some(read);
                command.stdout(Stdio::once(write));
                command.spawn()
            })
        } else {
            command.spawn()
        };
        match started {
            Ok(child) => running.children.push(child),
            Err(error) => {
                drop((command, input));
                running.kill_all();
                let _ = running.wait();
                return Err(error);
            }
        }
    }
    Ok(running)
}

fn pipe(command: &Command) -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd), SpawnError> {
    let failed =
        |errno: Errno| SpawnError::Failed { stage: Stage::Stdio, errno, program: command.program.clone(), index: 0 };
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)
}

impl RunningPipeline {
    /// The commands in their order. The first one's `stdin` and the last one's `stdout` are there when they are piped.
    pub fn children(&mut self) -> &mut [Child] {
        &mut self.children
    }

    /// Waits until every tree has ended, and reports in their order. Streams are treated as by [`Child::wait`].
    ///
    /// # Errors
    /// When a shepherd was killed; the others have ended then, too.
    pub fn wait(&mut self) -> Result<Vec<ExitReport>, WaitError> {
        for child in &mut self.children {
            child.close_stdin();
        }
        // From the last: it is the one whose output may have to be thrown away.
        let mut reports: Vec<_> = self.children.iter_mut().rev().map(Child::wait).collect();
        reports.reverse();
        reports.into_iter().collect()
    }

    /// Ends every tree by its kill ladder, all at the same time, and waits for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn stop(&mut self) -> Result<Vec<ExitReport>, WaitError> {
        for child in &self.children {
            child.handle().stop();
        }
        self.wait()
    }

    /// Kills every tree and waits for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn kill(&mut self) -> Result<Vec<ExitReport>, WaitError> {
        self.kill_all();
        self.wait()
    }

    pub(crate) fn kill_all(&self) {
        for child in &self.children {
            child.handle().kill();
        }
    }

    fn fill(&mut self, input: Option<&crate::input::Input>, last: &Command) -> std::io::Result<capture::Capture> {
        let (first, rest) = self.ends();
        match rest {
            Some(end) => capture::fill(last, input, Some(first), end),
            None => capture::fill(last, input, None, first),
        }
    }

    /// The first command, and the last one when that is another.
    pub(crate) fn ends(&mut self) -> (&mut Child, Option<&mut Child>) {
        let (first, rest) = self.children.split_at_mut(1);
        (&mut first[0], rest.last_mut())
    }

    pub(crate) fn conclude(
        &mut self,
        capture: capture::Capture,
        reports: Result<Vec<ExitReport>, WaitError>,
    ) -> Result<PipelineOutput, RunError> {
        if let Some(error) = capture.trouble() {
            return Err(error.into());
        }
        let [stdout, stderr] = capture.kept();
        Ok(PipelineOutput { stdout, stderr, reports: reports? })
    }
}
