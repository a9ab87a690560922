//! The machine: what it is, and how busy it is.

use serde::Serialize;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Conditions that a reader of the numbers needs.
#[derive(Serialize)]
pub(crate) struct Conditions {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) hypervisor: bool,
    pub(crate) kernel: String,
    pub(crate) clock_source: String,
    pub(crate) compiler: String,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Conditions {
    pub(crate) fn read() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
        };
        let named = field("model name");
        Self {
            cpu: format!(
                "{named}, family {} model {} stepping {}",
                field("cpu family"),
                field("model\t"),
                field("stepping")
            ),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            hypervisor: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: read("/proc/sys/kernel/osrelease"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            compiler: output("rustc", &["--version"]),
            commit: output("git", &["describe", "--always", "--dirty"]),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim_end().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Busy and total time of all CPUs, in clock ticks.
fn cpu_time() -> (u64, u64) {
    let stat = read("/proc/stat");
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let total: u64 = fields.iter().sum();
    // The fourth and fifth are idle and waiting for a disk.
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// Busy share of all CPUs over a second, in percent.
fn busy() -> f64 {
    let (busy, total) = cpu_time();
    sleep(Duration::from_secs(1));
    let (busy_later, total_later) = cpu_time();
    100.0 * (busy_later - busy) as f64 / (total_later - total).max(1) as f64
}

/// Below this, in percent over a second, the machine is quiet.
pub(crate) const QUIET: f64 = 3.0;

/// Waits for a quiet second, at most `patience`; returns how busy the last second was.
pub(crate) fn wait_for_quiet(patience: Duration) -> f64 {
    let deadline = Instant::now() + patience;
    loop {
        let busy = busy();
        if busy < QUIET || Instant::now() >= deadline {
            return busy;
        }
    }
}
