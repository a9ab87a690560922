//! Who a process is: its id together with its start time, because ids are reused.

use std::fmt;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

/// A process of this pid namespace: id and start time (clock ticks since boot, field 22 of `/proc/PID/stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot; 0 if `/proc` could not tell.
    pub start: u64,
}

impl Identity {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        static START: Mutex<Option<Identity>> = Mutex::new(None);
        let pid = std::process::id();
        let mut known = START.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some(own) if own.pid == pid => own,
            // Not known yet, or known of the parent of this fork.
            _ => *known.insert(Self { pid, start: start_time(pid).unwrap_or(0) }),
        }
    }

    /// Whether this very process still runs. A process that merely has the same id now does not count; neither does a
    /// zombie. Meaningful within one pid namespace only: for a proof, ask the kernel for the lock that the process holds.
    #[must_use]
    pub fn alive(self) -> bool {
        self.pid != 0 && start_time(self.pid).is_some_and(|start| self.start == 0 || start == self.start)
    }
}

/// Which pid namespace this process is in, 0 if `/proc` could not tell: ids compare within one namespace only.
#[must_use]
pub fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

/// The start time of a running process, `None` if there is none or it is a zombie.
fn start_time(pid: u32) -> Option<u64> {
    // One read of a buffer that is always large enough: the kernel makes the text anew for each.
    let mut buffer = [0; 1024];
    let len = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut buffer).ok()?;
    let stat = &buffer[..len];
    // The command name, in brackets, may itself hold brackets and spaces: fields are counted from the last one.
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_namesake_is_not() {
        let own = Identity::own();
        assert_ne!(own.start, 0);
        assert!(own.alive());
        assert!(!Identity { start: own.start + 1, ..own }.alive(), "same id, other start: a reused id");
    }

    #[test]
    fn a_process_that_ended_is_not_alive_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while (Identity { pid, start: 0 }).alive() {
            assert!(std::time::Instant::now() < deadline, "`true` did not end");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
