//! Whoever dies, in whatever order, the whole tree goes. Survivors are counted in /proc.

mod common;

use common::{LONG, Mark, inherited_mark, role, runs, wait_until};
use ginnel_process::{Cause, Child, Command, Isolation, KillLadder, Limit, Signal, SpawnError, Stdio};
use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

roles!(parent_with_a_tree, parent_that_spawns_for_ever, storm, headless);

/// A leader, a background child, one in a session of its own, and one that was forked twice; none obeys TERM. Five with
/// the shell of the double fork gone: sh, sleep, setsid's sleep, the orphan.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & setsid sleep 1001 & (sleep 1002 &); echo ready; wait; sleep 1003";
const STUBBORN_PROCESSES: usize = 4;

fn short() -> KillLadder {
    KillLadder::grace(Duration::from_millis(100))
}

/// Starts it, and waits until it says that it is ready.
fn ready(command: &mut Command) -> Child {
    said_ready(command.stdout(Stdio::piped()).spawn().unwrap())
}

fn said_ready(mut child: Child) -> Child {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// Both without and with a control group, and in a pid namespace.
fn each_isolation(test: impl Fn(Isolation, &Mark)) {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        test(isolation, &mark);
        mark.assert_gone();
    }
}

#[test]
fn a_tree_that_ignores_term_is_gone_after_stop() {
    each_isolation(|isolation, mark| {
        let mut child = ready(mark.shell(STUBBORN).isolation(isolation).kill_ladder(short()));
        mark.await_alive(STUBBORN_PROCESSES);
        let report = child.stop().unwrap();
        assert_eq!((report.cause, report.survivors), (Cause::Stopped, 0));
        assert_eq!(report.signal(), Some(Signal::KILL));
        assert!(report.killed >= STUBBORN_PROCESSES as u32, "{report:?}");
        assert!(!runs(child.shepherd_id()));
    });
}

#[test]
fn a_leader_that_ignores_term_is_killed_after_its_grace() {
    each_isolation(|isolation, mark| {
        let mut child = ready(
            mark.shell("trap '' TERM; echo ready; while :; do sleep 1; done").isolation(isolation).kill_ladder(short()),
        );
        let begun = Instant::now();
        let report = child.stop().unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(report.signal(), Some(Signal::KILL));
    });
}

#[test]
fn a_tree_that_obeys_term_is_not_killed() {
    each_isolation(|isolation, mark| {
        let ladder = KillLadder::grace(LONG);
        let mut child = ready(mark.shell("sleep 1000 & echo ready; wait").isolation(isolation).kill_ladder(ladder));
        let report = child.stop().unwrap();
        assert_eq!((report.cause, report.signal(), report.killed), (Cause::Stopped, Some(Signal::TERM), 0));
        // The shell, and the sleep if that has not ended before the shell could collect it.
        assert!((1..=2).contains(&report.obeyed), "{report:?}");
    });
}

#[test]
fn a_leader_that_exits_does_not_leave_a_grandchild_that_ignores_term() {
    each_isolation(|isolation, mark| {
        let script = "sh -c \"trap '' TERM; echo ready; while :; do sleep 1; done\" & read line; exit 7";
        let mut command = mark.shell(script);
        let mut child = ready(command.isolation(isolation).kill_ladder(short()).stdin(Stdio::piped()));
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let report = child.wait().unwrap();
        assert_eq!((report.cause, report.code(), report.survivors), (Cause::Exited(7), Some(7), 0));
        assert!(report.killed >= 1, "{report:?}");
    });
}

#[test]
fn a_grandchild_in_a_session_of_its_own_is_found() {
    each_isolation(|isolation, mark| {
        let mut child = ready(
            mark.shell("setsid -f setsid -f sleep 1000; echo ready; wait").isolation(isolation).kill_ladder(short()),
        );
        let report = child.wait().unwrap();
        assert_eq!(report.cause, Cause::Exited(0));
    });
}

fn headless() {
    common::sys::end_the_main_thread()
}

