//! Daemons that need each other.

use crate::daemon::{Daemon, DaemonError, RunningDaemon};
use ginnel_base::Deadline;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A declared set of daemons: each is started when those it needs are ready, and stopped before them.
///
/// ```
/// use ginnel_process::{Command, Daemon, DaemonSet};
/// use std::time::Duration;
///
/// let sleep = || {
///     let mut command = Command::new("sleep");
///     command.arg("1000");
///     command
/// };
/// let set = DaemonSet::new()
///     .add(Daemon::new("database", sleep()), &[])
///     .add(Daemon::new("cache", sleep()), &[])
///     .add(Daemon::new("server", sleep()), &["database", "cache"])
///     .start(Duration::from_secs(10))?;
/// assert!(set.daemons().all(|daemon| daemon.is_ready()));
/// set.stop();
/// # Ok::<(), ginnel_process::SetError>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a set does nothing until it is started"]
pub struct DaemonSet {
    members: Vec<(Daemon, Vec<String>)>,
}

/// Why a set did not start. What had started of it has been stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// Two daemons have one name.
    #[error("two daemons are called `{0}`")]
    Duplicate(String),
    /// A daemon needs one that is not in the set.
    #[error("daemon `{name}` needs `{needs}`, which is not in the set")]
    Unknown {
        /// The daemon.
        name: String,
        /// What it needs.
        needs: String,
    },
    /// Daemons need each other in a circle.
    #[error("these daemons need each other in a circle: {}", .0.join(", "))]
    Circle(Vec<String>),
    /// One did not start or did not get ready.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl DaemonSet {
    /// An empty set.
    pub fn new() -> DaemonSet {
        DaemonSet::default()
    }

    /// Adds a daemon, with the names of those it needs, in any order.
    pub fn add(mut self, daemon: Daemon, needs: &[&str]) -> DaemonSet {
        self.members.push((daemon, needs.iter().map(|name| (*name).to_owned()).collect()));
        self
    }

    /// Starts all, each after those it needs are ready; those that do not need each other start together. Waits until
    /// all are ready.
    ///
    /// # Errors
    /// When the set contradicts itself (nothing is started then), or when one is not ready in time (all are stopped
    /// then).
    pub fn start(self, timeout: Duration) -> Result<RunningSet, SetError> {
        let deadline = Deadline::after(timeout);
        let order = self.levels()?;
        let mut waiting: BTreeMap<String, Daemon> =
            self.members.into_iter().map(|(daemon, _)| (daemon.name.clone(), daemon)).collect();
        // Dropped on the way out by an error, it stops what has started, last first.
        let mut running = RunningSet { daemons: Vec::new() };
        for level in order {
            let first = running.daemons.len();
            for daemon in level.iter().filter_map(|name| waiting.remove(name)) {
                running.daemons.push(daemon.start()?);
            }
            for daemon in &running.daemons[first..] {
                daemon.wait_ready(deadline.remaining().unwrap_or(Duration::MAX))?;
            }
        }
        Ok(running)
    }

    /// The names in the order of their start: each level needs only earlier ones.
    fn levels(&self) -> Result<Vec<Vec<String>>, SetError> {
        let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (daemon, needs) in &self.members {
            if left.insert(&daemon.name, needs.iter().map(String::as_str).collect()).is_some() {
                return Err(SetError::Duplicate(daemon.name.clone()));
            }
        }
        for (name, needs) in &left {
            if let Some(unknown) = needs.iter().find(|needed| !left.contains_key(*needed)) {
                return Err(SetError::Unknown { name: (*name).to_owned(), needs: (*unknown).to_owned() });
            }
        }
        let mut levels = Vec::new();
        while !left.is_empty() {
            let free: Vec<&str> = left.iter().filter(|(_, needs)| needs.is_empty()).map(|(name, _)| *name).collect();
            if free.is_empty() {
                return Err(SetError::Circle(left.keys().map(|name| (*name).to_owned()).collect()));
            }
            left.retain(|name, _| !free.contains(name));
            for needs in left.values_mut() {
                needs.retain(|name| !free.contains(name));
            }
            levels.push(free.into_iter().map(str::to_owned).collect());
        }
        Ok(levels)
    }
}

/// A set that runs. Dropping it stops all, those that need others first.
#[derive(Debug)]
pub struct RunningSet {
    daemons: Vec<RunningDaemon>,
}

impl RunningSet {
    /// The daemons, in the order of their start.
    pub fn daemons(&self) -> impl Iterator<Item = &RunningDaemon> {
        self.daemons.iter()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RunningDaemon> {
        self.daemons.iter().find(|daemon| daemon.name() == name)
    }

    /// Stops all, those that need others first, and waits for it.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for RunningSet {
    fn drop(&mut self) {
        while let Some(daemon) = self.daemons.pop() {
            drop(daemon.stop());
        }
    }
}
