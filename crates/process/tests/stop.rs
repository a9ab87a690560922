//! Stops that come early, often, or from several sides.

mod common;

use common::{LONG, Mark, wait_until};
use ginnel_process::{Cause, Command, Isolation, KillLadder, Limit, Signal, Stdio};
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn any_number_of_stops_loses_no_report() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let mut command = mark.shell("trap '' TERM; echo ready; while :; do sleep 1; done");
        command.isolation(isolation).kill_ladder(KillLadder::grace(Duration::from_millis(300)));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let (handle, shepherd) = (child.handle(), format!("/proc/{}", child.shepherd_id()));
        // Far more than a socket holds of unread acknowledgements, and nobody reads any before the end.
        for _ in 0..2000 {
            handle.stop();
        }
        assert!(wait_until(LONG, || !std::fs::exists(&shepherd).unwrap()));
        let report = child.wait().unwrap();
        assert_eq!((report.cause, report.signal()), (Cause::Stopped, Some(Signal::KILL)));
        mark.assert_gone();
    }
}

#[test]
fn a_kill_overtakes_a_stop() {
    let mark = Mark::new();
    let mut command = mark.shell("trap '' TERM; echo ready; while :; do sleep 1; done");
    let mut child = command.kill_ladder(KillLadder::grace(2 * LONG)).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let begun = Instant::now();
    child.handle().stop();
    child.kill().unwrap();
    assert!(begun.elapsed() < LONG, "the grace was waited for");
    mark.assert_gone();
}

/// A shell that has just been started forks while the signal goes round: what it forks has missed it, and its parent is
/// dead.
#[test]
fn who_was_forked_while_the_signal_went_round_gets_it_too() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        // With a second command behind it, no shell executes the first in its own place.
        let mut command = mark.shell("sleep 1000; true");
        command.isolation(isolation).kill_ladder(KillLadder::grace(2 * LONG));
        for attempt in 0..150 {
            let mut child = command.spawn().unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(attempt * 10) {}
            let report = child.stop().unwrap();
            assert!(begun.elapsed() < LONG, "the grace was waited for: {report:?}");
            assert_eq!(report.killed, 0, "{report:?}");
        }
        mark.assert_gone();
    }
}

/// The other side of it: what a handler starts to clear away is not ended by the signal that it handles.
#[test]
fn what_a_handler_starts_is_left_in_peace() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let script = "trap 'sleep 0.2 && echo cleared; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
        let mut command = mark.shell(script);
        command.isolation(isolation).kill_ladder(KillLadder::grace(LONG)).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        child.handle().stop();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "cleared\n");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        mark.assert_gone();
    }
}

#[test]
fn two_threads_that_read_two_streams_share_one_output_limit() {
    const MOST: u64 = 100_000;
    for _ in 0..20 {
        let mark = Mark::new();
        let mut command = mark.shell("yes & exec yes >&2");
        let mut child = command.max_output(MOST).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let total = AtomicU64::new(0);
        let read = |stream: &mut dyn Read| {
            let mut buf = [0; 64 * 1024];
            while let Ok(len @ 1..) = stream.read(&mut buf) {
                total.fetch_add(len as u64, Ordering::Relaxed);
            }
        };
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| read(&mut stdout));
            scope.spawn(|| read(&mut stderr));
        });
        assert_eq!(total.into_inner(), MOST);
        assert_eq!(child.wait().unwrap().cause, Cause::Limit(Limit::Output));
        mark.assert_gone();
    }
}

#[test]
fn after_the_output_limit_every_read_is_an_error() {
    let mut child = Command::new("yes").max_output(1000).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut kept = Vec::new();
    let error = stdout.read_to_end(&mut kept).unwrap_err();
    assert!(error.to_string().contains("output limit"), "{error}");
    assert_eq!(kept.len(), 1000);
    // Also at what would be the end of file, once the command is gone.
    assert_eq!(child.wait().unwrap().cause, Cause::Limit(Limit::Output));
    stdout.read(&mut [0; 10]).unwrap_err();
}
