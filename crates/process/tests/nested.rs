//! Ginnel below Ginnel, and what is left for the next one to clear away.

mod common;

use common::{LONG, Mark, groups_of, inherited_mark, role, wait_until};
use ginnel_process::{Cause, Command, Isolation, KillLadder, Signal, Stdio, WaitError};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

roles!(inner, inner_subreaper, one_spawn, level);

/// Runs a command with a limit, so that it has groups of each kind this machine has.
fn inner() {
    let mark = inherited_mark();
    let mut command = mark.shell("echo; sleep 1000 & exec sleep 1001");
    if rustix::process::geteuid().is_root() {
        command.pids_limit(64);
    }
    tell_of(command);
}

/// Runs a tree that is held together by its shepherd only.
fn inner_subreaper() {
    let mark = inherited_mark();
    let mut command = mark.shell("setsid sleep 1000 & (sleep 1001; sleep 1002) & echo; exec sleep 1003");
    command.isolation(Isolation::Subreaper);
    tell_of(command);
}

fn tell_of(mut command: Command) {
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    println!("{} {}", std::process::id(), child.shepherd_id());
    let _ = std::io::stdin().read(&mut [0]);
}

fn one_spawn() {
    let mut command = Command::new("true");
    if rustix::process::geteuid().is_root() {
        command.pids_limit(64);
    }
    command.run().unwrap();
}

/// The pids of the inner parent and its shepherd.
fn told(stream: impl Read) -> [u32; 2] {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    pids.try_into().unwrap()
}

fn swept(parent: u32) -> bool {
    let mark = Mark::new();
    assert!(role("one_spawn", &mark).status().unwrap().success());
    groups_of(&[parent]).is_empty()
}

#[test]
fn a_tree_that_had_trees_of_its_own_leaves_no_group() {
    for isolation in [Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let mut command = mark.command(&common::own_program());
        command.env(common::sys::ROLE, "inner").isolation(isolation).kill_ladder(KillLadder::at_once());
        let mut outer = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let [inner, _] = told(outer.stdout.as_mut().unwrap());
        mark.await_alive(3);
        // The inner parent and its shepherd are killed in one stroke.
        assert_eq!(outer.kill().unwrap().survivors, 0);
        mark.assert_gone();
        let left = groups_of(&[std::process::id()]);
        assert_eq!(left, [""; 0].map(PathBuf::from), "{isolation:?}");
        // What the inner one had elsewhere goes with the next command.
        assert!(wait_until(LONG, || swept(inner)), "{:?}", groups_of(&[inner]));
    }
}

#[test]
fn a_tree_whose_every_shepherd_is_killed_is_found_by_the_outermost_parent() {
    let mark = Mark::new();
    let mut command = mark.command(&common::own_program());
    command.env(common::sys::ROLE, "inner_subreaper").isolation(Isolation::Subreaper);
    let mut outer = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let [inner, shepherd] = told(outer.stdout.as_mut().unwrap());
    mark.await_alive(5);
    let send = |pid: u32, signal| {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    };
    // The inner parent must not see that its shepherd is gone before it is killed itself, as the leader of the outer
    // tree: then nobody is left between the outer parent and the tree.
    send(inner, rustix::process::Signal::STOP);
    send(shepherd, rustix::process::Signal::KILL);
    send(outer.shepherd_id(), rustix::process::Signal::KILL);
    let result = outer.wait();
    let Err(WaitError::ShepherdLost { aftermath }) = result else { panic!("{result:?}") };
    assert_eq!(aftermath.survivors, 0);
    mark.assert_gone();
}

#[test]
fn groups_of_a_parent_and_a_shepherd_killed_together_go_with_the_next_command() {
    let mark = Mark::new();
    let stdio = std::process::Stdio::piped;
    let mut parent = role("inner", &mark).stdin(stdio()).stdout(stdio()).spawn().unwrap();
    let [pid, shepherd] = told(parent.stdout.as_mut().unwrap());
    mark.await_alive(3);
    // The parent is stopped first, so that neither sees the other die: a stopped shepherd would wake by its parent's
    // death.
    for (pid, signal) in [(pid, libc::SIGSTOP), (shepherd, libc::SIGKILL), (pid, libc::SIGKILL)] {
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    }
    parent.wait().unwrap();
    // The leader goes with its shepherd; the rest is what nobody can end but who finds it.
    assert!(wait_until(LONG, || mark.alive().len() == 1), "{:?}", mark.alive());
    let groups = groups_of(&[pid]);
    assert!(!swept(pid) || groups.is_empty(), "a group in use was removed");
    drop(mark);
    assert!(wait_until(LONG, || swept(pid)), "{:?}", groups_of(&[pid]));
}

const ISOLATIONS: [Isolation; 3] = [Isolation::Auto, Isolation::Subreaper, Isolation::PidNamespace];
/// Of every level. The command needs most of it.
const GRACE: Duration = Duration::from_secs(4);
const NEEDED: &str = "3";

/// The command of one level: at the last one a shell that writes down what it gets, else this program again.
fn level_command(mark: &Mark, isolation: usize, level: u32, log: &str) -> Command {
    let on = |signal: &str| {
        format!("trap 'echo {signal} >> {log}; sleep {NEEDED} && echo done >> {log}; exit 7' {signal}; ")
    };
    let mut command = if level == 0 {
        mark.shell(&(on("TERM") + &on("INT") + "echo ready; while :; do sleep 0.01; done"))
    } else {
        let mut command = mark.command(&common::own_program());
        command.env(common::sys::ROLE, "level").env("LEVEL", level.to_string()).env("LOG", log);
        command.env("ISOLATION", isolation.to_string());
        command
    };
    command.isolation(ISOLATIONS[isolation]).kill_ladder(KillLadder::grace(GRACE));
    command
}

/// What the command is to see, and how it comes about.
type Stop = (&'static str, fn(&ginnel_process::Child));

/// Runs the next level. It has no handlers: what it is sent ends it at once, and its shepherd has lost its parent.
fn level() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u32>().unwrap();
    let (level, isolation) = (number("LEVEL") - 1, number("ISOLATION") as usize);
    let command = level_command(&inherited_mark(), isolation, level, &std::env::var("LOG").unwrap());
    command.spawn().unwrap().wait().unwrap();
}

#[test]
fn five_levels_down_a_command_gets_one_signal_once_and_has_its_grace() {
    ginnel_testing::default_signals();
    let stops: [Stop; 3] = [
        ("TERM", |child| child.handle().stop()),
        ("INT", |child| child.handle().stop_with(Signal::INT)),
        ("TERM", |child| assert!(child.signal_tree(Signal::TERM).is_ok())),
    ];
    let one = |isolation: usize, (signal, stop): Stop| {
        let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
        let log = dir.path().join("log");
        let mut command = level_command(&mark, isolation, 5, log.to_str().unwrap());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        stop(&child);
        let report = child.wait().unwrap();
        let seen = std::fs::read_to_string(&log).unwrap();
        assert_eq!(seen, format!("{signal}\ndone\n"), "{:?}: {report:?}", ISOLATIONS[isolation]);
        assert_eq!((report.killed, report.survivors), (0, 0), "{report:?}");
        assert!(matches!(report.cause, Cause::Stopped | Cause::Signaled { .. }), "{report:?}");
        mark.assert_gone();
    };
    std::thread::scope(|scope| {
        for (isolation, stop) in (0..3).flat_map(|isolation| stops.map(|stop| (isolation, stop))) {
            scope.spawn(move || one(isolation, stop));
        }
    });
}
