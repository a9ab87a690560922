//! Job control for a command that reads our terminal.
//!
//! The command is in a session of its own, so the kernel does not know it as a part of our job: in the background it
//! would take the keys that are meant for the shell. What the kernel would have done is done here: as soon as anybody
//! of the tree waits for input from the terminal, the tree is stopped, and our process group gets `TTIN`.
//!
//! The kernel stops at the read, not at a `poll` before it. From outside, the read comes too late: it takes the key. So
//! whoever waits in `poll` counts as one that reads.

use crate::waiting;
use rustix::fs::FileType;
use rustix::process::Signal;
use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::time::Duration;

/// Our terminal, when stdin is one and it controls us.
pub(crate) struct Job {
    device: u64,
}

impl Job {
    /// `None` when stdin is not our controlling terminal: then there is no job control for it.
    pub(crate) fn new() -> Option<Job> {
        let stdin = io::stdin();
        rustix::termios::tcgetpgrp(&stdin).ok()?;
        let stat = rustix::fs::fstat(&stdin).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return None;
        }
        Some(Job { device: stat.st_rdev })
    }

    /// Whether another process group has the terminal.
    pub(crate) fn in_background(&self) -> bool {
        rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group != rustix::process::getpgrp())
    }

    /// Whether a process below `ancestor` waits for input from the terminal.
    pub(crate) fn is_read_below(&self, ancestor: u32) -> bool {
        let threads = fs::read_dir(format!("/proc/{ancestor}/task")).into_iter().flatten().flatten();
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let children: Vec<u32> =
            children.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>()).collect();
        children.into_iter().any(|child| self.is_read_by(child) || self.is_read_below(child))
    }

    fn is_read_by(&self, pid: u32) -> bool {
        let is_ours =
            |fd: &u64| fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|file| file.st_rdev() == self.device);
        waiting::for_input(pid).iter().any(is_ours)
    }

    /// Stops our process group as the kernel stops one that reads in the background, and returns when it is continued,
    /// which `continued` counts. False when it could not be stopped: nobody is there who would continue it.
    pub(crate) fn stop(&self, continued: impl Fn() -> u64) -> bool {
        let before = continued();
        if rustix::process::kill_current_process_group(Signal::TTIN).is_err() {
            return false;
        }
        // The signal stops whichever thread it finds, and the others a moment later. Rounds and not time, which goes on
        // while we are stopped.
        for _ in 0..100 {
            if continued() != before {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}
