//! The test program plays the sides of its measurements itself.
#![allow(dead_code, reason = "each test program uses its part")]

use ginnel_bench::{Amount, Mechanisms, Mode, Plan, SideProgram, Suite};

/// The test, of every program that uses this, that becomes a side: its body is `common::become_side(…)`.
pub(crate) const SIDE_TEST: &str = "a_side_of_a_measurement";

pub(crate) fn become_side(mechanisms: &Mechanisms) {
    if ginnel_bench::is_side() {
        let ended = ginnel_bench::run_side(mechanisms);
        std::process::exit(i32::from(ended != std::process::ExitCode::SUCCESS));
    }
}

pub(crate) fn suite(mechanisms: Mechanisms) -> Suite {
    let program = SideProgram::this(["--exact", SIDE_TEST, "--nocapture"]).unwrap();
    Suite::new(mechanisms, program).repetitions(1)
}

/// A short one, pinned to the CPUs of this process.
pub(crate) fn plan(mechanism: &str, mode: Mode) -> Plan {
    let cpus = cpus();
    let mut plan = Plan::new(mechanism, mode);
    plan.amount = Amount::Count(500);
    plan.client_cpu = cpus.first().copied();
    plan.server_cpu = cpus.last().copied();
    plan
}

pub(crate) fn cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

/// The processes that play sides for this process now: its descendants that run this program as such. (A shepherd
/// that is just being started is still this very program, but not that test.)
pub(crate) fn sides() -> Vec<u32> {
    let own = std::process::id();
    let program = std::env::current_exe().unwrap();
    let runs_it = |pid: u32| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        exe.is_ok_and(|exe| exe == program) && arguments.contains(SIDE_TEST)
    };
    descendants(own).into_iter().filter(|&pid| runs_it(pid)).collect()
}

/// All descendants of a process.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![of];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// Waits, with a deadline that only a hang meets, until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// `full` in a soak, else `short`.
pub(crate) fn sized<T>(short: T, full: T) -> T {
    if std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1") { full } else { short }
}
