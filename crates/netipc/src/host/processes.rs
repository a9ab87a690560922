//! Processes, read from `/proc/<pid>`.
//!
//! All files of one process are opened below one handle of its directory. The kernel ties that handle to the process,
//! not to the number: should the process die and its pid be given away in between, reads fail instead of mixing two
//! processes.

use super::mounts::rank;
use super::{Host, is_transient, read_bounded};
use rustix::fs::{Mode, OFlags, open, openat};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// `stat` and `status` are below a few KiB; `cgroup` has a path of up to 4 KiB for each of a few dozen hierarchies.
const FILE_MAX: u64 = 256 << 10;

/// What a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid; 0 for those that the kernel started.
    pub ppid: u32,
    /// The effective user id: what `ps -o uid` shows.
    pub uid: u32,
    /// When it started, in clock ticks since boot.
    pub starttime: u64,
    /// Its command name, at most 15 bytes, never empty (`?` if the process blanked it).
    pub comm: Vec<u8>,
    /// Where it lives: the path in the most trusted hierarchy where it is not in the root, `/` if it is in the root
    /// everywhere.
    pub cgroup: Vec<u8>,
}

/// Reads processes of a machine.
#[derive(Debug, Clone)]
pub struct Processes {
    host: Host,
}

impl Processes {
    /// Processes that this machine's `/proc` shows.
    #[must_use]
    pub fn new(host: Host) -> Self {
        Self { host }
    }

    /// The process with this pid, or `None` if there is none (a thread's id is none) or it may never be looked at.
    ///
    /// # Errors
    /// It cannot be looked at now, and another time it may: this process is out of file descriptors or memory. Whether
    /// there is such a process is not known then.
    pub fn get(&self, pid: u32) -> io::Result<Option<Process>> {
        if pid == 0 {
            return Ok(None);
        }
        match self.look(pid) {
            Err(error) if is_transient(&error) => Err(error),
            // It is not there, ended while it was read, or is hidden from this user.
            looked => Ok(looked.unwrap_or_default()),
        }
    }

    fn look(&self, pid: u32) -> io::Result<Option<Process>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(self.host.file(format!("/proc/{pid}")), flags, Mode::empty())?;
        let (stat, status, cgroup) =
            (read(&directory, "stat")?, read(&directory, "status")?, read(&directory, "cgroup")?);
        let mut process =
            Process { pid, ppid: 0, uid: 0, starttime: 0, comm: Vec::new(), cgroup: parse_cgroup(&cgroup) };
        let parsed = parse_stat(&stat, &mut process).and_then(|()| parse_status(&status, pid));
        Ok(parsed.map(|uid| Process { uid, ..process }))
    }
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let directory: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(directory);
    let file = openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    read_bounded(File::from(file), FILE_MAX)
}

/// `pid (comm) state ppid ... starttime`: the name may hold anything, parentheses too, so it ends at the last one.
fn parse_stat(stat: &[u8], process: &mut Process) -> Option<()> {
    let start = stat.iter().position(|byte| *byte == b'(')? + 1;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    // Kernel workers show their work queue behind the name, beyond what the wire holds.
    let comm = stat.get(start..end)?;
    process.comm = comm[..comm.len().min(crate::COMM_MAX)].to_vec();
    if process.comm.is_empty() {
        process.comm.push(b'?');
    }
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
    process.ppid = fields.nth(1)?.parse().ok()?;
    process.starttime = fields.nth(17)?.parse().ok()?;
    Some(())
}

/// The effective uid, if `pid` is a process and not one of its threads.
fn parse_status(status: &[u8], pid: u32) -> Option<u32> {
    let field = |name: &[u8]| {
        let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        Some(std::str::from_utf8(line).ok()?.split_ascii_whitespace())
    };
    let group: u32 = field(b"Tgid:")?.next()?.parse().ok()?;
    let effective = field(b"Uid:")?.nth(1)?.parse().ok()?;
    (group == pid).then_some(effective)
}

/// Lines of `id:controllers:path`; version 2 has no controllers.
fn parse_cgroup(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut parts = line.splitn(3, |byte| *byte == b':').skip(1);
        Some((parts.next()?, parts.next()?))
    });
    let inside = lines
        .filter(|(_, path)| path.starts_with(b"/") && path.len() > 1)
        .min_by_key(|(controllers, _)| rank(controllers));
    inside.map_or_else(|| b"/".to_vec(), |(_, path)| path.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> Process {
        Process { pid: 7, ppid: 0, uid: 0, starttime: 0, comm: vec![], cgroup: vec![] }
    }

    #[test]
    fn a_name_full_of_parentheses_and_blanks_is_read_whole() {
        let mut process = blank();
        let stat = b"7 (a) S 1 (b) R 42 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9\n";
        parse_stat(stat, &mut process).unwrap();
        assert_eq!((process.comm.as_slice(), process.ppid, process.starttime), (&b"a) S 1 (b"[..], 42, 123_456));
    }

    #[test]
    fn names_are_cut_to_what_the_wire_holds_and_never_empty() {
        let mut process = blank();
        parse_stat(b"7 (kworker/u8:0-events_unbound) I 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 55 0", &mut process)
            .unwrap();
        assert_eq!(process.comm, b"kworker/u8:0-ev");
        parse_stat(b"7 () I 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 55 0", &mut process).unwrap();
        assert_eq!(process.comm, b"?");
    }

    #[test]
    fn the_effective_uid_counts_and_threads_are_no_processes() {
        let status = b"Name:\tx\nTgid:\t7\nPid:\t7\nUid:\t1000\t0\t0\t0\n";
        assert_eq!(parse_status(status, 7), Some(0));
        assert_eq!(parse_status(status, 8), None);
    }

    #[test]
    fn the_first_hierarchy_where_it_is_not_in_the_root_says_where_a_process_lives() {
        assert_eq!(parse_cgroup(b"4:memory:/a:b\n9:name=systemd:/\n0::/\n"), b"/a:b");
        assert_eq!(parse_cgroup(b"4:memory:/m\n9:name=systemd:/s\n0::/\n"), b"/s");
        assert_eq!(parse_cgroup(b"4:memory:/m\n0::/v2\n"), b"/v2");
        assert_eq!(parse_cgroup(b"4:memory:/\n0::/\n"), b"/");
        assert_eq!(parse_cgroup(b"4:memory:\n0::\ngarbage"), b"/");
    }
}
