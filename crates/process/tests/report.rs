//! Exactly one exit report, which tells what happened and what it cost.

mod common;

use common::{LONG, Mark, inherited_mark, role, wait_until};
use ginnel_process::{
    Cause, Command, Enforcement, ExitReport, ExitStatus, Isolation, KillLadder, Limit, Resource, Signal, Stdio,
};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::io::Read;
use std::time::Duration;

roles!(parent_with_a_report, eater);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_code_is_a_code() {
    for code in [0, 1, 2, 127, 255] {
        let report = shell(&format!("exit {code}")).run().unwrap().report;
        assert_eq!((report.cause, report.status), (Cause::Exited(code), Some(ExitStatus::Code(code))));
        assert_eq!((report.success(), report.shell_code()), (code == 0, code as u8));
    }
}

#[test]
fn a_signal_is_a_signal_and_not_a_code() {
    for signal in [Signal::TERM, Signal::KILL, Signal::USR1, Signal::PIPE] {
        let report = shell(&format!("kill -{} $$", signal.number())).run().unwrap().report;
        assert_eq!(report.cause, Cause::Signaled { signal, core: false });
        assert_eq!((report.code(), report.shell_code()), (None, 128 + signal.number() as u8));
    }
    let report = shell("exit 143").run().unwrap().report;
    assert_eq!(report.cause, Cause::Exited(143));
}

#[test]
fn a_core_dump_is_told() {
    ginnel_testing::default_signals();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut command = shell("kill -QUIT $$");
    let report = command.current_dir(dir.path()).rlimit(Resource::Core, u64::MAX, u64::MAX).run().unwrap().report;
    let Cause::Signaled { signal: Signal::QUIT, core } = report.cause else { panic!("{report:?}") };
    // A pattern that names a file dumps there; one that is a pipe asks somebody else, who may refuse.
    if !pattern.starts_with(['|', '/', '@']) {
        assert!(core);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    let report = shell("kill -QUIT $$").rlimit(Resource::Core, 0, 0).run().unwrap().report;
    assert_eq!(report.cause, Cause::Signaled { signal: Signal::QUIT, core: false });
}

#[test]
fn a_timeout_a_stop_and_a_limit_are_told_apart() {
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    };
    let timeout = sleep().timeout(Duration::from_millis(50)).run().unwrap().report;
    assert_eq!((timeout.cause, timeout.signal()), (Cause::TimedOut, Some(Signal::TERM)));
    let stopped = sleep().spawn().unwrap().stop().unwrap();
    assert_eq!((stopped.cause, stopped.signal()), (Cause::Stopped, Some(Signal::TERM)));
    let killed = sleep().spawn().unwrap().kill().unwrap();
    assert_eq!((killed.cause, killed.signal(), killed.killed), (Cause::Stopped, Some(Signal::KILL), 1));
    let limited = Command::new("yes").max_output(10).run().unwrap().report;
    assert_eq!(limited.cause, Cause::Limit(Limit::Output));
    // A signal from elsewhere is none of these.
    let mut child = sleep().spawn().unwrap();
    child.signal_leader(Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().cause, Cause::Signaled { signal: Signal::TERM, core: false });
}

#[test]
fn a_leader_that_answers_term_with_a_code_has_both_told() {
    let mut child =
        shell("trap 'exit 5' TERM; echo; while :; do sleep 0.01; done").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let report = child.stop().unwrap();
    assert_eq!((report.cause, report.code()), (Cause::Stopped, Some(5)));
}

#[test]
fn the_report_is_the_same_however_often_it_is_asked_for() {
    let mut child = shell("exit 3").spawn().unwrap();
    let first = child.wait().unwrap();
    assert_eq!(child.wait().unwrap(), first);
    assert_eq!(child.try_wait().unwrap(), Some(first.clone()));
    assert_eq!(child.stop().unwrap(), first);
    assert_eq!(child.kill().unwrap(), first);
}

