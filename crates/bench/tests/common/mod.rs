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
