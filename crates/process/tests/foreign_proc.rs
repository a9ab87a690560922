//! A /proc that is another namespace's, that hides processes, or that is not there: no stranger is met, and no
//! survivor denied.

mod common;

use common::{LONG, Mark, inherited_mark, wait_until};
use ginnel_process::{Cause, Isolation, KillLadder, Protection, Signal, Stdio, WaitError};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio as StdStdio};
use std::time::Duration;

roles!(stops_a_tree, loses_its_shepherd, has_a_namespace, stops_a_hidden_tree);

/// The role prints lines, and goes on when it is sent one.
struct Role(Child, BufReader<std::process::ChildStdout>);

impl Role {
    /// Starts a role below `unshare`, after `prepare` has been run in the new namespaces.
    fn start(name: &str, mark: &Mark, unshare: &str, prepare: &str) -> Role {
        let mut command = std::process::Command::new("unshare");
        command.args([unshare, "sh", "-c", &format!("{prepare} exec \"$0\"")]).arg(common::own_program());
        command.env(common::sys::ROLE, name).env(common::MARK, mark.value());
        let mut child = command.stdin(StdStdio::piped()).stdout(StdStdio::piped()).spawn().unwrap();
        mark.parent(child.id());
        let lines = BufReader::new(child.stdout.take().unwrap());
        Role(child, lines)
    }

    #[track_caller]
    fn says(&mut self, wanted: &str) {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), wanted);
    }

    #[track_caller]
    fn ends(mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // After a failure only. With pid 1 of the namespace, which ends with its input, everybody in it is killed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn say(text: &str) {
    println!("{text}");
    std::io::stdout().flush().unwrap();
}

fn hear() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// Four processes: the shell, one in its group, one that has left it, and one that was forked twice.
const STUBBORN: &str =
    "trap '' TERM HUP; sleep 1000 & setsid sleep 1001 & (setsid sleep 1002 &); echo ready; wait; sleep 1003";

fn start(mark: &Mark, isolation: Isolation) -> ginnel_process::Child {
    let mut command = mark.shell(STUBBORN);
    command.isolation(isolation).kill_ladder(KillLadder::grace(Duration::from_millis(200))).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    child
}

