//! Sides that are stopped or killed at any moment: an error in bounded time, and nothing is left.

mod common;

use common::{descendants, plan, sides, sized, suite, until};
use ginnel_bench::{Amount, Mechanisms, Mode, Plan};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_side_of_a_measurement() {
    common::become_side(&Mechanisms::all());
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    let _ = kill_process(pid, signal); // it may have ended by itself
}

/// Numbers that look random, the same ones in every run.
fn random(seed: u64) -> u64 {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

/// A measurement that would take far longer than a test waits.
fn endless(mechanism: &str, mode: Mode) -> Plan {
    let mut plan = plan(mechanism, mode);
    plan.amount = Amount::Duration(Duration::from_secs(3600));
    plan.patience = Duration::from_millis(1500);
    plan.interval = Duration::from_micros(100);
    plan.depth = if mechanism == "ginnel-shm" { 1 } else { 16 };
    plan.pairs = if matches!(mode, Mode::FanOut | Mode::FanIn) { 2 } else { 1 };
    plan
}

/// What the measurement says when `signal` is sent to one of its sides at a moment that `seed` chooses.
fn struck(plan: &Plan, seed: u64, signal: Signal, run_dir: &Path) -> String {
    std::thread::scope(|scope| {
        let measuring = scope.spawn(|| suite(Mechanisms::all()).run_dir(run_dir).measure(plan));
        until("the sides start", || sides().len() == 2);
        let found = sides();
        std::thread::sleep(Duration::from_micros(random(seed) % 150_000));
        send(found[random(seed + 7) as usize % found.len()], signal);
        let begun = Instant::now();
        let row = measuring.join().unwrap();
        let what = format!("{} {}", plan.mechanism, plan.mode);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: the error came after {:?}", begun.elapsed());
        assert!(row.repetitions.is_empty(), "{what}: a number came");
        row.failure.unwrap()
    })
}

const MODES: [Mode; 5] = [Mode::PingPong, Mode::Throughput, Mode::Paced, Mode::FanOut, Mode::FanIn];

/// Plans of a pair, by each mechanism and mode; a short run takes one mode of each mechanism.
fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for (at, name) in Mechanisms::all().names().into_iter().enumerate() {
        for (number, mode) in MODES.into_iter().enumerate() {
            if sized(at % MODES.len() == number, true) {
                let mut plan = endless(name, mode);
                plan.pairs = 1;
                plans.push(plan);
            }
        }
    }
    plans
}

#[test]
fn a_side_that_is_stopped_is_an_error_within_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, plan) in plans().iter().enumerate() {
        let failure = struck(plan, seed as u64, Signal::STOP, dir.path());
        assert!(failure.contains("stopped by a signal"), "{} {}: {failure}", plan.mechanism, plan.mode);
        until("every process goes", || descendants(std::process::id()).is_empty());
    }
    assert_clean(dir.path());
}

#[test]
fn a_side_that_is_killed_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let named = ["fifo", "uds-stream", "uds-dgram", "posix-mq", "ginnel-channel", "ginnel-ring", "tcp", "shm-futex"];
    for seed in 0..sized(16, 100) {
        let plan = endless(named[seed as usize % named.len()], MODES[random(seed + 100) as usize % 3]);
        let failure = struck(&plan, seed, Signal::KILL, dir.path());
        assert!(failure.contains("ended while it was to"), "{} {}: {failure}", plan.mechanism, plan.mode);
        until("every process goes", || descendants(std::process::id()).is_empty());
    }
    assert_clean(dir.path());
}

/// No file, no socket, no queue.
fn assert_clean(run_dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(run_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.contains(run_dir.to_str().unwrap()), "a socket is left");
    let queues = "d=$(mktemp -d) && mount -t mqueue none $d && ls $d; umount $d; rmdir $d";
    if ginnel_testing::has_namespaces("-m") {
        let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", queues]).output().unwrap();
        // Other runs of this machine have queues, too: ours are gone when none is older than the others live.
        let ours = own_queues(&String::from_utf8_lossy(&output.stdout));
        assert!(ours.is_empty(), "{ours:?}");
    }
}

/// Queues whose run has no directory anywhere that this test knows: those of this test's own run directory are gone.
fn own_queues(listed: &str) -> Vec<String> {
    let alive = |queue: &str| {
        let run = format!("b-{}", queue.get(1..9).unwrap_or_default());
        let user = ginnel_memory::RunDir::user_path().join(&run);
        user.exists() || std::env::temp_dir().read_dir().unwrap().flatten().any(|dir| dir.path().join(&run).exists())
    };
    listed.lines().filter(|queue| queue.starts_with('b') && !alive(queue)).map(str::to_owned).collect()
}

#[test]
fn twenty_runs_at_once_do_not_collide() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["fifo", "uds-stream", "uds-dgram", "posix-mq", "ginnel-channel", "ginnel-seqpacket"];
    std::thread::scope(|scope| {
        for run in 0..20 {
            let dir = &dir;
            scope.spawn(move || {
                let mut plan = plan(names[run % names.len()], Mode::PingPong);
                plan.amount = Amount::Count(50);
                plan.patience = Duration::from_secs(30);
                let row = suite(Mechanisms::all()).run_dir(dir.path()).measure(&plan);
                assert_eq!(row.failure, None, "{}", plan.mechanism);
            });
        }
    });
    assert_clean(dir.path());
}
