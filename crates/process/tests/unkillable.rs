//! A process that the kernel does not let die: frozen by a control group of version 1, it does not even see a SIGKILL.

mod common;

use common::{LONG, Mark, wait_until};
use ginnel_process::{Cause, Child, ExitReport, Isolation, KillLadder, Stdio, WaitError};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Thaws and removes it when the test ends, however it ends.
struct Freezer(PathBuf);

impl Freezer {
    fn new(number: u32) -> Option<Freezer> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| {
            line.split_once(" - cgroup ")
                .is_some_and(|(_, rest)| rest.split([' ', ',']).any(|option| option == "freezer"))
        })?;
        let group = PathBuf::from(line.split(' ').nth(4)?).join(format!("frozen-{}-{number}", std::process::id()));
        fs::create_dir(&group).ok().map(|()| Freezer(group))
    }

    fn freeze(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        self.set("FROZEN");
    }

    fn set(&self, state: &str) {
        fs::write(self.0.join("freezer.state"), state).unwrap();
        let file = self.0.join("freezer.state");
        assert!(wait_until(LONG, || fs::read_to_string(&file).unwrap().trim() == state));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        wait_until(LONG, || fs::remove_dir(&self.0).is_ok());
    }
}

/// A process that cannot be killed below each of the three kinds of shepherds, which `end` ends. It gives the number of
/// survivors, and which they are if that is told.
fn with_a_frozen_child(end: impl Fn(Child) -> (u32, Option<Vec<u32>>) + Sync) {
    let Some(freezers) = (0..3).map(Freezer::new).collect::<Option<Vec<Freezer>>>() else { return };
    let isolations = [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace];
    thread::scope(|scope| {
        for (freezer, isolation) in freezers.into_iter().zip(isolations) {
            let end = &end;
            scope.spawn(move || {
                let mark = Mark::new();
                let mut command = mark.shell("sleep 1000 & echo; wait");
                command.isolation(isolation).kill_ladder(KillLadder::at_once()).stdout(Stdio::piped());
                let mut child = command.spawn().unwrap();
                let shepherd = format!("/proc/{}", child.shepherd_id());
                BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
                mark.await_alive(2);
                let sleep = mark.alive().into_iter().find(|pid| *pid != child.id()).unwrap();
                freezer.freeze(sleep);
                // Outside of a namespace its number is the one that is reported.
                let (survivors, pids) = end(child);
                assert_eq!(survivors, 1, "{isolation:?}");
                assert!(isolation == Isolation::PidNamespace || pids.is_none_or(|pids| pids == [sleep]));
                freezer.set("THAWED");
                mark.assert_gone_soon();
                // Somebody reaps a shepherd that could not go before, too.
                assert!(wait_until(LONG, || !fs::exists(&shepherd).unwrap()));
                // Nor its group, which a killed shepherd leaves to the next program.
                for group in common::groups_of(&[std::process::id()]) {
                    wait_until(LONG, || fs::remove_dir(&group).is_ok() || !group.exists());
                }
            });
        }
    });
}

#[test]
fn who_cannot_be_killed_is_reported_as_a_survivor() {
    with_a_frozen_child(|mut child| told(child.kill().unwrap()));
}

fn told(report: ExitReport) -> (u32, Option<Vec<u32>>) {
    (report.survivors, Some(report.survivor_pids))
}

fn kill_shepherd(child: &Child) {
    let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
    rustix::process::kill_process(shepherd, rustix::process::Signal::KILL).unwrap();
}

fn lost(result: Result<ExitReport, WaitError>) -> (u32, Option<Vec<u32>>) {
    let Err(WaitError::ShepherdLost { aftermath }) = result else { panic!("{result:?}") };
    (aftermath.survivors, None)
}

#[test]
fn who_cannot_be_killed_is_told_without_a_shepherd_too() {
    with_a_frozen_child(|mut child| {
        kill_shepherd(&child);
        lost(child.wait())
    });
}

