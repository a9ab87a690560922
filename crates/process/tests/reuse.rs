//! Process numbers are used again; signals must not follow them. In a pid namespace with the smallest possible
//! `pid_max`, a number comes back after a few dozen forks.

mod common;

use common::{LONG, Mark, inherited_mark, wait_until};
use ginnel_process::{Cause, Command, Isolation, Pty, Signal, SignalError, Size, Stdio, WaitError};
use std::fs;
use std::io::Read;

roles!(inside);

/// Once past the first 300, which the kernel reserves, only these few numbers go round. (The smallest `pid_max` it
/// takes is 301.)
const PID_MAX: u32 = 330;

/// Starts processes until one has the number, which it then keeps.
fn occupy(number: u32, mark: &Mark) -> Option<std::process::Child> {
    for _ in 0..20 * PID_MAX {
        let mut child =
            std::process::Command::new("sleep").arg("1000").env(common::MARK, mark.value()).spawn().unwrap();
        if child.id() == number {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    None
}

/// Runs as the only tree of a pid namespace.
fn inside() {
    let mark = inherited_mark();
    fs::write("/proc/sys/kernel/pid_max", PID_MAX.to_string()).unwrap();
    assert!(fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim() == PID_MAX.to_string());
    while std::process::Command::new("true").spawn().map(|mut child| (child.wait(), child.id()).1).unwrap() < 300 {}
    for isolation in [Isolation::Subreaper, Isolation::Auto] {
        // The leader ends; an orphan keeps the command going.
        let mut command = mark.shell("setsid sleep 1000 & echo; exit 0");
        command.isolation(isolation).orphans(ginnel_process::Orphans::Wait).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let leader = child.id();
        assert!(wait_until(LONG, || !fs::exists(format!("/proc/{leader}")).unwrap()));
        let mut stranger = occupy(leader, &mark).expect("the number never came back");
        // The leader's number, and its group's, are somebody else's now.
        assert_eq!(child.signal_leader(Signal::KILL), Err(SignalError::Ended));
        assert_eq!(child.signal_group(Signal::KILL), Err(SignalError::Ended));
        assert_eq!(child.signal_tree(Signal::WINCH), Ok(1));
        let report = child.kill().unwrap();
        assert_eq!((report.cause, report.code(), report.killed), (Cause::Stopped, Some(0), 1));
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was hit");
        // Nor does a handle of a command that is gone reach who has its number.
        assert_eq!(child.signal_leader(Signal::KILL), Err(SignalError::Ended));
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    the_second_line_spares_a_stranger(&mark);
    println!("unharmed");
}

/// The shepherd is killed when the leader's number has long been somebody else's.
fn the_second_line_spares_a_stranger(mark: &Mark) {
    // One who leads a session of that number, and one whose leader has left it, as a daemon's does. With a terminal,
    // the leader's number was also that of a session of ours.
    for (script, leads, terminal) in [
        ("exec sleep 1000", true, true),
        ("sleep 1000 & exit 0", false, true),
        ("exec sleep 1000", true, false),
        ("sleep 1000 & exit 0", false, false),
    ] {
        let mut command = mark.shell("trap '' HUP; setsid sleep 1000 & echo; exit 0");
        command.isolation(Isolation::Subreaper).orphans(ginnel_process::Orphans::Wait);
        let mut child =
            if terminal { command.pty(Pty::new(Size::new(24, 80))) } else { command.stdout(Stdio::piped()) }
                .spawn()
                .unwrap();
        match &mut child.pty {
            Some(terminal) => terminal.read_exact(&mut [0]).unwrap(),
            None => child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap(),
        }
        let leader = child.id();
        assert!(wait_until(LONG, || !fs::exists(format!("/proc/{leader}")).unwrap()));
        // `setsid` forks only where it must, so the session gets the number of the process.
        let script = format!("[ $$ = {leader} ] || exit 0; {script}");
        let mut first = (0..20 * PID_MAX)
            .find_map(|_| {
                let mut process = std::process::Command::new("setsid");
                let mut process = process.args(["sh", "-c", &script]).env(common::MARK, mark.value()).spawn().unwrap();
                if process.id() != leader {
                    process.wait().unwrap();
                }
                (process.id() == leader).then_some(process)
            })
            .expect("the number never came back");
        if !leads {
            first.wait().unwrap();
        }
        let members = || {
            let in_session = |pid: &u32| session(*pid) == Some(leader) && common::runs(*pid);
            common::pids().filter(in_session).collect::<Vec<u32>>()
        };
        assert!(wait_until(LONG, || members().len() == 1), "{:?}", members());
        kill(child.shepherd_id());
        let Err(WaitError::ShepherdLost { aftermath }) = child.wait() else { panic!("its shepherd was killed") };
        assert_eq!(aftermath.survivors, 0);
        // The stranger alone is left of all that carry the mark.
        assert_eq!(members().len(), 1, "a stranger was hit");
        assert_eq!(mark.alive(), members());
        kill(members()[0]);
        first.wait().unwrap();
        assert!(wait_until(LONG, || mark.alive().is_empty()));
    }
}

fn session(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse().ok()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_reused_number_cannot_misdirect_a_signal() {
    let mark = Mark::new();
    let mut command = Command::new(common::own_program());
    command.env(common::sys::ROLE, "inside").env(common::MARK, mark.value());
    let output = command.isolation(Isolation::PidNamespace).timeout(3 * LONG).run().unwrap();
    assert_eq!(output.stdout, b"unharmed\n", "{}", String::from_utf8_lossy(&output.stderr));
    mark.assert_gone();
}