#[test]
fn a_process_whose_main_thread_has_ended_is_ended() {
    each_isolation(|isolation, mark| {
        let script = format!("{}=headless setsid \"$0\" & echo ready; wait", common::sys::ROLE);
        let mut command = mark.shell(&script);
        let mut child = ready(command.arg(common::own_program()).isolation(isolation).kill_ladder(short()));
        let headless = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") Z ")
        };
        assert!(wait_until(LONG, || mark.alive().iter().any(headless)), "its main thread did not end");
        assert_eq!(child.stop().unwrap().survivors, 0);
    });
}

#[test]
fn a_double_fork_is_adopted_and_ended() {
    each_isolation(|isolation, mark| {
        // The shells in between exit at once: the sleeps are nobody's children but the shepherd's.
        let script = "trap '' TERM; ((sleep 1000 &) &); ((((sleep 1001 &) &) &) &); echo ready; sleep 1002";
        let mut child = ready(mark.shell(script).isolation(isolation).kill_ladder(short()));
        mark.await_alive(4);
        assert_eq!(child.stop().unwrap().survivors, 0);
    });
}

#[test]
fn a_background_child_ends_with_a_leader_that_exits() {
    each_isolation(|isolation, mark| {
        let report = mark.shell("sleep 1000 & exit 0").isolation(isolation).spawn().unwrap().wait().unwrap();
        assert!(report.success(), "{report:?}");
    });
}

#[test]
fn a_stopped_process_cannot_outlast_the_grace() {
    each_isolation(|isolation, mark| {
        let mut child = ready(
            mark.shell("sleep 1000 & kill -STOP $!; echo ready; kill -STOP $$")
                .isolation(isolation)
                .kill_ladder(KillLadder::grace(LONG)),
        );
        let report = child.stop().unwrap();
        // It was woken to obey TERM.
        assert_eq!((report.signal(), report.killed), (Some(Signal::TERM), 0));
    });
}

/// Who can hold every limit.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn storm() {
    common::sys::fork_storm()
}

#[test]
fn a_fork_storm_under_a_limit_is_ended() {
    // Once by stopping and killing what /proc shows, once by the control group.
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let mut command = mark.command(&common::own_program());
        command.env(common::sys::ROLE, "storm").isolation(isolation).pids_limit(64).kill_ladder(short());
        let child = match command.stdout(Stdio::piped()).spawn() {
            Err(SpawnError::LimitUnavailable { .. }) if !ginnel_testing::is_root("to hold a limit") => continue,
            child => child.unwrap(),
        };
        let report = said_ready(child).stop().unwrap();
        assert_eq!(report.survivors, 0);
        assert!(report.fork_refusals > 0, "the limit was never felt: {report:?}");
        mark.assert_gone();
    }
}

#[test]
fn a_fork_storm_is_ended_without_a_control_group() {
    let mark = Mark::new();
    // At most so many at a time, by its own count: the machine is shared.
    let storm = "trap '' TERM; echo ready; while :; do (sh -c '(sleep 0.05 &) & (sleep 0.05 &) &' &); done";
    let mut child = ready(mark.shell(storm).isolation(Isolation::Subreaper).kill_ladder(short()).stderr(Stdio::null()));
    assert!(wait_until(LONG, || mark.alive().len() > 5), "the storm did not rise");
    assert_eq!(child.stop().unwrap().survivors, 0);
    mark.assert_gone();
}

/// Calls it after each of many moments between 0 and 3 ms, in which a command such as `STUBBORN` starts what it starts.
fn each_moment_of_a_startup(isolation: Isolation, mark: &Mark, end: impl Fn(Child)) {
    for moment in 0..30u64 {
        let mut command = mark.shell(STUBBORN);
        let grace = KillLadder::grace(Duration::from_millis(10));
        let child = command.stdout(Stdio::null()).isolation(isolation).kill_ladder(grace).spawn().unwrap();
        let moment = Instant::now() + Duration::from_micros(moment * 100);
        // Not by a sleep, which would take too long for the early ones.
        while Instant::now() < moment {}
        end(child);
    }
}

#[test]
fn a_stop_during_startup_leaves_nothing() {
    each_isolation(|isolation, mark| {
        each_moment_of_a_startup(isolation, mark, |mut child| {
            let report = child.stop().unwrap();
            assert_eq!((report.cause, report.survivors), (Cause::Stopped, 0));
            mark.assert_gone();
        });
    });
}

