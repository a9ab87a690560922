//! A shepherd whose command sleeps: its memory, and that it does nothing.

use ginnel_process::Command;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

#[derive(Serialize)]
pub(crate) struct Shepherd {
    pub(crate) resident_kib: u64,
    pub(crate) private_kib: u64,
    pub(crate) seconds: u64,
    pub(crate) idle: Vec<Idle>,
}

/// What a thread did in these seconds.
#[derive(Serialize)]
pub(crate) struct Idle {
    pub(crate) name: &'static str,
    pub(crate) wakeups: u64,
    pub(crate) cpu_ns: u64,
}

pub(crate) fn measure(seconds: u64) -> Result<Shepherd, String> {
    eprintln!("a shepherd's memory and idleness");
    let mut child = Command::new("sleep").arg("1000").spawn().map_err(|error| error.to_string())?;
    // It gives the environment back a moment after the start.
    sleep(Duration::from_millis(100));
    let shepherd = PathBuf::from(format!("/proc/{}", child.shepherd_id()));
    let rollup = read(&shepherd.join("smaps_rollup"))?;
    let threads = [("the shepherd", shepherd), ("the parent's `ginnel-watch`", watch()?)];
    let before = threads.iter().map(|(_, dir)| activity(dir)).collect::<Result<Vec<_>, _>>()?;
    sleep(Duration::from_secs(seconds));
    let mut idle = Vec::new();
    for ((name, dir), (wakeups, cpu_ns)) in threads.iter().zip(before) {
        let (wakeups_after, cpu_ns_after) = activity(dir)?;
        idle.push(Idle { name, wakeups: wakeups_after - wakeups, cpu_ns: cpu_ns_after - cpu_ns });
    }
    child.kill().map_err(|error| error.to_string())?;
    let private_kib = field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:");
    Ok(Shepherd { resident_kib: field(&rollup, "Rss:"), private_kib, seconds, idle })
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The number behind a name, in lines of `name number`.
fn field(lines: &str, name: &str) -> u64 {
    let rest = lines.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Context switches, and nanoseconds on a CPU.
fn activity(dir: &Path) -> Result<(u64, u64), String> {
    let (status, schedule) = (read(&dir.join("status"))?, read(&dir.join("schedstat"))?);
    let switches = field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
    Ok((switches, field(&schedule, "")))
}

fn watch() -> Result<PathBuf, String> {
    let threads = fs::read_dir("/proc/self/task").map_err(|error| error.to_string())?;
    let mut dirs = threads.flatten().map(|thread| thread.path());
    dirs.find(|dir| fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim_end() == "ginnel-watch"))
        .ok_or_else(|| "no thread watches over the shepherds".to_owned())
}