/// Pid 1 of a namespace. Its first shepherd is pid 2 there, which in the outer /proc is the parent of every thread of
/// the kernel: the strangers have the numbers of those.
fn stops_a_tree() {
    let mark = inherited_mark();
    let mut child = start(&mark, Isolation::Subreaper);
    let stranger = || std::process::Command::new("sleep").arg("1000").env_remove(common::MARK).spawn().unwrap();
    let mut strangers: Vec<Child> = (0..20).map(|_| stranger()).collect();
    let guarantee = child.guarantee();
    assert_eq!(guarantee.protection, Protection::Children, "{guarantee}");
    assert!(guarantee.to_string().contains("/proc does not show the pid namespace"), "{guarantee}");
    assert_eq!(child.stats().unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    child.signal_tree(Signal::CONT).unwrap();
    let report = child.stop().unwrap();
    assert_eq!((report.cause, report.survivors), (Cause::Stopped, 0));
    for stranger in &mut strangers {
        assert_eq!(stranger.try_wait().unwrap(), None, "a stranger was met");
    }
    // The same with a command that ends by itself, and leaves somebody.
    let report = mark.shell("setsid sleep 1000 & exit 3").isolation(Isolation::Subreaper).run().unwrap().report;
    assert_eq!((report.cause, report.survivors), (Cause::Exited(3), 0));
    say("stopped");
    hear();
    for mut stranger in strangers {
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

/// `unshare` and the role itself carry the mark.
fn role_is_alone(mark: &Mark) -> bool {
    wait_until(LONG, || mark.alive().len() <= 2)
}

#[test]
fn in_a_proc_of_another_namespace_no_stranger_is_met_and_nobody_is_left() {
    if !ginnel_testing::has_namespaces("-Urpf") {
        return;
    }
    // Also where nothing at all is in /proc.
    for (options, prepare) in [("-Urpf", ""), ("-Urpfm", "mount -t tmpfs none /proc &&")] {
        let mark = Mark::new();
        let mut role = Role::start("stops_a_tree", &mark, options, prepare);
        role.says("stopped");
        assert!(role_is_alone(&mark), "{:?}", mark.alive());
        role.ends();
        mark.assert_gone_soon();
    }
}

fn loses_its_shepherd() {
    let mark = inherited_mark();
    let mut child = start(&mark, Isolation::Subreaper);
    let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
    rustix::process::kill_process(shepherd, rustix::process::Signal::KILL).unwrap();
    let Err(WaitError::ShepherdLost { aftermath }) = child.wait() else { panic!("a status was invented") };
    assert!(aftermath.unseen && aftermath.survivors > 0, "{aftermath:?}");
    assert!(aftermath.to_string().contains("cannot be told"), "{aftermath}");
    say("lost");
    hear();
}

#[test]
fn where_the_second_line_cannot_look_it_does_not_say_gone() {
    if !ginnel_testing::has_namespaces("-Urpf") {
        return;
    }
    let mark = Mark::new();
    let mut role = Role::start("loses_its_shepherd", &mark, "-Urpf", "");
    role.says("lost");
    role.ends();
    // The namespace of the role ends all that was left.
    mark.assert_gone_soon();
}

/// A namespace below has a /proc of its own; its leader is known by the number that it has here.
fn has_a_namespace() {
    let mark = inherited_mark();
    let mut child = start(&mark, Isolation::PidNamespace);
    assert_eq!(child.guarantee().protection, Protection::PidNamespace);
    let leader = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::test_kill_process(leader).unwrap();
    assert_eq!(child.id(), child.shepherd_id() + 1);
    assert_eq!(child.stop().unwrap().survivors, 0);
    say("stopped");
    hear();
}

#[test]
fn a_pid_namespace_below_one_without_its_proc_is_whole() {
    if !ginnel_testing::has_namespaces("-Urpf") {
        return;
    }
    let mark = Mark::new();
    let mut role = Role::start("has_a_namespace", &mark, "-Urpf", "");
    role.says("stopped");
    assert!(role_is_alone(&mark), "{:?}", mark.alive());
    role.ends();
    mark.assert_gone_soon();
}

fn stops_a_hidden_tree() {
    common::sys::become_nobody();
    let mark = inherited_mark();
    let sleep = std::env::var("SLEEP").unwrap();
    let script = format!("setsid {sleep} 1000 & setsid setsid {sleep} 1001 & echo ready; wait");
    let mut command = mark.shell(&script);
    command.isolation(Isolation::Subreaper).kill_ladder(KillLadder::grace(Duration::from_millis(100)));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let guarantee = child.guarantee();
    assert_eq!(guarantee.protection, Protection::Children, "{guarantee}");
    assert!(guarantee.to_string().contains("hidepid"), "{guarantee}");
    say("ready");
    hear();
    let report = child.stop().unwrap();
    say(&format!("survivors {}", report.survivors));
    hear();
}

#[test]
fn a_process_that_proc_hides_is_ended_too() {
    if !ginnel_testing::is_root("to make a set-user-ID program") || !ginnel_testing::has_namespaces("-pfm") {
        return;
    }
    // A set-user-ID program is hidden from its user.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let sleep = dir.path().join("sleep");
    fs::copy(fs::canonicalize("/bin/sleep").unwrap(), &sleep).unwrap();
    fs::set_permissions(&sleep, fs::Permissions::from_mode(0o4755)).unwrap();
    let running = || common::pids().filter(|pid| executes(*pid, &sleep)).count();
    let mark = Mark::new();
    let prepare = format!("export SLEEP={}; mount -t proc -o hidepid=2 proc /proc &&", sleep.display());
    let mut role = Role::start("stops_a_hidden_tree", &mark, "-pfm", &prepare);
    role.says("ready");
    assert!(wait_until(LONG, || running() == 2));
    role.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    role.says("survivors 0");
    assert_eq!(running(), 0);
    role.ends();
    mark.assert_gone_soon();
}

fn executes(pid: u32, program: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == program)
}