#[test]
fn a_kill_during_startup_leaves_nothing() {
    each_isolation(|isolation, mark| {
        each_moment_of_a_startup(isolation, mark, |mut child| {
            let report = child.kill().unwrap();
            assert_eq!((report.cause, report.signal(), report.survivors), (Cause::Stopped, Some(Signal::KILL), 0));
            mark.assert_gone();
        });
    });
}

#[test]
fn a_drop_during_startup_leaves_nothing() {
    each_isolation(|isolation, mark| {
        each_moment_of_a_startup(isolation, mark, |child| {
            let shepherd = child.shepherd_id();
            drop(child);
            mark.assert_gone_soon();
            assert!(wait_until(LONG, || !std::path::Path::new(&format!("/proc/{shepherd}")).exists()));
        });
    });
}

#[test]
fn a_timeout_during_startup_leaves_nothing() {
    each_isolation(|isolation, mark| {
        for moment in 0..30 {
            let mut command = mark.shell(STUBBORN);
            command.isolation(isolation).kill_ladder(KillLadder::grace(Duration::from_millis(10)));
            let report = command.timeout(Duration::from_micros(moment * 100)).run().unwrap().report;
            assert_eq!((report.cause, report.survivors), (Cause::TimedOut, 0));
            mark.assert_gone();
        }
    });
}

#[test]
fn a_shepherd_that_is_asked_to_end_during_startup_leaves_nothing() {
    each_isolation(|isolation, mark| {
        each_moment_of_a_startup(isolation, mark, |mut child| {
            let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
            rustix::process::kill_process(shepherd, rustix::process::Signal::TERM).unwrap();
            let report = child.wait().unwrap();
            assert_eq!((report.cause, report.survivors), (Cause::ShepherdSignaled(Signal::TERM), 0));
            mark.assert_gone();
        });
    });
}

#[test]
fn a_timeout_ends_the_tree() {
    each_isolation(|isolation, mark| {
        let mut command = mark.shell(STUBBORN);
        let report =
            command.isolation(isolation).kill_ladder(short()).timeout(Duration::from_millis(300)).run().unwrap().report;
        assert_eq!(report.cause, Cause::TimedOut);
        assert!(report.duration >= Duration::from_millis(300));
    });
}

#[test]
fn an_output_limit_ends_the_tree() {
    each_isolation(|isolation, mark| {
        let output = mark.command("yes").isolation(isolation).max_output(100_000).run().unwrap();
        assert_eq!(output.report.cause, Cause::Limit(Limit::Output));
        assert_eq!(output.stdout.len(), 100_000);
    });
}

#[test]
fn an_output_limit_ends_a_tree_that_ignores_term() {
    // `yes` is one of the stubborn ones; the others hold its stdout open, one in a session of its own, one forked
    // twice.
    let script = "trap '' TERM; sleep 1000 & setsid sleep 1001 & (sleep 1002 &); echo ready; yes";
    each_isolation(|isolation, mark| {
        let mut child = ready(mark.shell(script).isolation(isolation).kill_ladder(short()).max_output(100_000));
        mark.await_alive(STUBBORN_PROCESSES + 1);
        let mut stdout = child.stdout.take().unwrap();
        std::io::copy(&mut stdout, &mut std::io::sink()).unwrap_err();
        let report = child.wait().unwrap();
        assert_eq!((report.cause, report.survivors), (Cause::Limit(Limit::Output), 0));
        // All but perhaps `yes`, which its shell may see die first.
        assert!(report.killed >= STUBBORN_PROCESSES as u32 && report.stdout.bytes == 100_000, "{report:?}");
        mark.assert_gone();

        let output = mark.shell(script).isolation(isolation).kill_ladder(short()).max_output(100_000).run().unwrap();
        assert_eq!((output.report.cause, output.report.survivors), (Cause::Limit(Limit::Output), 0));
        // `yes`, and then its shell, may have ended by the closed pipe.
        assert!(output.report.killed >= 3 && output.stdout.len() == 100_000, "{:?}", output.report);
    });
}

#[test]
fn output_of_exactly_the_limit_is_within_it() {
    let output = Command::new("head").args(["-c", "5000", "/dev/zero"]).max_output(5000).run().unwrap();
    assert_eq!((output.report.cause, output.stdout.len()), (Cause::Exited(0), 5000));
}

