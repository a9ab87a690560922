//! What goes on after its parent or its leader is still held by its shepherd, which tells its end once.

mod common;

use common::{LONG, Mark, inherited_mark, is_shepherd, role, runs, wait_until};
use ginnel_process::{Cause, Child, ExitReport, Isolation, KillLadder, Orphans, ParentDeath, Stdio};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

roles!(parent_of_what_outlives);

const ISOLATIONS: [Isolation; 3] = [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace];

/// Says when its command runs, and goes on until it is killed.
fn parent_of_what_outlives() {
    let isolation = ISOLATIONS[std::env::var("ISOLATION").unwrap().parse::<usize>().unwrap()];
    let dir = std::env::var("DIR").unwrap();
    let report = File::options().append(true).open(format!("{dir}/report")).unwrap();
    // It goes on when the FIFO is opened, not when the parent is gone.
    let mut command = inherited_mark().shell("sleep 1000 & echo ready; read word < fifo; exit $word");
    command.current_dir(dir).isolation(isolation).report_to(report).stdout(Stdio::piped());
    command.kill_ladder(KillLadder::grace(LONG)).on_parent_death(ParentDeath::Outlive);
    if let Ok(limit) = std::env::var("TIMEOUT_MS") {
        command.timeout(Duration::from_millis(limit.parse().unwrap()));
    }
    let mut child = command.spawn().unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    println!("{} {}", child.id(), child.shepherd_id());
    let _ = std::io::stdin().read(&mut [0]);
}

/// Leaves a command without its parent: its leader and its shepherd.
fn orphan(mark: &Mark, dir: &Path, isolation: usize, timeout: Option<Duration>) -> (u32, u32) {
    File::create(dir.join("report")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut parent = role("parent_of_what_outlives", mark);
    parent.env("ISOLATION", isolation.to_string()).env("DIR", dir);
    if let Some(timeout) = timeout {
        parent.env("TIMEOUT_MS", timeout.as_millis().to_string());
    }
    let mut parent = parent.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    mark.parent(parent.id());
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (leader, shepherd) = line.trim().split_once(' ').unwrap();
    let ids = (leader.parse().unwrap(), shepherd.parse().unwrap());
    parent.kill().unwrap();
    parent.wait().unwrap();
    ids
}

/// The report in the file, which is one report and no more.
fn the_report(dir: &Path) -> ExitReport {
    let file = dir.join("report");
    assert!(wait_until(LONG, || file.metadata().unwrap().len() > 0), "nothing is told");
    ExitReport::from_bytes(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn what_may_outlive_its_parent_ends_by_itself_and_is_reported_once() {
    for isolation in 0..ISOLATIONS.len() {
        let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
        let (leader, shepherd) = orphan(&mark, dir.path(), isolation, None);
        assert!(is_shepherd(shepherd) && runs(leader));
        // Only a leader that goes on opens the other end, and ends with the code it is told.
        let open = || File::options().write(true).custom_flags(libc::O_NONBLOCK).open(dir.path().join("fifo"));
        assert!(wait_until(LONG, || open().is_ok_and(|mut fifo| fifo.write_all(b"9\n").is_ok())));
        let report = the_report(dir.path());
        assert_eq!((report.cause, report.survivors), (Cause::Exited(9), 0));
        assert!(wait_until(LONG, || !runs(shepherd)));
        mark.assert_gone();
        // Nothing is added at the end.
        assert_eq!(the_report(dir.path()), report);
    }
}

#[test]
fn its_timeout_holds_without_its_parent() {
    for isolation in 0..ISOLATIONS.len() {
        let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
        orphan(&mark, dir.path(), isolation, Some(Duration::from_millis(200)));
        let report = the_report(dir.path());
        assert_eq!((report.cause, report.survivors), (Cause::TimedOut, 0));
        mark.assert_gone_soon();
    }
}

#[test]
fn a_signal_to_its_shepherd_ends_it() {
    for isolation in 0..ISOLATIONS.len() {
        let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
        let (leader, shepherd) = orphan(&mark, dir.path(), isolation, None);
        assert!(runs(leader));
        let pid = rustix::process::Pid::from_raw(shepherd as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(the_report(dir.path()).cause, Cause::ShepherdSignaled(ginnel_process::Signal::TERM));
        mark.assert_gone_soon();
    }
}

/// A leader that ends with 4 and leaves somebody who waits for a line, ignoring TERM.
fn leaves_a_waiter(mark: &Mark, orphans: Orphans, isolation: Isolation) -> (Child, u32) {
    let mut command = mark.shell("(trap '' TERM; read line <&3; echo late >&2; echo $line) & echo $!; exit 4");
    let (read, write) = std::io::pipe().unwrap();
    command.inherit_as(3, read).inherit_as(4, write);
    command.orphans(orphans).isolation(isolation).kill_ladder(KillLadder::grace(Duration::from_millis(50)));
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(wait_until(LONG, || !runs(child.id())), "the leader has ended");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    mark.await_alive(1);
    let left = mark.alive()[0];
    (child, left)
}

#[test]
fn what_is_waited_for_goes_on_and_can_still_be_stopped() {
    for isolation in ISOLATIONS {
        let mark = Mark::new();
        let (mut child, left) = leaves_a_waiter(&mark, Orphans::Wait, isolation);
        assert_eq!(child.wait_timeout(Duration::from_millis(100)).unwrap(), None, "the report waits for the last");
        assert!(runs(left));
        let report = child.stop().unwrap();
        // How the leader ended is told beside why the tree did.
        assert_eq!((report.cause, report.code(), report.killed), (Cause::Stopped, Some(4), 1));
        mark.assert_gone();
    }
}

#[test]
fn what_is_waited_for_ends_with_its_handle() {
    for isolation in ISOLATIONS {
        let mark = Mark::new();
        let (child, left) = leaves_a_waiter(&mark, Orphans::Wait, isolation);
        assert!(runs(left));
        drop(child);
        mark.assert_gone_soon();
    }
}

#[test]
fn what_is_left_is_left_and_everything_else_of_the_command_is_gone() {
    for isolation in [Isolation::Subreaper, Isolation::Auto] {
        let mark = Mark::new();
        let (mut child, left) = leaves_a_waiter(&mark, Orphans::Leave, isolation);
        let shepherd = child.shepherd_id();
        let report = child.wait().unwrap();
        assert_eq!((report.cause, report.killed), (Cause::Exited(4), 0));
        assert!(!runs(shepherd));
        assert!(runs(left), "it was to be left");
        assert_eq!(mark.alive(), [left]);
        // Nobody remembers it.
        drop(child);
        assert!(runs(left));
    }
}
