//! The shepherd itself is killed: the parent is told at once, no status is invented, and the tree is gone.

mod common;

use common::{LONG, Mark, has_unified_groups, inherited_mark, role, runs, wait_until};
use ginnel_process::{Child, Isolation, ParentDeath, Protection, SpawnError, Stdio, WaitError};
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

roles!(parent_in_a_namespace, parent_that_reads, parent_whose_shepherds_are_killed, parent_of_a_tree);

/// As stubborn as it gets: TERM is ignored, one is in a session of its own, one was forked twice.
const STUBBORN: &str =
    "trap '' TERM HUP; sleep 1000 & setsid sleep 1001 & (sleep 1002 &); echo ready; wait; sleep 1003";
const STUBBORN_PROCESSES: usize = 4;

fn start(mark: &Mark, isolation: Isolation) -> Child {
    let mut child = mark.shell(STUBBORN).isolation(isolation).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    mark.await_alive(STUBBORN_PROCESSES);
    child
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn the_parent_is_told_at_once_and_the_tree_is_gone() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let mut child = start(&mark, isolation);
        drop(child.stdout.take());
        let protection = child.guarantee().protection;
        let shepherd = child.shepherd_id();
        let waiting = std::thread::spawn(move || {
            let result = child.wait();
            (result, Instant::now())
        });
        let killed = Instant::now();
        kill(shepherd);
        let (result, told) = waiting.join().unwrap();
        let Err(WaitError::ShepherdLost { aftermath }) = result else { panic!("{result:?}") };
        assert_eq!((aftermath.by, aftermath.survivors), (protection, 0));
        assert!(told - killed < Duration::from_millis(500), "told after {:?}", told - killed);
        mark.assert_gone();
        assert!(!runs(shepherd));
    }
}

#[test]
fn nobody_needs_to_wait_for_the_tree_to_be_ended() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let mut child = start(&mark, isolation);
        kill(child.shepherd_id());
        // The owner is reading, as it might for ever; its end of file comes because the tree is gone.
        let mut rest = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        mark.assert_gone_soon();
        // Every later question has the same answer.
        assert!(matches!(child.try_wait(), Ok(None) | Err(WaitError::ShepherdLost { .. })));
        assert!(matches!(child.wait(), Err(WaitError::ShepherdLost { .. })));
        assert!(matches!(child.wait(), Err(WaitError::ShepherdLost { .. })));
        child.signal_leader(ginnel_process::Signal::TERM).unwrap_err();
    }
}

#[test]
fn the_control_groups_directory_is_removed() {
    let mark = Mark::new();
    let mut child = start(&mark, Isolation::Auto);
    assert_eq!(child.guarantee().protection == Protection::Cgroup, has_unified_groups(), "{}", child.guarantee());
    let membership = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let group = membership.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    kill(child.shepherd_id());
    child.wait().unwrap_err();
    assert_eq!(group.contains("ginnel-"), has_unified_groups());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if let Some(point) =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4))
    {
        assert!(!group.contains("ginnel-") || !std::path::Path::new(&format!("{point}{group}")).exists());
    }
}

#[test]
fn the_groups_of_limits_are_removed() {
    for isolation in [Isolation::Auto, Isolation::Subreaper, Isolation::PidNamespace] {
        let mark = Mark::new();
        let Ok(mut child) = mark.shell("echo ready; sleep 1000").isolation(isolation).pids_limit(64).spawn() else {
            assert!(!ginnel_testing::is_root("to hold a limit of processes"), "root can hold a limit");
            continue;
        };
        let membership = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(membership.contains("/ginnel-"), "{membership}");
        kill(child.shepherd_id());
        child.wait().unwrap_err();
        mark.assert_gone_soon();
        assert_eq!(common::groups_of(&[std::process::id()]), [""; 0].map(std::path::PathBuf::from), "{isolation:?}");
    }
}

fn parent_in_a_namespace() {
    let mut command = inherited_mark().shell(STUBBORN);
    // Without this the shepherd's socket would tell it of the parent's death as well: only the kernel is left to end
    // the tree.
    command.isolation(Isolation::PidNamespace).on_parent_death(ParentDeath::Outlive);
    let child = command.spawn().unwrap();
    println!("{}", child.shepherd_id());
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn parent_and_shepherd_killed_together_leave_nothing_in_a_pid_namespace() {
    let mark = Mark::new();
    let mut parent = role("parent_in_a_namespace", &mark)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    mark.parent(parent.id());
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    // The command writes to the same pipe.
    let shepherd = lines.find_map(|line| line.unwrap().parse::<u32>().ok()).unwrap();
    mark.await_alive(1 + STUBBORN_PROCESSES);
    parent.kill().unwrap();
    kill(shepherd);
    parent.wait().unwrap();
    mark.assert_gone_soon();
}

fn parent_that_reads() {
    let mut command = inherited_mark().shell(STUBBORN);
    let _child = command.isolation(Isolation::Subreaper).stdout(Stdio::null()).spawn().unwrap();
    // The tree may be complete before its start is.
    println!("started");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_parent_that_only_reads_its_own_input_still_ends_the_tree() {
    let mark = Mark::new();
    let mut parent = role("parent_that_reads", &mark)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    mark.parent(parent.id());
    BufReader::new(parent.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    mark.await_alive(1 + STUBBORN_PROCESSES);
    let shepherd = common::pids()
        .filter(|pid| common::is_shepherd(*pid))
        .find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|status| status.contains(&format!("PPid:\t{}\n", parent.id())))
        })
        .unwrap();
    kill(shepherd);
    // The parent alone is left.
    assert!(wait_until(LONG, || mark.alive() == [parent.id()]), "{:?}", mark.alive());
    drop(parent.stdin.take());
    parent.wait().unwrap();
    mark.assert_gone();
}