#[test]
fn dropping_a_child_ends_its_tree_and_reaps_its_shepherd() {
    each_isolation(|isolation, mark| {
        let child = ready(mark.shell(STUBBORN).isolation(isolation).kill_ladder(short()));
        mark.await_alive(STUBBORN_PROCESSES);
        let shepherd = child.shepherd_id();
        drop(child);
        mark.assert_gone_soon();
        // Not even a zombie is left.
        assert!(wait_until(LONG, || !std::path::Path::new(&format!("/proc/{shepherd}")).exists()));
    });
}

#[test]
fn a_shepherd_that_is_asked_to_end_takes_its_tree_along() {
    each_isolation(|isolation, mark| {
        let mut child = ready(mark.shell(STUBBORN).isolation(isolation).kill_ladder(short()));
        let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
        rustix::process::kill_process(shepherd, rustix::process::Signal::TERM).unwrap();
        let report = child.wait().unwrap();
        assert_eq!(report.cause, Cause::ShepherdSignaled(Signal::TERM));
    });
}

/// In a role: the isolation it was told by the environment.
fn told_isolation() -> Isolation {
    match std::env::var("ISOLATION").unwrap().as_str() {
        "PidNamespace" => Isolation::PidNamespace,
        "Subreaper" => Isolation::Subreaper,
        _ => Isolation::Auto,
    }
}

/// Runs until it is killed, with a tree below it.
fn parent_with_a_tree() {
    let isolation = told_isolation();
    let child = inherited_mark().shell(STUBBORN).isolation(isolation).kill_ladder(short()).spawn().unwrap();
    // A line of its own, whatever the command writes.
    println!("\nshepherd {}", child.shepherd_id());
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_killed_parent_takes_the_tree_along() {
    each_isolation(|isolation, mark| {
        let mut parent = role("parent_with_a_tree", mark)
            .env("ISOLATION", format!("{isolation:?}"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        mark.parent(parent.id());
        let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
        let shepherd = lines.find_map(|line| line.strip_prefix("shepherd ")?.parse().ok()).unwrap();
        mark.await_alive(1 + STUBBORN_PROCESSES);
        assert!(runs(shepherd));
        parent.kill().unwrap();
        parent.wait().unwrap();
        // It is recognised as the one that is left, and stays until the tree has had its grace.
        assert!(mark.shepherds().contains(&shepherd) || !runs(shepherd));
        mark.assert_gone_soon();
        assert!(wait_until(LONG, || !runs(shepherd)));
    });
}

fn parent_that_spawns_for_ever() {
    let (mark, isolation) = (inherited_mark(), told_isolation());
    println!("up");
    loop {
        let mut command = mark.shell(STUBBORN);
        command.isolation(isolation).stdout(Stdio::null()).kill_ladder(short());
        if is_root() {
            // With groups in other hierarchies.
            command.pids_limit(64);
        }
        std::mem::forget(command.spawn().unwrap());
    }
}

#[test]
fn a_parent_killed_at_any_step_of_a_spawn_leaves_nothing() {
    let tries = if std::env::var_os("GINNEL_SOAK").is_some() { 2000 } else { 200 };
    let (mark, mut parents) = (Mark::new(), Vec::new());
    let isolations = ["Subreaper", "Auto", "PidNamespace"];
    for attempt in 0..tries {
        let mut parent = role("parent_that_spawns_for_ever", &mark)
            .env("ISOLATION", isolations[attempt as usize % isolations.len()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        mark.parent(parent.id());
        parent.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        // A spawn takes about a millisecond: the moments of death are spread over the first three.
        let moment = Instant::now() + Duration::from_micros(attempt * 7919 % 3000);
        while Instant::now() < moment {}
        parent.kill().unwrap();
        parent.wait().unwrap();
        if attempt % 20 == 19 {
            mark.assert_gone_soon();
        }
        parents.push(parent.id());
    }
    mark.assert_gone_soon();
    // Nor is a control group left, in any hierarchy.
    let left = || common::groups_of(&parents);
    assert!(wait_until(LONG, || left().is_empty()), "{:?}", left());
}