fn parent_with_a_report() {
    let mut command = inherited_mark().command("sleep");
    let report = fs::File::options().append(true).open(std::env::var("REPORT").unwrap()).unwrap();
    let _child = command.arg("1000").report_to(report).kill_ladder(KillLadder::grace(LONG)).spawn().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn the_death_of_the_parent_is_reported_to_whoever_outlives_it_exactly_once() {
    let mark = Mark::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut parent = role("parent_with_a_report", &mark)
        .env("REPORT", file.path())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    mark.parent(parent.id());
    mark.await_alive(2);
    parent.kill().unwrap();
    parent.wait().unwrap();
    mark.assert_gone_soon();
    assert!(wait_until(LONG, || file.path().metadata().unwrap().len() > 0));
    let bytes = fs::read(file.path()).unwrap();
    // The whole file is one report: two would not parse as one.
    let report = ExitReport::from_bytes(&bytes).unwrap();
    assert_eq!((report.cause, report.signal(), report.survivors), (Cause::ParentDeath, Some(Signal::TERM), 0));
    assert_eq!(ExitReport::from_bytes(&bytes[..bytes.len() - 1]), None);
}

/// Uses a certain amount of memory, and CPU time of the kind that is asked for; prints nothing.
fn eater() {
    let mib: usize = std::env::var("EAT_MIB").unwrap().parse().unwrap();
    let mut food = vec![0u8; mib << 20];
    for byte in food.iter_mut().step_by(512) {
        *byte = 1;
    }
    let used = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    while used() < EATEN {
        if std::env::var_os("EAT_SYSTEM").is_some() {
            // The kernel fills what is asked for.
            fs::File::open("/dev/zero").unwrap().read_exact(&mut food).unwrap();
        } else {
            let sum = food.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            std::hint::black_box(sum);
        }
    }
}

const EATEN: Duration = Duration::from_millis(500);

#[test]
fn usage_and_peak_memory_match_what_time_measures() {
    // The command is the rival, which runs the eater: both measure the same run, so that nothing of it differs. The
    // rival truncates to hundredths of a second; what we see on top is the rival itself, a few milliseconds and some
    // hundred page faults (Python adds what it used itself, but for its own end: 1,500).
    let program = common::own_program();
    let script = "import os,resource,sys\nos.spawnv(os.P_WAIT,sys.argv[1],sys.argv[1:])\nc,s=map(resource.getrusage,(resource.RUSAGE_CHILDREN,resource.RUSAGE_SELF))\nprint(c.ru_maxrss,c.ru_utime+s.ru_utime,c.ru_stime+s.ru_stime,c.ru_minflt+s.ru_minflt,file=sys.stderr)";
    let mut rival = if fs::exists("/usr/bin/time").unwrap() {
        let mut time = Command::new("/usr/bin/time");
        time.args(["-f", "%M %U %S %R"]);
        time
    } else if !ginnel_testing::has_program("python3") {
        return;
    } else {
        let mut python = Command::new("python3");
        python.args(["-c", script]);
        python
    };
    rival.arg(&program).env(common::sys::ROLE, "eater").env("EAT_MIB", "64");
    for system in [false, true] {
        if system {
            rival.env("EAT_SYSTEM", "1");
        }
        let output = rival.run().unwrap();
        let (usage, time) = (&output.report.usage, String::from_utf8(output.stderr).unwrap());
        let numbers: Vec<f64> = time.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let [peak, user, sys, faults] = numbers[..] else { panic!("{time}") };
        let told = || format!("{:?} {time}", output.report);
        // The larger of the two processes.
        assert_eq!(usage.peak_memory as f64 / 1024.0, peak, "{}", told());
        let more = |ours: f64, theirs: f64, most: f64| ours >= theirs - 1e-6 && ours <= theirs + most;
        assert!(more(usage.minor_faults as f64, faults, 3000.0), "{}", told());
        assert!(more(usage.user.as_secs_f64(), user, 0.05), "{}", told());
        assert!(more(usage.system.as_secs_f64(), sys, 0.05), "{}", told());
        // Neither is taken for the other: the eater has clearly more of one.
        let (much, little) = if system { (usage.system, usage.user) } else { (usage.user, usage.system) };
        assert!(much > EATEN / 2 && much > 2 * little, "{}", told());
        assert!(usage.user + usage.system <= output.report.duration + Duration::from_millis(20), "{}", told());
    }
}

#[test]
fn a_memory_limit_is_felt_and_told() {
    let mut command = Command::new(common::own_program());
    command.env("EAT_MIB", "256").env(common::sys::ROLE, "eater").memory_limit(64 << 20).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let enforcement = child.guarantee().limits.clone();
    let report = child.wait().unwrap();
    match enforcement[..] {
        [(Limit::Memory, Enforcement::Rlimit)] => assert!(!report.success(), "{report:?}"),
        [(Limit::Memory, _)] => {
            assert_eq!(report.cause, Cause::Limit(Limit::Memory), "{report:?}");
            assert!(report.oom_kills > 0 && report.tree_peak_memory.unwrap() <= 65 << 20, "{report:?}");
        }
        _ => panic!("{enforcement:?}"),
    }
}

#[test]
fn stats_show_the_running_tree() {
    let mark = Mark::new();
    let mut child = mark.shell("sleep 1000 & sleep 1000 & echo; wait").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    mark.await_alive(3);
    let stats = child.stats().unwrap();
    assert_eq!((stats.processes, stats.threads), (3, 3));
    assert!(stats.memory > 100_000, "{stats:?}");
    child.stop().unwrap();
    assert_eq!(child.stats().unwrap().processes, 0);
}

/// Nobody reads the pipe before the parent has its report.
#[test]
fn a_full_pipe_for_the_report_does_not_hold_up_the_parent() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let (mut read, write) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::NONBLOCK).unwrap();
        let mut filled = 0;
        while let Ok(len) = rustix::io::write(&write, &[b'x'; 4096]) {
            filled += len;
        }
        rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::empty()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exit 5"]).isolation(isolation).report_to(write);
        let mut child = command.spawn().unwrap();
        drop(command);
        let shepherd = format!("/proc/{}", child.shepherd_id());
        let report = child.wait().unwrap();
        assert_eq!(report.cause, Cause::Exited(5));
        // It still waits for the reader, and then ends.
        assert!(fs::exists(&shepherd).unwrap());
        let mut all = Vec::new();
        read.read_to_end(&mut all).unwrap();
        assert_eq!(ExitReport::from_bytes(&all[filled..]).unwrap().cause, Cause::Exited(5));
        drop(child);
        assert!(wait_until(LONG, || !fs::exists(&shepherd).unwrap()), "it is not reaped");
    }
}
