//! The second line of defence: what the parent does when somebody has killed the shepherd.
//!
//! The leader has then already been killed by the kernel (`PR_SET_PDEATHSIG`); what it started is left without a
//! subreaper. A pid namespace has died with its pid 1. A control group is killed as one; what has left it, and every
//! tree without one, is looked for in /proc: the tree is every process that descends from the leader, shares its
//! session, or carries the mark in its environment. All of them are stopped first, so that none forks while we look.

use crate::cgroup;
use crate::guarantee::Protection;
use crate::launch::MARK;
use crate::proc_table::{self, Entry, pid_of};
use ginnel_base::Deadline;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io, thread};

/// What became of a tree whose shepherd was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Aftermath {
    /// By what the tree was found and ended.
    pub by: Protection,
    /// Processes that were still there after all efforts; at least 1 where there was no means to look for any.
    pub survivors: u32,
    /// /proc does not show every process of the tree (it is of another pid namespace, hides some, or is not there),
    /// so a survivor may have been missed.
    pub unseen: bool,
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.survivors, self.unseen) {
            (0, false) => f.write_str("its tree is gone")?,
            (0, true) => f.write_str("no process of its tree is seen any more, but /proc does not show all")?,
            (_, true) => f.write_str("whether its tree is gone cannot be told, because /proc does not show it")?,
            (count, false) => write!(f, "{count} of its processes could not be killed")?,
        }
        write!(f, " (second line of defence: {})", self.by)
    }
}

/// By what a tree is found without its shepherd.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) protection: Protection,
    /// The unified control group.
    pub(crate) group: Option<PathBuf>,
    /// Groups of version 1, which hold limits: removed when the tree is gone.
    pub(crate) limits: Vec<PathBuf>,
    /// The last mark in `GINNEL_TREE`.
    pub(crate) mark: Option<String>,
    /// 0 when unknown.
    pub(crate) leader_pid: i32,
    /// `None` while it is not known whether there is one.
    pub(crate) leader: Option<OwnedFd>,
    pub(crate) session: Session,
}

/// Whose number the tree's first session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    Shepherd(i32),
    /// With a terminal.
    Leader,
}

/// The longest the parent tries to end a tree itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

