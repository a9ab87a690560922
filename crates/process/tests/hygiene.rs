//! Nothing accumulates, and nothing leaks into a command.

mod common;

use common::{LONG, is_shepherd, pids, wait_until};
use ginnel_process::{Command, Isolation, ParentDeath, Stdio};
use std::fs::{self, File};
use std::os::fd::AsRawFd;

/// Descriptors, threads, and children of this process.
fn footprint() -> (usize, usize, usize) {
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    let parent = format!("PPid:\t{}\n", std::process::id());
    let child =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&parent));
    (count("/proc/self/fd"), count("/proc/self/task"), pids().filter(child).count())
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn groups() -> usize {
    common::groups_of(&[std::process::id()]).len()
}

const ISOLATIONS: [Isolation; 3] = [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace];

fn one(isolation: Isolation) {
    let output = Command::new("echo").arg("one").isolation(isolation).run().unwrap();
    assert_eq!(output.stdout, b"one\n");
}

#[test]
fn a_thousand_runs_leave_the_process_as_it_was() {
    let runs = if std::env::var_os("GINNEL_SOAK").is_some() { 10_000 } else { 1000 };
    for isolation in ISOLATIONS {
        (0..20).for_each(|_| one(isolation));
        let (before, memory) = (footprint(), resident_kib());
        (0..runs).for_each(|_| one(isolation));
        assert_eq!(footprint(), before, "{isolation:?}");
        let grown = resident_kib().saturating_sub(memory);
        assert!(grown < 2048, "{isolation:?}: {grown} KiB more after {runs} runs");
        assert_eq!(groups(), 0);
    }
}

#[test]
fn a_command_that_was_waited_for_holds_no_descriptor_any_more() {
    for isolation in ISOLATIONS {
        one(isolation);
        let before = footprint();
        for run in 0..100 {
            let mut child = Command::new("true").isolation(isolation).spawn().unwrap();
            // Without the watch stepping back first, as it does for `wait`: both see the end at once.
            while child.wait_timeout(LONG).unwrap().is_none() {}
            drop(child);
            assert_eq!(footprint().0, before.0, "{isolation:?}, run {run}");
        }
    }
}

#[test]
fn two_hundred_parallel_runs_do_not_disturb_each_other() {
    ISOLATIONS.into_iter().for_each(one);
    let before = footprint();
    std::thread::scope(|scope| {
        for number in 0..200 {
            scope.spawn(move || {
                let mut command = Command::new("sh");
                command.isolation(ISOLATIONS[number % ISOLATIONS.len()]);
                let output = command.args(["-c", &format!("echo {number}; exit {}", number % 100)]).run().unwrap();
                assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{number}\n"));
                assert_eq!(output.report.code(), Some(number as i32 % 100));
            });
        }
    });
    // The scope's threads are joined before the kernel has taken the last of them out of the list.
    assert!(wait_until(LONG, || footprint() == before), "{:?} {before:?}", footprint());
    assert_eq!(groups(), 0);
}

#[test]
fn dropped_children_are_reaped_without_anybody_waiting() {
    for isolation in ISOLATIONS {
        one(isolation);
        let before = footprint();
        for _ in 0..50 {
            let mut command = Command::new("sleep");
            drop(command.arg("1000").isolation(isolation).stdout(Stdio::piped()).spawn().unwrap());
        }
        assert!(wait_until(LONG, || footprint() == before), "{isolation:?}: {:?} {before:?}", footprint());
        assert_eq!(groups(), 0);
    }
}

