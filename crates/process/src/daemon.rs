//! A command that is kept running.

use crate::check::Check;
use crate::command::Command;
use crate::keeper::Keeper;
use crate::report::ExitReport;
use crate::restart::{Backoff, Restart};
use ginnel_base::Deadline;
use rustix::event::EventfdFlags;
use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where a daemon's output goes, stdout and stderr together.
#[derive(Default)]
#[non_exhaustive]
pub enum Sink {
    /// Nowhere.
    #[default]
    Null,
    /// To the streams of this process.
    Inherit,
    /// To a file, written by the daemon itself. Open it for appending.
    File(File),
    /// To a writer, line by line with the line's end, on the daemon's thread: a [`RotatingFile`](crate::RotatingFile),
    /// for one. A line that cannot be written is lost, and the log says so.
    Writer(Box<dyn std::io::Write + Send>),
    /// To a function, line by line without the line's end, on the daemon's thread: while it runs, the daemon's output
    /// waits. A line is cut at 64 KiB; bytes that are no UTF-8 are replaced.
    Lines(Box<dyn FnMut(&str) + Send>),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sink::Null => "Null",
            Sink::Inherit => "Inherit",
            Sink::File(_) => "File",
            Sink::Writer(_) => "Writer",
            Sink::Lines(_) => "Lines",
        })
    }
}

/// What a daemon should be.
///
/// ```
/// use ginnel_process::{Check, Command, Daemon, Restart};
/// use std::time::Duration;
///
/// let mut server = Command::new("sh");
/// server.args(["-c", "echo listening; exec sleep 1000"]);
/// let daemon = Daemon::new("server", server).restart(Restart::OnFailure).ready(Check::Line("listening".into())).start()?;
/// daemon.wait_ready(Duration::from_secs(10))?;
/// let report = daemon.stop().unwrap();
/// assert_eq!(report.survivors, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a daemon does nothing until it is started"]
pub struct Daemon {
    pub(crate) name: String,
    pub(crate) command: Command,
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) ready: Option<Check>,
    pub(crate) ready_within: Duration,
    pub(crate) health: Option<Health>,
    pub(crate) sink: Sink,
}

/// A question that is asked again and again.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) check: Check,
    pub(crate) every: Duration,
    pub(crate) failures: u32,
}

impl Daemon {
    /// A daemon with a name for messages and for [`DaemonSet`](crate::DaemonSet). It is not restarted, and counts as
    /// ready as soon as it runs, until something else is said. The command's stdout and stderr are set by the
    /// [sink](Self::output).
    pub fn new(name: impl Into<String>, command: Command) -> Daemon {
        Daemon {
            name: name.into(),
            command,
            restart: Restart::Never,
            backoff: Backoff::default(),
            ready: None,
            ready_within: Duration::from_secs(30),
            health: None,
            sink: Sink::Null,
        }
    }

    /// When it is started again. A start that fails counts as a failure, and so does missing readiness or health.
    pub fn restart(mut self, restart: Restart) -> Daemon {
        self.restart = restart;
        self
    }

    /// The pauses between starts.
    pub fn backoff(mut self, backoff: Backoff) -> Daemon {
        self.backoff = backoff;
        self
    }

    /// When it counts as ready.
    pub fn ready(mut self, check: Check) -> Daemon {
        self.ready = Some(check);
        self
    }

    /// The longest a start may take until it is ready (30 seconds); after it the attempt is ended.
    pub fn ready_within(mut self, time: Duration) -> Daemon {
        self.ready_within = time;
        self
    }

    /// Asks regularly once it is ready; so many failures in a row end it, as a failure.
    pub fn health(mut self, check: Check, every: Duration, failures: u32) -> Daemon {
        self.health = Some(Health { check, every, failures: failures.max(1) });
        self
    }

    /// Where its output goes.
    pub fn output(mut self, sink: Sink) -> Daemon {
        self.sink = sink;
        self
    }

