//! The same promises for an ordinary user: the tests below run as `nobody`, in a process that has given up root.

mod common;

use common::{LONG, Mark, inherited_mark, role, wait_until};
use ginnel_process::{
    Cause, Command, Enforcement, Isolation, KillLadder, Limit, Protection, SpawnError, Stage, Stdio, WaitError,
};
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

roles!(
    the_tree_is_gone,
    the_shepherd_is_killed,
    a_pid_namespace,
    errors_are_typed,
    limits_are_honest,
    parent_with_a_tree
);

const STUBBORN: &str =
    "trap '' TERM HUP; sleep 1000 & setsid sleep 1001 & (sleep 1002 &); echo ready; wait; sleep 1003";

/// Root gives root up; whoever runs the tests as an ordinary user stays so.
fn as_nobody() -> Mark {
    if rustix::process::geteuid().is_root() {
        common::sys::become_nobody();
    }
    std::env::set_current_dir("/").unwrap();
    inherited_mark()
}

#[track_caller]
fn passes(name: &str) {
    let mark = Mark::new();
    let role = role(name, &mark).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let role = role.unwrap();
    mark.parent(role.id());
    let output = role.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    mark.assert_gone_soon();
}

/// The role itself carries the mark.
fn alone(mark: &Mark) -> bool {
    mark.alive().is_empty()
}

fn start(mark: &Mark, isolation: Isolation) -> ginnel_process::Child {
    let mut command = mark.shell(STUBBORN);
    command.isolation(isolation).kill_ladder(KillLadder::grace(Duration::from_millis(100))).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    mark.await_alive(4);
    child
}

fn the_tree_is_gone() {
    let mark = as_nobody();
    for isolation in [Isolation::Subreaper, Isolation::Auto] {
        let mut child = start(&mark, isolation);
        let report = child.stop().unwrap();
        assert_eq!((report.cause, report.survivors), (Cause::Stopped, 0));
        assert!(alone(&mark));
        drop(start(&mark, isolation));
        assert!(wait_until(LONG, || alone(&mark)));
        let report = mark.shell("sleep 1000 & exit 3").isolation(isolation).run().unwrap().report;
        assert_eq!(report.cause, Cause::Exited(3));
        assert!(alone(&mark));
    }
}

#[test]
fn a_tree_of_an_ordinary_user_is_gone() {
    passes("the_tree_is_gone");
}

fn the_shepherd_is_killed() {
    let mark = as_nobody();
    for isolation in [Isolation::Subreaper, Isolation::Auto] {
        let mut child = start(&mark, isolation);
        let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
        rustix::process::kill_process(shepherd, rustix::process::Signal::KILL).unwrap();
        let Err(WaitError::ShepherdLost { aftermath }) = child.wait() else { panic!("a status was invented") };
        assert_eq!(aftermath.survivors, 0);
        assert!(alone(&mark));
    }
}

#[test]
fn the_second_line_of_defence_needs_no_privilege() {
    passes("the_shepherd_is_killed");
}

/// Whether this user can have a pid namespace with a /proc of its own, told without the library.
fn has_pid_namespaces() -> bool {
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"]);
    unshare.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
}

fn a_pid_namespace() {
    let mark = as_nobody();
    let mut command = mark.shell("echo $$; id -u; cat /proc/self/comm; sleep 1000 & exit 0");
    match command.isolation(Isolation::PidNamespace).run() {
        Ok(output) => {
            let text = String::from_utf8(output.stdout).unwrap();
            let uid = rustix::process::geteuid().as_raw();
            assert_eq!(text, format!("2\n{uid}\ncat\n"), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.report.cause, Cause::Exited(0));
            let mut child = start(&mark, Isolation::PidNamespace);
            assert_eq!(child.guarantee().protection, Protection::PidNamespace);
            child.stop().unwrap();
        }
        // A machine that keeps user namespaces from its users says so, and nothing runs unprotected instead.
        Err(error) => {
            assert!(!has_pid_namespaces(), "unshare can make one: {error}");
            let ginnel_process::RunError::Spawn(error) = error else { panic!("{error}") };
            assert_eq!(error.stage(), Some(Stage::Namespace), "{error}");
        }
    }
    assert!(alone(&mark));
}

#[test]
fn a_pid_namespace_comes_with_a_user_namespace_or_a_typed_error() {
    passes("a_pid_namespace");
}

fn errors_are_typed() {
    let mark = as_nobody();
    let fails = |command: &Command, stage, errno| {
        let error = command.spawn().unwrap_err();
        assert_eq!((error.stage(), error.errno()), (Some(stage), Some(errno)), "{error}");
    };
    fails(mark.command("true").uid(0), Stage::Uid, libc::EPERM);
    fails(mark.command("true").gid(0), Stage::Gid, libc::EPERM);
    fails(mark.command("true").groups(&[0]), Stage::Groups, libc::EPERM);
    fails(mark.command("true").nice(-5), Stage::Nice, libc::EACCES);
    fails(&mark.command("/etc/shadow"), Stage::Exec, libc::EACCES);
    fails(mark.command("true").current_dir("/root"), Stage::Cwd, libc::EACCES);
}

#[test]
fn what_an_ordinary_user_may_not_is_a_typed_error() {
    passes("errors_are_typed");
}

fn limits_are_honest() {
    let mark = as_nobody();
    // Whether this user has control groups is the machine's affair; either way the answer is true.
    let mut child = mark.command("sleep").arg("1000").spawn().unwrap();
    let guarantee = child.guarantee().clone();
    assert_eq!(guarantee.protection == Protection::Cgroup, common::has_unified_groups(), "{guarantee}");
    if guarantee.protection == Protection::Subreaper {
        assert_eq!(guarantee.unavailable.len(), 2, "{guarantee}");
        assert!(guarantee.unavailable.iter().all(|(_, reason)| !reason.is_empty()));
    }
    child.kill().unwrap();
    match mark.command("true").pids_limit(10).spawn() {
        Err(SpawnError::LimitUnavailable { limit: Limit::Pids, reason, .. }) => assert!(!reason.is_empty()),
        Ok(mut child) => {
            assert!(matches!(
                child.guarantee().limits[..],
                [(Limit::Pids, Enforcement::CgroupV2 | Enforcement::CgroupV1)]
            ));
            child.wait().unwrap();
        }
        Err(error) => panic!("{error}"),
    }
    let mut child = mark.shell("ulimit -v").memory_limit(100 << 20).stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    match child.guarantee().limits[..] {
        [(Limit::Memory, Enforcement::Rlimit)] => assert_eq!(text, "102400\n"),
        [(Limit::Memory, _)] => assert_eq!(text, "unlimited\n"),
        ref other => panic!("{other:?}"),
    }
    child.wait().unwrap();
}

#[test]
fn limits_that_cannot_be_held_are_refused_or_named_as_what_they_are() {
    passes("limits_are_honest");
}

fn parent_with_a_tree() {
    let mark = as_nobody();
    let _child = start(&mark, Isolation::Auto);
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_killed_parent_of_an_ordinary_user_takes_its_tree_along() {
    let mark = Mark::new();
    let mut parent = role("parent_with_a_tree", &mark)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    mark.parent(parent.id());
    BufReader::new(parent.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    mark.await_alive(5);
    parent.kill().unwrap();
    parent.wait().unwrap();
    mark.assert_gone_soon();
}
