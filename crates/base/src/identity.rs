//! Who a process is: its id together with its start time, because ids are reused.

use rustix::io::Errno;
use rustix::process::Pid;
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
            _ => *known.insert(Self { pid, start: own_start(pid) }),
        }
    }

    /// Whether this very process may still run. A process that merely has the same id now does not count; neither does
    /// a zombie. Where `/proc` cannot be asked (no descriptor left, or it hides the processes of others), whoever has
    /// the id counts: only who is known to be dead may be treated so. Meaningful within one pid namespace only: for a
    /// proof, ask the kernel for the lock that the process holds.
    #[must_use]
    pub fn alive(self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        match look(self.pid) {
            Look::Ended => false,
            Look::Runs { start } => self.start == 0 || start == self.start,
            Look::Unknown => rustix::process::test_kill_process(pid) != Err(Errno::SRCH),
        }
    }
}

/// A number for the pid and the time namespace of this process, 0 if `/proc` could not tell. Ids compare within one pid
/// namespace only, and start times within one time namespace, because each has a clock of its own.
#[must_use]
pub fn namespaces() -> u64 {
    let Ok(pid) = rustix::fs::stat("/proc/self/ns/pid") else { return 0 };
    // A kernel without time namespaces has one clock.
    let time = rustix::fs::stat("/proc/self/ns/time").map_or(0, |stat| stat.st_ino);
    // Inode numbers of namespaces have 32 bits.
    pid.st_ino << 32 | time & 0xffff_ffff
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

fn own_start(pid: u32) -> u64 {
    match look(pid) {
        Look::Runs { start } => start,
        Look::Ended | Look::Unknown => 0,
    }
}

enum Look {
    Runs {
        start: u64,
    },
    /// A zombie, or gone while it was looked at.
    Ended,
    Unknown,
}

fn look(pid: u32) -> Look {
    // One read of a buffer that is always large enough: the kernel makes the text anew for each.
    let mut buffer = [0; 1024];
    let Ok(mut file) = std::fs::File::open(format!("/proc/{pid}/stat")) else { return Look::Unknown };
    match file.read(&mut buffer) {
        Ok(len) => parse(&buffer[..len]).unwrap_or(Look::Unknown),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Look::Ended,
        Err(_) => Look::Unknown,
    }
}

fn parse(stat: &[u8]) -> Option<Look> {
    // The command name, in brackets, may itself hold brackets and spaces: fields are counted from the last one.
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return Some(Look::Ended);
    }
    Some(Look::Runs { start: fields.nth(18)?.parse().ok()? })
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
        let deadline = crate::Deadline::after(std::time::Duration::from_secs(10));
        while (Identity { pid, start: 0 }).alive() {
            assert!(!deadline.passed(), "`true` did not end");
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