    /// Starts it, and a thread that keeps it running. The first start is waited for, so that its error is told here.
    ///
    /// # Errors
    /// When the first start fails and it is not to be restarted, or when no thread can be had.
    pub fn start(self) -> Result<RunningDaemon, DaemonError> {
        let name = self.name.clone();
        let failed = |error: std::io::Error| DaemonError::Thread { name: name.clone(), reason: error.to_string() };
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake });
        let keeper = Keeper::new(self, Arc::clone(&shared));
        let thread = ginnel_base::thread::spawn(format!("daemon {name}"), move || keeper.run()).map_err(failed)?;
        let daemon = RunningDaemon { name, shared, thread: Some(thread) };
        match daemon.wait(None, |phase| !matches!(phase, Phase::Starting { attempts: 0 })) {
            // It did start, and was quick.
            Ok(()) | Err(DaemonError::Ended { .. }) => Ok(daemon),
            Err(error) => Err(error),
        }
    }
}

/// Where a daemon is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not yet ready; so many attempts have run.
    Starting {
        attempts: u32,
    },
    Ready,
    Pausing,
    /// For good.
    Ended,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) restarts: u32,
    pub(crate) leader: Option<u32>,
    pub(crate) report: Option<ExitReport>,
    /// Why the last attempt failed, where no report tells.
    pub(crate) trouble: Option<String>,
    pub(crate) stop: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            phase: Phase::Starting { attempts: 0 },
            restarts: 0,
            leader: None,
            report: None,
            trouble: None,
            stop: false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub(crate) wake: OwnedFd,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

/// Why a daemon is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// It could not be started.
    #[error("daemon `{name}` did not start: {reason}")]
    Start {
        /// Its name.
        name: String,
        /// The spawn error.
        reason: String,
    },
    /// It ended, and is not started again.
    #[error("daemon `{name}` has ended before it was ready: {reason}")]
    Ended {
        /// Its name.
        name: String,
        /// How.
        reason: String,
    },
    /// It was not ready in time. It goes on trying.
    #[error("daemon `{name}` was not ready within {waited:?}")]
    NotReady {
        /// Its name.
        name: String,
        /// How long we waited.
        waited: Duration,
    },
    /// No thread or descriptor for it can be had.
    #[error("daemon `{name}` cannot be watched over: {reason}")]
    Thread {
        /// Its name.
        name: String,
        /// What the system said.
        reason: String,
    },
}

/// A daemon that is kept running. Dropping it stops it and waits for that.
#[derive(Debug)]
pub struct RunningDaemon {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl RunningDaemon {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs and is ready now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.state().phase == Phase::Ready
    }

    /// Whether it has ended for good.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.state().phase == Phase::Ended
    }

    /// How often it was started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.shared.state().restarts
    }

    /// The pid of the leader, while one runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.shared.state().leader
    }

    /// How it ended last.
    #[must_use]
    pub fn last_report(&self) -> Option<ExitReport> {
        self.shared.state().report.clone()
    }

    /// Waits until it is ready, through restarts if need be.
    ///
    /// # Errors
    /// When it has ended for good, or the time is over.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), DaemonError> {
        self.wait(Some(timeout), |phase| *phase == Phase::Ready)
    }

    fn wait(&self, timeout: Option<Duration>, reached: impl Fn(&Phase) -> bool) -> Result<(), DaemonError> {
        let deadline = Deadline::after_some(timeout);
        let mut state = self.shared.state();
        loop {
            if state.phase == Phase::Ended {
                let name = self.name.clone();
                return Err(match (&state.trouble, &state.report) {
                    (Some(reason), _) => DaemonError::Start { name, reason: reason.clone() },
                    (None, report) => DaemonError::Ended {
                        name,
                        reason: report.as_ref().map_or("unknown".to_owned(), |report| format!("{:?}", report.cause)),
                    },
                });
            }
            if reached(&state.phase) {
                return Ok(());
            }
            let left = deadline.remaining().unwrap_or(Duration::from_secs(3600));
            if left.is_zero() {
                return Err(DaemonError::NotReady { name: self.name.clone(), waited: timeout.unwrap_or_default() });
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stops it by its kill ladder, waits for that, and gives the last report.
    pub fn stop(mut self) -> Option<ExitReport> {
        self.end();
        self.last_report()
    }

    fn end(&mut self) {
        self.shared.change(|state| state.stop = true);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic in a sink has been reported by its thread; the tree went with it.
            let _ = thread.join();
        }
    }
}

impl Drop for RunningDaemon {
    fn drop(&mut self) {
        self.end();
    }
}
