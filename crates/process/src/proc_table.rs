//! The processes of this machine as /proc shows them.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::{collections::HashSet, fs, io, time::Duration};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) name: String,
    pub(crate) state: char,
    /// User and system time in clock ticks.
    pub(crate) ticks: u64,
    /// Clock ticks after boot; tells two processes with one number apart.
    pub(crate) start: u64,
    pub(crate) threads: u64,
    pub(crate) resident_pages: u64,
}

impl Entry {
    /// Neither a zombie nor dead. One whose main thread alone has ended shows as a zombie, and goes on.
    pub(crate) fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X') || self.threads > 1
    }
}

/// By how many numbers /proc knows this process: 1 when it is that of our own pid namespace, one more for each
/// namespace between. `None` when it does not know us, or is not there.
fn depth() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    // A kernel without namespaces has no such line.
    Some(status.lines().find_map(|line| line.strip_prefix("NSpid:")).map_or(1, |pids| pids.split_whitespace().count()))
}

/// Whether /proc is that of our own pid namespace. In any other the numbers that we know are those of strangers.
pub(crate) fn is_ours() -> bool {
    depth() == Some(1)
}

/// Why /proc does not show every process of this user's trees, if so: as `hidepid` hides one that has changed its user.
/// Found once.
///
/// # Errors
/// When this process has no descriptor or memory to look.
pub(crate) fn hides() -> Result<Option<&'static str>, Errno> {
    static HIDES: OnceLock<Option<String>> = OnceLock::new();
    if let Some(hides) = HIDES.get() {
        return Ok(hides.as_deref());
    }
    let mountinfo = match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mountinfo) => mountinfo,
        Err(error) => match Errno::from_io_error(&error) {
            Some(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(errno),
            // The shepherd tells what is wrong with /proc.
            _ => return Ok(None),
        },
    };
    Ok(HIDES.get_or_init(|| hiding(&mountinfo, may_trace())).as_deref())
}

/// The last mount on a place is the one that is seen.
fn hiding(mountinfo: &str, may_trace: bool) -> Option<String> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"))?;
    let options = line.split_once(" - ")?.1.split(' ').nth(2)?;
    let option = options.split(',').find(|option| option.starts_with("hidepid="))?;
    let hides = !may_trace && !matches!(option, "hidepid=0" | "hidepid=off");
    hides.then(|| format!("/proc is mounted with {option}, which hides processes that have changed their user"))
}

/// Whether this process has `CAP_SYS_PTRACE`, from which nothing is hidden.
fn may_trace() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    set.is_some_and(|set| set >> CAP_SYS_PTRACE & 1 == 1)
}

/// The number by which this process knows the one behind a pidfd, also when that is in a pid namespace below, and
/// whichever /proc there is;
/// -1 when it has been reaped.
///
/// # Errors
/// When /proc cannot say.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    let number = |text: &str| text.trim().parse().ok();
    let seen: Option<i32> = field("Pid:").and_then(number);
    let numbers: Vec<&str> = field("NSpid:").unwrap_or_default().split_whitespace().collect();
    // From the namespace of /proc down to the process's own: ours is one of them.
    let ours = || depth().and_then(|depth| number(numbers.get(depth - 1)?));
    let pid = if seen == Some(-1) || numbers.len() < 2 { seen } else { ours() };
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc does not know the process"))
}

/// Everybody. Processes that end meanwhile may be missing.
pub(crate) fn table() -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for dir in fs::read_dir("/proc")? {
        let pid = dir?.file_name().to_str().and_then(|name| name.parse().ok());
        entries.extend(pid.and_then(entry));
    }
    Ok(entries)
}

/// One process, while it is there.
pub(crate) fn entry(pid: i32) -> Option<Entry> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &str) -> Option<Entry> {
    // The name may hold anything, also spaces and parentheses: it ends at the last one.
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 of proc_pid_stat(5) is index 0 here.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Entry {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        name,
        state: fields.first()?.chars().next()?,
        ticks: number(14)? + number(15)?,
        start: number(22)?,
        threads: number(20)?,
        resident_pages: number(24)?,
    })
}

/// Those of `table` whose chain of parents reaches one of `roots`, without the roots.
pub(crate) fn descendants<'a>(table: &'a [Entry], roots: &[i32]) -> Vec<&'a Entry> {
    let mut known: HashSet<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        found.extend(table.iter().filter(|entry| known.contains(&entry.parent) && !known.contains(&entry.pid)));
        if found.len() == before {
            return found;
        }
        known.extend(found[before..].iter().map(|entry| entry.pid));
    }
}

/// What a tree is using now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeStats {
    /// Processes that run, the leader among them.
    pub processes: u32,
    /// Their threads.
    pub threads: u32,
    /// The sum of their resident memory in bytes (pages that several share count for each).
    pub memory: u64,
    /// CPU time of those that run, to a clock tick.
    pub cpu: Duration,
}

/// Sums up the descendants of the shepherd.
pub(crate) fn tree_stats(shepherd: i32) -> io::Result<TreeStats> {
    if !is_ours() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "/proc does not show the pid namespace of this process",
        ));
    }
    let table = table()?;
    let tree = descendants(&table, &[shepherd]);
    let running = tree.iter().filter(|entry| entry.runs());
    Ok(running.fold(TreeStats::default(), |sum, entry| TreeStats {
        processes: sum.processes + 1,
        threads: sum.threads + entry.threads as u32,
        memory: sum.memory + entry.resident_pages * rustix::param::page_size() as u64,
        cpu: sum.cpu + ticks(entry.ticks),
    }))
}

/// Clock ticks as time.
pub(crate) fn ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(ticks * 1_000_000 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) b (c) S 3 7 5 0 -1 4194560 1 2 3 4 10 11 0 0 20 0 6 0 9000 1 42 18446744073709551615 0";
        let entry = parse(7, line).unwrap();
        assert_eq!((entry.name.as_str(), entry.state, entry.parent, entry.session), ("a) b (c", 'S', 3, 5));
        assert_eq!((entry.ticks, entry.threads, entry.start, entry.resident_pages), (21, 6, 9000, 42));
    }

    #[test]
    fn only_a_proc_that_hides_from_us_hides() {
        let mounted = |options: &str| format!("22 29 0:20 / /proc rw - proc proc rw,{options}\n");
        assert_eq!(hiding(&mounted("hidepid=2"), true), None);
        assert_eq!(hiding(&mounted("hidepid=off"), false), None);
        assert_eq!(hiding(&mounted("gid=0"), false), None);
        assert!(hiding(&mounted("gid=0,hidepid=invisible"), false).unwrap().contains("hidepid=invisible"));
        // One that is mounted over it is the one that counts.
        assert_eq!(hiding(&(mounted("hidepid=2") + &mounted("gid=0")), false), None);
    }

    #[test]
    fn descendants_are_found_in_any_order_of_the_table() {
        let of =
            |pid, parent| parse(pid, &format!("{pid} (x) S {parent} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 1 0 1")).unwrap();
        let table = [of(9, 30), of(30, 4), of(4, 1), of(5, 1), of(31, 9)];
        let mut pids: Vec<i32> = descendants(&table, &[4]).iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [9, 30, 31]);
    }
}
