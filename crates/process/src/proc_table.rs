//! The processes of this machine as /proc shows them.

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
    fn descendants_are_found_in_any_order_of_the_table() {
        let of =
            |pid, parent| parse(pid, &format!("{pid} (x) S {parent} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 1 0 1")).unwrap();
        let table = [of(9, 30), of(30, 4), of(4, 1), of(5, 1), of(31, 9)];
        let mut pids: Vec<i32> = descendants(&table, &[4]).iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [9, 30, 31]);
    }
}
