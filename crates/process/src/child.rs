//! A running command.

use crate::error::{SignalError, WaitError};
use crate::frame::{cause, stdio, target};
use crate::guarantee::Guarantee;
use crate::link::Link;
use crate::proc_table::{self, TreeStats};
use crate::pty::PtyMaster;
use crate::report::ExitReport;
use crate::signal::Signal;
use crate::streams::{ChildStderr, ChildStdin, ChildStdout, Counted, Which};
use crate::watch;
use ginnel_base::Deadline;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A command that was started. Dropping it ends the whole tree by the kill ladder, without waiting for it.
#[derive(Debug)]
pub struct Child {
    /// The command's stdin, when it is piped.
    pub stdin: Option<ChildStdin>,
    /// The command's stdout, when it is piped.
    pub stdout: Option<ChildStdout>,
    /// The command's stderr, when it is piped.
    pub stderr: Option<ChildStderr>,
    /// The command's terminal, when it has one.
    pub pty: Option<PtyMaster>,
    link: Arc<Link>,
    guarantee: Guarantee,
    /// The watch looks after it: not one that has reported before its spawn returned.
    watched: bool,
    ended: bool,
}

/// Signals and stops a command from anywhere; any number of them may exist. It does not keep the command alive.
#[derive(Clone, Debug)]
pub struct Handle(pub(crate) Arc<Link>);

impl Child {
    pub(crate) fn new(link: Arc<Link>, guarantee: Guarantee, modes: [u8; 3], ends: Vec<OwnedFd>) -> Child {
        let mut ends = ends.into_iter();
        let watched = watch::register_new(&link);
        let mut child =
            Child { stdin: None, stdout: None, stderr: None, pty: None, link, guarantee, watched, ended: false };
        let link = || Arc::clone(&child.link);
        if modes[0] == stdio::PTY {
            child.pty = ends.next().map(|fd| PtyMaster::new(fd, link()));
            return child;
        }
        let mut pipe = |which: Which| {
            (modes[which as usize] == stdio::PIPE)
                .then(|| ends.next())
                .flatten()
                .map(|fd| Counted::new(fd, link(), which))
        };
        let (stdin, stdout, stderr) = (pipe(Which::Stdin), pipe(Which::Stdout), pipe(Which::Stderr));
        (child.stdin, child.stdout, child.stderr) =
            (stdin.map(ChildStdin), stdout.map(ChildStdout), stderr.map(ChildStderr));
        child
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The leader's pid.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.link.identity.leader_pid as u32
    }

    /// The shepherd's pid.
    #[must_use]
    pub fn shepherd_id(&self) -> u32 {
        self.link.shepherd_pid as u32
    }

    /// What protects this child, and why not more.
    #[must_use]
    pub fn guarantee(&self) -> &Guarantee {
        &self.guarantee
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.link))
    }

    /// Closes stdin: the command reads end of file.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal to the leader alone. See [`Handle::signal_leader`].
    ///
    /// # Errors
    /// When it has ended, or the kernel refuses.
    pub fn signal_leader(&self, signal: Signal) -> Result<(), SignalError> {
        self.handle().signal_leader(signal)
    }

    /// Sends a signal to the leader's process group. See [`Handle::signal_group`].
    ///
    /// # Errors
    /// When nobody of it is left, or the kernel refuses.
    pub fn signal_group(&self, signal: Signal) -> Result<(), SignalError> {
        self.handle().signal_group(signal)
    }

    /// Sends a signal to every process of the tree. See [`Handle::signal_tree`].
    ///
    /// # Errors
    /// When nobody is left, or the kernel refuses.
    pub fn signal_tree(&self, signal: Signal) -> Result<u32, SignalError> {
        self.handle().signal_tree(signal)
    }

    /// What the tree is using now. One look at /proc.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn stats(&self) -> io::Result<TreeStats> {
        if self.ended { Ok(TreeStats::default()) } else { proc_table::tree_stats(self.link.shepherd_pid) }
    }

    /// Waits until the whole tree has ended, and reports. Blocks; calling it again gives the same report.
    ///
    /// stdin is closed first, so that a command that reads it to the end can end. Of streams that are piped but were
    /// not taken, what comes is read and thrown away (and counted as such), so that a command that writes can end as
    /// well.
    ///
    /// # Errors
    /// When the shepherd was killed: then how the command ended is not known.
    pub fn wait(&mut self) -> Result<ExitReport, WaitError> {
        self.stdin = None;
        if self.stdout.is_some() || self.stderr.is_some() || self.pty.is_some() {
            crate::capture::discard(self);
        }
        // Whoever waits sees the end without the watch.
        watch::forget(&self.link);
        self.link.wait(None);
        self.conclude()
    }

    /// As [`wait`](Self::wait), but gives up at the deadline with `Ok(None)`, leaves stdin open and reads no stream.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitReport>, WaitError> {
        let deadline = Deadline::after(timeout).instant();
        if self.link.wait(deadline) { self.conclude().map(Some) } else { Ok(None) }
    }

    /// Whether the tree has ended: its report, or `None`. Does not block.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self) -> Result<Option<ExitReport>, WaitError> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Ends the tree by the kill ladder and waits for its end: at most the ladder's time and a moment. Streams that
    /// were not taken are read and thrown away.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn stop(&mut self) -> Result<ExitReport, WaitError> {
        self.handle().stop();
        self.wait()
    }

    /// Kills the tree and waits for its end.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn kill(&mut self) -> Result<ExitReport, WaitError> {
        self.handle().kill();
        self.wait()
    }

    /// The longest the kill ladder takes until it kills.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.link.grace
    }

    /// The shepherd has ended.
    pub(crate) fn conclude(&mut self) -> Result<ExitReport, WaitError> {
        let report = self.link.report();
        if !self.ended {
            self.ended = true;
            watch::forget(&self.link);
            watch::unlimit(&self.link);
            if self.link.lingers() {
                watch::register(&self.link);
            }
            match &report {
                Ok(report) => {
                    tracing::debug!(leader = self.id(), cause = ?report.cause, killed = report.killed, "ended")
                }
                Err(error) => tracing::debug!(leader = self.id(), %error, "ended"),
            }
        }
        report
    }
}