#[test]
fn a_command_that_had_ended_before_its_spawn_returned_is_reaped_as_well() {
    // On one CPU a short command is often faster than its parent.
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let mut one_cpu = rustix::thread::CpuSet::new();
    one_cpu.set((0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    rustix::thread::sched_setaffinity(None, &one_cpu).unwrap();
    for isolation in ISOLATIONS {
        one(isolation);
        let before = footprint();
        let mut handles = Vec::new();
        for _ in 0..100 {
            let child = Command::new("true").isolation(isolation).spawn().unwrap();
            // It keeps the descriptors, and asks for what is over.
            handles.push(child.handle());
            drop(child);
        }
        handles.iter().for_each(ginnel_process::Handle::kill);
        drop(handles);
        assert!(wait_until(LONG, || footprint() == before), "{isolation:?}: {:?} {before:?}", footprint());
        assert_eq!(groups(), 0);
    }
}

#[test]
fn a_command_sees_its_own_descriptors_only() {
    // Open in this process, and not closed by an exec.
    let leaky = File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    for isolation in ISOLATIONS {
        let mut command = Command::new("sh");
        command.args(["-c", "ls /proc/$$/fd"]).isolation(isolation);
        assert_eq!(command.run().unwrap().stdout, b"0\n1\n2\n", "with {} open", leaky.as_raw_fd());
        command.inherit_as(7, File::open("/dev/null").unwrap());
        assert_eq!(command.run().unwrap().stdout, b"0\n1\n2\n7\n");
    }
}

#[test]
fn the_shepherd_holds_no_stream_of_the_command() {
    // Else a reader would not see the end of a stream that the command has closed.
    let mut child = Command::new("sh")
        .args(["-c", "exec >&- 2>&-; exec sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut child.stdout.take().unwrap(), &mut rest).unwrap();
    std::io::Read::read_to_end(&mut child.stderr.take().unwrap(), &mut rest).unwrap();
    child.kill().unwrap();
}

#[test]
fn the_command_starts_as_a_program_expects_to() {
    let field =
        |status: &str, name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let own = fs::read_to_string("/proc/thread-self/status").unwrap();
    let output = Command::new("cat").arg("/proc/self/status").run().unwrap();
    let status = String::from_utf8(output.stdout).unwrap();
    assert_eq!(field(&status, "SigBlk:"), "0000000000000000");
    assert_eq!(field(&status, "ShdPnd:"), "0000000000000000");
    // Rust's own ignored SIGPIPE (bit 12) is not handed on; whatever else this process ignores is.
    let mask = |status: &str| u64::from_str_radix(&field(status, "SigIgn:"), 16).unwrap() & !(1 << 12);
    assert_eq!(mask(&status), mask(&own));
    assert_eq!(field(&status, "CapEff:"), field(&own, "CapEff:"));
}

#[test]
fn the_shepherd_is_what_it_claims_to_be() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.shepherd_id())).unwrap();
    assert!(is_shepherd(child.shepherd_id()));
    let status = read("status");
    let mask = |name: &str| {
        u64::from_str_radix(status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim(), 16).unwrap()
    };
    // Everything that can be blocked is (not KILL and STOP), and SIGPIPE is ignored.
    assert_eq!(mask("SigBlk:"), !(1 << 8 | 1 << 18));
    assert_ne!(mask("SigIgn:") & 1 << 12, 0);
    assert!(status.contains("Threads:\t1\n"));
    // A session of its own: field 6 of stat.
    let stat = read("stat");
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, child.shepherd_id().to_string());
    let exe = fs::read_link(format!("/proc/{}/exe", child.shepherd_id())).unwrap();
    assert_eq!(exe.to_str().unwrap(), "/memfd:ginnel-shepherd (deleted)");
    let private = read("smaps_rollup");
    let kib = |name: &str| {
        private
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .unwrap()
    };
    assert!(kib("Private_Clean:") + kib("Private_Dirty:") < 300, "{private}");
}

#[test]
fn an_idle_shepherd_sleeps() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.shepherd_id())).unwrap();
        let of =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap();
        of("voluntary_ctxt_switches:") + of("nonvoluntary_ctxt_switches:")
    };
    let asleep = || fs::read_to_string(format!("/proc/{}/stat", child.shepherd_id())).unwrap().contains(") S ");
    assert!(wait_until(LONG, asleep));
    let before = switches();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(switches(), before);
}

#[test]
fn a_large_environment_is_not_kept_by_the_shepherd() {
    let child = Command::new("sleep")
        .arg("1000")
        .env("LARGE", "x".repeat(120_000))
        .env("LARGER", "y".repeat(120_000))
        .spawn()
        .unwrap();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.shepherd_id())).unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .unwrap()
    };
    assert!(wait_until(LONG, || resident() < 100), "{} KiB", resident());
}

#[test]
fn a_tree_may_be_told_to_outlive_its_parent_and_is_still_shepherded() {
    let mut command = Command::new("sh");
    let report = command.args(["-c", "exit 8"]).on_parent_death(ParentDeath::Outlive).run().unwrap().report;
    assert_eq!(report.code(), Some(8));
}
