//! Whom a signal reaches.

mod common;

use common::{LONG, Mark, state, wait_until};
use ginnel_process::{Child, Isolation, Orphans, Signal, SignalError, Stdio};
use std::io::{BufRead, BufReader};

/// Tells its name with each signal, for ever.
fn teller(name: &str) -> String {
    format!(
        "trap 'echo {name} USR1' USR1; trap 'echo {name} USR2' USR2; echo {name} ready; while :; do sleep 0.01; done"
    )
}

/// Reads until all of these lines have come; gives all that came.
fn until(lines: &mut impl Iterator<Item = String>, wanted: &[&str]) -> Vec<String> {
    let mut seen = Vec::new();
    while !wanted.iter().all(|line| seen.iter().any(|seen| seen == line)) {
        seen.push(lines.next().expect("the output ended"));
    }
    seen
}

/// In the leader's group, and in another; what they write.
fn in_two_groups(mark: &Mark, isolation: Isolation, leader: &str) -> (Child, impl Iterator<Item = String> + use<>) {
    let script = "sh -c \"$0\" & setsid sh -c \"$1\" & eval \"$2\"";
    let mut command = mark.shell(script);
    command.args([teller("member"), teller("stranger"), leader.to_owned()]);
    // A shell complains of each sleep that a signal ends.
    command.isolation(isolation).orphans(Orphans::Wait).stdout(Stdio::piped()).stderr(Stdio::null());
    // After a failure nobody is waited for without end.
    let mut child = command.timeout(LONG).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (child, lines)
}

#[test]
fn a_signal_to_the_group_reaches_its_members_and_nobody_else_of_the_tree() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let (mut child, mut lines) = in_two_groups(&mark, isolation, &teller("leader"));
        until(&mut lines, &["leader ready", "member ready", "stranger ready"]);
        child.signal_group(Signal::USR1).unwrap();
        let mut seen = until(&mut lines, &["leader USR1", "member USR1"]);
        // Had the stranger been reached, it would tell that before it tells of this one.
        child.signal_tree(Signal::USR2).unwrap();
        seen.extend(until(&mut lines, &["leader USR2", "member USR2", "stranger USR2"]));
        assert!(!seen.contains(&"stranger USR1".to_owned()), "{isolation:?}: {seen:?}");
        child.kill().unwrap();
        mark.assert_gone();
    }
}

#[test]
fn a_signal_to_the_group_reaches_who_is_left_of_it_when_the_leader_has_ended() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let (mut child, mut lines) = in_two_groups(&mark, isolation, "exit 0");
        until(&mut lines, &["member ready", "stranger ready"]);
        let leader = format!("/proc/{}", child.id());
        assert!(wait_until(LONG, || !std::fs::exists(&leader).unwrap()));
        child.signal_group(Signal::USR1).unwrap();
        let mut seen = until(&mut lines, &["member USR1"]);
        child.signal_tree(Signal::USR2).unwrap();
        seen.extend(until(&mut lines, &["member USR2", "stranger USR2"]));
        assert!(!seen.contains(&"stranger USR1".to_owned()), "{isolation:?}: {seen:?}");
        // Once nobody is left of the group, that is the answer, whoever is left of the tree.
        child.signal_group(Signal::KILL).unwrap();
        assert!(wait_until(LONG, || child.signal_group(Signal::KILL) == Err(SignalError::Ended)));
        child.signal_tree(Signal::USR1).unwrap();
        until(&mut lines, &["stranger USR1"]);
        child.kill().unwrap();
        mark.assert_gone();
    }
}

#[test]
fn a_tree_that_forks_all_the_time_is_stopped_whole() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        // Who is forked and missed sleeps on, and shows it.
        let forks = "while :; do sleep 1000 & sleep 0.001; done";
        let script = format!("for i in 1 2 3 4; do sh -c '{forks}' & done; {forks}");
        let mut child = mark.shell(&script).isolation(isolation).timeout(LONG).spawn().unwrap();
        let mut forked = 0;
        for _ in 0..8 {
            mark.await_alive(forked + 20);
            child.signal_tree(Signal::STOP).unwrap();
            // In `vfork`, a shell waits for its stopped child in the kernel.
            let stopped = |pid: &u32| ['T', 'D', 'Z', ' '].contains(&state(*pid));
            assert!(
                wait_until(LONG, || mark.alive().iter().all(stopped)),
                "{isolation:?}: {:?}",
                mark.alive().into_iter().filter(|pid| !stopped(pid)).map(state).collect::<Vec<_>>()
            );
            forked = mark.alive().len();
            child.signal_tree(Signal::CONT).unwrap();
        }
        child.kill().unwrap();
        mark.assert_gone();
    }
}