/// The descriptor by which the end is waited for together with others, by `poll`, `epoll` or a runtime: readable once
/// the shepherd, and with it the tree, has ended; then [`Child::try_wait`] has the report. (When the kernel does not
/// let a process of the tree die, the report comes without that; [`wait_any`](crate::wait_any) sees this, too.)
///
/// ```
/// use ginnel_process::Command;
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let mut child = Command::new("true").spawn()?;
/// let mut others_as_well = [PollFd::new(&child, PollFlags::IN)];
/// poll(&mut others_as_well, None)?;
/// assert!(child.try_wait()?.unwrap().success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.shepherd.as_fd()
    }
}

/// As of [`Child`].
impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.shepherd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended && self.link.is_ours() {
            // The watch keeps the link until the shepherd has ended, and reaps it.
            self.link.stop(cause::STOPPED, None, false);
            if !self.watched {
                watch::register(&self.link);
            }
        }
    }
}

impl Handle {
    /// Waits until the whole tree has ended, and reports, from any thread and beside others that wait. Blocks. Unlike
    /// [`Child::wait`] it leaves the streams alone: somebody else has to read them.
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// let child = Command::new("sh").args(["-c", "exit 3"]).spawn()?;
    /// let handle = child.handle();
    /// let elsewhere = std::thread::spawn(move || handle.wait());
    /// assert_eq!(elsewhere.join().unwrap().unwrap().code(), Some(3));
    /// # Ok::<(), ginnel_process::SpawnError>(())
    /// ```
    ///
    /// # Errors
    /// When the shepherd was killed: then how the command ended is not known.
    pub fn wait(&self) -> Result<ExitReport, WaitError> {
        self.0.wait(None);
        self.0.report()
    }

    /// As [`wait`](Self::wait), but gives up at the deadline with `Ok(None)`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitReport>, WaitError> {
        if self.0.wait(Deadline::after(timeout).instant()) { self.0.report().map(Some) } else { Ok(None) }
    }

    /// Whether the tree has ended: its report, or `None`. Does not block.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitReport>, WaitError> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Sends a signal to the leader alone. Goes through a pidfd, so it cannot reach a stranger with the same number.
    /// Blocks for the shepherd's answer (microseconds, at most five seconds), as all of these.
    ///
    /// # Errors
    /// When it has ended, or the kernel refuses.
    pub fn signal_leader(&self, signal: Signal) -> Result<(), SignalError> {
        self.0.signal(target::LEADER, signal).map(drop)
    }

    /// Sends a signal to the process group that the leader started in; it may be left by its members.
    ///
    /// # Errors
    /// When nobody of it is left, or the kernel refuses.
    pub fn signal_group(&self, signal: Signal) -> Result<(), SignalError> {
        self.0.signal(target::GROUP, signal).map(drop)
    }

    /// Sends a signal to every process of the tree, whatever session or group it has moved to. Gives the number of
    /// processes reached (with a pid namespace, where the kernel does not tell, 1). `STOP` is repeated until nobody is
    /// left who could fork, so that all of the tree sleeps; of other signals, a process that is forked meanwhile may
    /// miss one.
    ///
    /// # Errors
    /// When nobody is left, or the kernel refuses.
    pub fn signal_tree(&self, signal: Signal) -> Result<u32, SignalError> {
        self.0.signal(target::TREE, signal)
    }

    /// Starts the kill ladder and returns at once. The report's cause is [`Cause::Stopped`](crate::Cause::Stopped).
    pub fn stop(&self) {
        self.0.stop(cause::STOPPED, None, false);
    }

    /// Starts the kill ladder with another signal on its first rung (what ^C sends, for instance), and returns at once.
    pub fn stop_with(&self, first: Signal) {
        self.0.stop(cause::STOPPED, Some(first), false);
    }

    /// Kills the tree, also while the ladder is on its way, and returns at once.
    pub fn kill(&self) {
        self.0.stop(cause::STOPPED, None, true);
    }
}
