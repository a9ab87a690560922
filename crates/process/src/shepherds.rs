//! The shepherds that run on this machine, and what they watch over.

use crate::guarantee::Protection;
use crate::proc_table::{self, Entry};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use std::{fs, io};

/// A shepherd and its tree, found in /proc.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shepherd {
    /// Its pid.
    pub pid: u32,
    /// The process that started it; another one when that has died and the tree was told to outlive it.
    pub parent: u32,
    /// The user it runs as.
    pub uid: u32,
    /// What protects its tree.
    pub protection: Protection,
    /// The command with its arguments.
    pub command: Vec<String>,
    /// How long it has been there.
    pub age: Duration,
    /// Its descendants, parents before children. The leader is the first whose parent is the shepherd.
    pub tree: Vec<TreeProcess>,
}

/// A process, of a tree or alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeProcess {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid.
    pub parent: u32,
    /// The kernel's name for it.
    pub name: String,
    /// Its command line; empty for a zombie.
    pub command: Vec<String>,
    /// `R`unning, `S`leeping, `D`isk sleep, s`T`opped, `Z`ombie: the kernel's letter.
    pub state: char,
    /// How long it has been there.
    pub age: Duration,
    /// Resident memory in bytes.
    pub memory: u64,
    /// CPU time used.
    pub cpu: Duration,
}

/// All processes that `/proc` shows, by pid. One that ends meanwhile may be missing, or have no command line any more.
///
/// # Errors
/// When /proc cannot be read.
pub fn processes() -> io::Result<Vec<TreeProcess>> {
    let now = uptime()?;
    let mut table = proc_table::table()?;
    table.sort_unstable_by_key(|entry| entry.pid);
    Ok(table.iter().map(|entry| process(entry, now)).collect())
}

/// All shepherds of this user, or of every user for root.
///
/// A shepherd of another user that shows its program to us counts as well; one that does not cannot be told from an
/// impostor and is left out.
///
/// # Errors
/// When /proc cannot be read.
pub fn shepherds() -> io::Result<Vec<Shepherd>> {
    let table = proc_table::table()?;
    let me = rustix::process::geteuid();
    let now = uptime()?;
    let candidates = table.iter().filter(|entry| entry.name == "ginnel-shepherd" && entry.runs());
    Ok(candidates
        .filter_map(|entry| describe(entry, &table, now))
        .filter(|shepherd| me.is_root() || shepherd.uid == me.as_raw())
        .collect())
}

fn describe(entry: &Entry, table: &[Entry], now: Duration) -> Option<Shepherd> {
    // A name can be anybody's; the sealed memfd it runs from cannot.
    let program = fs::read_link(format!("/proc/{}/exe", entry.pid)).ok()?;
    if program.to_str() != Some("/memfd:ginnel-shepherd (deleted)") {
        return None;
    }
    let uid = fs::metadata(format!("/proc/{}", entry.pid)).ok()?.uid();
    let mut args = command_line(entry.pid).into_iter().skip(2);
    let word = args.next()?;
    let protection = match word.split_once(':')?.0 {
        "pid-namespace" => Protection::PidNamespace,
        "cgroup" => Protection::Cgroup,
        "children" => Protection::Children,
        // Also `-group`: a shepherd that could not use the group it was to have.
        _ => Protection::Subreaper,
    };
    let tree = proc_table::descendants(table, &[entry.pid]);
    Some(Shepherd {
        pid: entry.pid as u32,
        parent: entry.parent as u32,
        uid,
        protection,
        command: args.collect(),
        age: age(entry, now),
        tree: tree.into_iter().map(|entry| process(entry, now)).collect(),
    })
}

fn process(entry: &Entry, now: Duration) -> TreeProcess {
    TreeProcess {
        pid: entry.pid as u32,
        parent: entry.parent as u32,
        name: entry.name.clone(),
        command: command_line(entry.pid),
        state: entry.state,
        age: age(entry, now),
        memory: entry.resident_pages * rustix::param::page_size() as u64,
        cpu: proc_table::ticks(entry.ticks),
    }
}

fn command_line(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    if line.is_empty() {
        Vec::new()
    } else {
        line.split(|&byte| byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }
}

fn age(entry: &Entry, now: Duration) -> Duration {
    now.saturating_sub(proc_table::ticks(entry.start))
}

fn uptime() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse().ok());
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/uptime is not a number"))
}