fn parent_of_a_tree() {
    let isolation = match std::env::var("ISOLATION").unwrap().as_str() {
        "subreaper" => Isolation::Subreaper,
        "auto" => Isolation::Auto,
        _ => Isolation::PidNamespace,
    };
    let child = start(&inherited_mark(), isolation);
    println!("{}", child.shepherd_id());
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_stopped_shepherd_wakes_when_its_parent_is_killed() {
    for isolation in ["subreaper", "auto", "pid-namespace"] {
        let mark = Mark::new();
        let stdio = std::process::Stdio::piped;
        let mut parent = role("parent_of_a_tree", &mark);
        let mut parent = parent.env("ISOLATION", isolation).stdin(stdio()).stdout(stdio()).spawn().unwrap();
        mark.parent(parent.id());
        let mut line = String::new();
        BufReader::new(parent.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let shepherd: u32 = line.trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(shepherd as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        assert!(wait_until(LONG, || common::state(shepherd) == 'T'));
        parent.kill().unwrap();
        parent.wait().unwrap();
        mark.assert_gone_soon();
    }
}

/// As root a process may leave its control group. It is found by what it has in common with the rest.
#[test]
fn a_tree_that_has_left_its_control_group_and_kills_the_shepherd_is_ended() {
    if !ginnel_testing::is_root("to leave a control group")
        || !ginnel_testing::has(has_unified_groups(), "needs control groups of version 2")
    {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let mark = Mark::new();
    let script = "echo 0 > $POINT/cgroup.procs; sleep 1000 & setsid sleep 1001 & (setsid sleep 1002 &)
        cat /proc/self/cgroup; echo; read line; kill -9 $PPID; wait";
    let mut command = mark.shell(script);
    command.env("POINT", point.unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    assert_eq!(child.guarantee().protection, Protection::Cgroup);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let groups: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    assert!(groups.iter().all(|group| !group.contains("ginnel-")), "it has not left: {groups:?}");
    mark.await_alive(4);
    // It reads the end of its input, and goes on to kill.
    let Err(WaitError::ShepherdLost { aftermath }) = child.wait() else { panic!("a status was invented") };
    assert_eq!((aftermath.survivors, aftermath.unseen), (0, false));
    mark.assert_gone();
    assert_eq!(common::groups_of(&[std::process::id()]), [""; 0].map(std::path::PathBuf::from));
}

/// The children of this process that are shepherds, as soon as they are there.
fn shepherds_of_ours() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    children.flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

fn parent_whose_shepherds_are_killed() {
    let mark = inherited_mark();
    let isolations = [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace];
    let (mut given_up, mut lost) = (0, 0);
    // How long a start takes here and now.
    let usual = (0..10).map(|_| {
        let begun = Instant::now();
        let mut child = mark.shell(STUBBORN).stdout(Stdio::null()).pids_limit(64).spawn().unwrap();
        let taken = begun.elapsed();
        child.kill().unwrap();
        taken
    });
    let usual = usual.max().unwrap().as_micros() as u64;
    for attempt in 0..150u64 {
        let killer = std::thread::spawn(move || {
            let shepherd = loop {
                if let [shepherd, ..] = shepherds_of_ours()[..] {
                    break shepherd;
                }
            };
            // From its first instruction until after the start.
            let moment = Instant::now() + Duration::from_micros(attempt * 7919 % (2 * usual));
            while Instant::now() < moment {}
            kill(shepherd);
        });
        let mut command = mark.shell(STUBBORN);
        command.isolation(isolations[attempt as usize % 3]).stdout(Stdio::null()).pids_limit(64);
        match command.spawn() {
            Err(SpawnError::ShepherdLost { .. }) => given_up += 1,
            Err(error) => panic!("{error}"),
            Ok(mut child) => match child.wait() {
                Err(WaitError::ShepherdLost { aftermath }) => {
                    lost += 1;
                    assert_eq!(aftermath.survivors, 0, "{aftermath}");
                }
                other => panic!("{other:?}"),
            },
        }
        killer.join().unwrap();
        // All of it is gone when the call returns; a namespace's last process is on its way out.
        assert!(wait_until(LONG, || mark.alive().is_empty()), "attempt {attempt}: {:?}", mark.alive());
        let groups = common::groups_of(&[std::process::id()]);
        assert!(groups.is_empty(), "attempt {attempt}: {groups:?}");
    }
    println!("{given_up} {lost}");
}

#[test]
fn a_shepherd_killed_at_any_step_of_a_spawn_leaves_nothing() {
    if !ginnel_testing::is_root("to hold a limit of processes") {
        return;
    }
    let mark = Mark::new();
    let output = role("parent_whose_shepherds_are_killed", &mark).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counts = String::from_utf8(output.stdout).unwrap();
    let counts: Vec<u32> = counts.split_whitespace().map(|count| count.parse().unwrap()).collect();
    // Both were met, or the moments are badly chosen.
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