#[cfg(feature = "tokio")]
#[test]
fn who_cannot_be_killed_does_not_hold_up_a_runtime_that_has_lost_the_shepherd() {
    with_a_frozen_child(|child| {
        kill_shepherd(&child);
        lost(beside_others(child))
    });
}

/// Waits in a runtime in which others get on meanwhile.
#[cfg(feature = "tokio")]
fn beside_others(mut child: Child) -> Result<ExitReport, WaitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut wait = std::pin::pin!(child.wait_async());
        for _ in 0..10 {
            tokio::select! {
                biased;
                result = &mut wait => panic!("held up by {result:?}"),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
        wait.await
    })
}

#[cfg(feature = "tokio")]
#[test]
fn who_cannot_be_killed_does_not_hold_up_a_runtime() {
    with_a_frozen_child(|child| {
        child.handle().kill();
        told(beside_others(child).unwrap())
    });
}

#[test]
fn a_stopped_shepherd_obeys_a_stop() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let mut child = mark.command("sleep").arg("1000").isolation(isolation).spawn().unwrap();
        let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
        rustix::process::kill_process(shepherd, rustix::process::Signal::STOP).unwrap();
        assert_eq!(child.stop().unwrap().cause, Cause::Stopped);
        mark.assert_gone();
    }
}

#[test]
fn a_shepherd_that_is_held_by_somebody_is_given_up() {
    // By a debugger, which no signal but KILL overcomes. One child is waited for, one is dropped, one has a timeout.
    thread::scope(|scope| {
        let start = |timeout: Option<Duration>| {
            let mark = Mark::new();
            let mut command = mark.shell("trap '' TERM; sleep 1000 & setsid sleep 1001 & wait");
            command.kill_ladder(KillLadder::grace(Duration::from_millis(100)));
            if let Some(timeout) = timeout {
                command.timeout(timeout);
            }
            let child = command.spawn().unwrap();
            mark.await_alive(3);
            common::sys::hold(child.shepherd_id());
            (mark, child)
        };
        let lost = |result: Result<ExitReport, WaitError>| {
            let Err(WaitError::ShepherdLost { aftermath }) = result else { panic!("{result:?}") };
            assert_eq!(aftermath.survivors, 0);
        };
        scope.spawn(move || {
            let (mark, mut child) = start(None);
            lost(child.stop());
            mark.assert_gone();
        });
        scope.spawn(move || {
            let (mark, child) = start(None);
            drop(child);
            mark.assert_gone_soon();
        });
        scope.spawn(move || {
            let (mark, mut child) = start(Some(Duration::from_millis(300)));
            lost(child.wait());
            mark.assert_gone();
        });
    });
}

/// What does not block waits for no stranger: not for the answer that another thread waits for.
#[test]
fn a_thread_that_asks_a_stopped_shepherd_holds_up_no_other() {
    let mark = Mark::new();
    let mut child = mark.command("sleep").arg("1000").spawn().unwrap();
    let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
    rustix::process::kill_process(shepherd, rustix::process::Signal::STOP).unwrap();
    assert!(wait_until(LONG, || common::state(child.shepherd_id()) == 'T'));
    let ask = |child: &Child| {
        let handle = child.handle();
        let (tell, told) = std::sync::mpsc::channel();
        let asking = thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            handle.signal_leader(ginnel_process::Signal::CONT)
        });
        let thread = told.recv().unwrap();
        assert!(wait_until(LONG, || common::state(thread) == 'S'), "it waits for the answer");
        asking
    };
    let (first, second) = (ask(&child), ask(&child));
    for _ in 0..100 {
        assert_eq!(child.try_wait().unwrap(), None);
        let _ = child.handle();
    }
    assert!(!first.is_finished() && !second.is_finished(), "the answer was waited for");
    // Somebody else reads the answers as well as they do.
    rustix::process::kill_process(shepherd, rustix::process::Signal::CONT).unwrap();
    while !(first.is_finished() && second.is_finished()) {
        assert_eq!(child.try_wait().unwrap(), None);
    }
    assert_eq!((first.join().unwrap(), second.join().unwrap()), (Ok(()), Ok(())));
    child.kill().unwrap();
    mark.assert_gone();
}