impl Identity {
    /// Ends the tree. Blocks until it is gone, at most five seconds. The shepherd must not be reaped before: nobody
    /// else can have its number until then. `leader_ended` is the clock tick of `kind::LEADER_ENDED`.
    pub(crate) fn end_tree(&self, shepherd: &OwnedFd, leader_ended: Option<u64>) -> Aftermath {
        let deadline = Deadline::after(PATIENCE);
        if let Some(leader) = &self.leader {
            // The kernel has done so already, unless a set-user-ID program threw the order away.
            let _ = rustix::process::pidfd_send_signal(leader, Signal::KILL);
        }
        let (mut survivors, mut unseen) = (0, false);
        if self.protection != Protection::PidNamespace {
            if let Some(leader) = &self.leader {
                // Right also when the number is somebody else's by now, for the pidfd still means the group that the
                // leader started.
                let _ = crate::sys::signal_group(leader, Signal::KILL);
            }
            if let Some(group) = &self.group {
                let _ = fs::write(group.join("cgroup.kill"), "1");
            }
            let ours = proc_table::is_ours();
            unseen = !ours || !matches!(proc_table::hides(), Ok(None));
            survivors = match (ours, &self.group) {
                (true, _) => self.end_marked(shepherd, leader_ended, deadline),
                (false, Some(_)) => 0,
                // Nobody who cannot be looked for is taken for gone.
                (false, None) => 1,
            };
            if let Some(group) = &self.group {
                survivors = survivors.max(end_group(group, deadline));
            }
        }
        for group in &self.limits {
            // Busy as long as anybody is in it.
            while cgroup::remove(group).is_err_and(|errno| errno == Errno::BUSY) && !deadline.passed() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let timeout = deadline.timespec();
        let lives = self.leader.as_ref().is_some_and(|leader| {
            rustix::event::poll(&mut [PollFd::new(leader, PollFlags::IN)], timeout.as_ref()) == Ok(0)
        });
        Aftermath { by: self.protection, survivors: survivors.max(u32::from(lives)), unseen }
    }

    fn end_marked(&self, shepherd: &OwnedFd, leader_ended: Option<u64>, deadline: Deadline) -> u32 {
        let mut known = HashSet::new();
        loop {
            let Ok(members) = self.members(shepherd, leader_ended, &mut known) else {
                // Nobody who cannot be looked for is taken for gone.
                if deadline.passed() {
                    return 1;
                }
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            if members.is_empty() || deadline.passed() {
                return members.len() as u32;
            }
            // All are stopped before the first is killed: the death of a parent would cut the line by which its
            // children are found.
            for member in &members {
                deliver(member, Signal::STOP);
            }
            let Ok(again) = self.members(shepherd, leader_ended, &mut known) else { continue };
            if again
                .iter()
                .all(|member| members.iter().any(|other| (other.pid, other.start) == (member.pid, member.start)))
            {
                for member in &again {
                    deliver(member, Signal::KILL);
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Everybody that can be recognised. Who was once known stays known: its children are found by it even after its
    /// death.
    fn members(
        &self,
        shepherd: &OwnedFd,
        leader_ended: Option<u64>,
        known: &mut HashSet<(i32, u64)>,
    ) -> io::Result<Vec<Entry>> {
        // Asked before the look: whoever has the number afterwards is somebody else, and so is the session.
        let reaped = |pidfd: Option<&OwnedFd>| pidfd.and_then(|pidfd| pid_of(pidfd).ok()).is_none_or(|pid| pid < 0);
        let (shepherd_reaped, leader_reaped) = (reaped(Some(shepherd)), reaped(self.leader.as_ref()));
        let table = proc_table::table()?;
        let session = |entry: &Entry| match self.session {
            // A parent that ignores SIGCHLD has its children reaped by the kernel.
            Session::Shepherd(pid) => entry.session == pid && !shepherd_reaped,
            // Who was started after the number had become free is not of the session, even if that has the number.
            Session::Leader => {
                let reused = || leader_reaped && table.iter().any(|entry| entry.pid == self.leader_pid);
                self.leader_pid != 0
                    && entry.session == self.leader_pid
                    && leader_ended.map_or_else(|| !reused(), |tick| entry.start < tick)
            }
        };
        let ours = |entry: &Entry| {
            session(entry)
                || known.contains(&(entry.pid, entry.start))
                || self.mark.as_deref().is_some_and(|mark| carries(entry.pid, mark))
        };
        let roots: Vec<i32> = table.iter().filter(|entry| ours(entry)).map(|entry| entry.pid).collect();
        let below = proc_table::descendants(&table, &roots);
        let found: HashSet<i32> = roots.iter().copied().chain(below.iter().map(|entry| entry.pid)).collect();
        let members: Vec<Entry> =
            table.into_iter().filter(|entry| found.contains(&entry.pid) && entry.runs()).collect();
        known.extend(members.iter().map(|entry| (entry.pid, entry.start)));
        Ok(members)
    }
}

fn carries(pid: i32, mark: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let marks = environment
        .split(|&byte| byte == 0)
        .filter_map(|variable| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
    marks.flat_map(|marks| marks.split(|&byte| byte == b':')).any(|known| known == mark.as_bytes())
}

/// Through a pidfd, after a look that it is still the process that was meant: the start is known to a clock tick only,
/// but a stranger who has got the number within it is in a session of its own. Who has changed its session meanwhile is
/// met by the next look.
fn deliver(entry: &Entry, signal: Signal) {
    let Some(pid) = rustix::process::Pid::from_raw(entry.pid) else { return };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    if proc_table::entry(entry.pid).is_some_and(|now| (now.start, now.session) == (entry.start, entry.session)) {
        let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
    }
}

fn end_group(group: &Path, deadline: Deadline) -> u32 {
    loop {
        let _ = fs::write(group.join("cgroup.kill"), "1");
        // Only an empty group can be removed. One that is no longer there was removed by its shepherd, when it was
        // empty.
        if matches!(cgroup::remove(group), Ok(()) | Err(Errno::NOENT)) {
            return 0;
        }
        if deadline.passed() {
            return cgroup::members(group).max(1);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
