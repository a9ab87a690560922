//! The machine: what it is, how busy it is, how its CPUs are related.

use crate::clock::Clock;
use crate::model::{Environment, Relation};
use ginnel_base::Deadline;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

impl Environment {
    /// Looks at this machine and this process. Takes about 100 ms, in which it sees how busy the machine is.
    #[must_use]
    pub fn read() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
        };
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let busy = Busy::now();
        sleep(Duration::from_millis(100));
        Self {
            cpu: field("model name"),
            cpus: list(&read("/sys/devices/system/cpu/online")).len(),
            hypervisor: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease"),
            clock_source: clock_source(),
            clock: Clock::detect().name().to_owned(),
            governor: (governor != UNKNOWN).then_some(governor),
            affinity: allowed_cpus("self"),
            argv: std::env::args().collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            busy_percent: busy.percent_since(),
        }
    }
}

const UNKNOWN: &str = "unknown";

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| UNKNOWN.to_owned(), |text| text.trim_end().to_owned())
}

pub(crate) fn clock_source() -> String {
    read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
}

/// Busy and total time of all CPUs at one moment, in clock ticks.
pub(crate) struct Busy {
    busy: u64,
    total: u64,
}

impl Busy {
    pub(crate) fn now() -> Self {
        let stat = read("/proc/stat");
        let first = stat.lines().next().unwrap_or("");
        let fields: Vec<u64> =
            first.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let total: u64 = fields.iter().sum();
        // The fourth and fifth are idle and waiting for a disk.
        let idle: u64 = fields.iter().skip(3).take(2).sum();
        Self { busy: total - idle, total }
    }

    /// How busy all CPUs have been since then, in percent.
    pub(crate) fn percent_since(&self) -> f64 {
        let now = Self::now();
        100.0 * now.busy.saturating_sub(self.busy) as f64 / now.total.saturating_sub(self.total).max(1) as f64
    }
}

/// Below this, in percent over a second, the machine is quiet.
pub const QUIET: f64 = 3.0;

/// Waits for a quiet second, at most `patience`; returns how busy the last second was, in percent of all CPUs.
pub fn wait_for_quiet(patience: Duration) -> f64 {
    let deadline = Deadline::after(patience);
    loop {
        let busy = Busy::now();
        sleep(Duration::from_secs(1));
        let busy = busy.percent_since();
        if busy < QUIET || deadline.passed() {
            return busy;
        }
    }
}

/// The CPUs on which the kernel lets a process run: the set of `/proc/PROCESS/status`.
pub(crate) fn allowed_cpus(process: &str) -> Vec<usize> {
    let status = read(&format!("/proc/{process}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.map(|cpus| list(cpus.trim())).unwrap_or_default()
}

/// Whether a signal has stopped a process.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let status = read(&format!("/proc/{pid}/status"));
    status.lines().any(|line| line.starts_with("State:\tT"))
}

/// `0-3,8` as numbers.
fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// How two CPUs are related.
pub(crate) fn relation(client: Option<usize>, server: Option<usize>) -> Relation {
    let (Some(client), Some(server)) = (client, server) else { return Relation::Unpinned };
    if client == server {
        return Relation::SameCpu;
    }
    let siblings = read(&format!("/sys/devices/system/cpu/cpu{client}/topology/thread_siblings_list"));
    if list(&siblings).contains(&server) { Relation::SmtSiblings } else { Relation::TwoCores }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(list("5"), [5]);
        assert!(list("unknown").is_empty() && list("").is_empty());
    }

    #[test]
    fn this_machine_says_what_it_is() {
        let environment = Environment::read();
        assert!(environment.cpus > 0 && !environment.affinity.is_empty() && !environment.argv.is_empty());
        let cpu = environment.affinity[0];
        assert_eq!(relation(Some(cpu), Some(cpu)), Relation::SameCpu);
        assert_eq!(relation(None, Some(cpu)), Relation::Unpinned);
    }
}
