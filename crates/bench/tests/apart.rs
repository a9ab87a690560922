//! Two stand-alone sides, a server and a client with parents of their own, measure the same.

mod common;

use common::{descendants, plan, suite, until};
use ginnel_bench::{Amount, Form, Mechanisms, Meeting, Mode, Plan, Row, Suite};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn a_side_of_a_measurement() {
    common::become_side(&Mechanisms::all());
}

/// Serves while `body` runs, which is told what the server says first.
fn with_server<T>(meeting: &Meeting, body: impl FnOnce(&str) -> T) -> (T, Vec<String>) {
    let stop = AtomicBool::new(false);
    let (say, said) = mpsc::channel();
    std::thread::scope(|scope| {
        let stop_ref = &stop;
        let server = scope.spawn(move || {
            let cpu = common::cpus().last().copied();
            let stop = || stop_ref.load(Ordering::Relaxed);
            suite(Mechanisms::all()).serve(meeting, cpu, stop, |line| say.send(line.to_owned()).unwrap())
        });
        let listening = said.recv_timeout(Duration::from_secs(20)).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&listening)));
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
        until("every process goes", || descendants(std::process::id()).is_empty());
        (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), said.iter().collect())
    })
}

fn complete(suite: &Suite, plan: &Plan) -> Row {
    let row = suite.measure(plan);
    let what = format!("{} {} {}", plan.mechanism, plan.form, plan.mode);
    assert_eq!(row.failure, None, "{what}");
    let counts = row.repetitions[0].counts;
    assert!(counts.is_clean() && counts.sent == counts.received && counts.sent > 0, "{what}: {counts:?}");
    row
}

#[test]
fn every_mechanism_is_measured_by_two_that_share_a_run_directory() {
    let dir = tempfile::tempdir().unwrap();
    let meeting = Meeting::Directory(dir.path().to_owned());
    let names = Mechanisms::all().names();
    let ((), mut lines) = with_server(&meeting, |_| {
        let suite = suite(Mechanisms::all()).meet(meeting.clone());
        for (at, name) in names.iter().enumerate() {
            let modes = [Mode::PingPong, Mode::Throughput, Mode::FanIn, Mode::FanOut];
            let mut plan = plan(name, modes[at % 4]);
            plan.amount = Amount::Count(100);
            plan.depth = if *name == "ginnel-shm" { 1 } else { 8 };
            plan.pairs = if matches!(plan.mode, Mode::FanIn | Mode::FanOut) { 2 } else { 1 };
            plan.form = if cfg!(feature = "tokio") && at % 3 == 0 { Form::Async } else { Form::Blocking };
            let row = complete(&suite, &plan);
            assert_eq!(row.placement.server, common::cpus().last().copied());
        }
    });
    // A repetition whose calibrations drifted was served again.
    lines.dedup();
    assert_eq!(lines.len(), names.len(), "{lines:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the socket and the directories are gone");
}

#[test]
fn tcp_is_measured_at_an_address_and_what_is_local_is_refused() {
    let any = Meeting::Address(([127, 0, 0, 1], 0).into());
    with_server(&any, |listening| {
        let address = listening.rsplit(' ').next().unwrap().parse().unwrap();
        let suite = suite(Mechanisms::all()).meet(Meeting::Address(address));
        complete(&suite, &plan("tcp", Mode::PingPong));
        let refused = suite.measure(&plan("pipe", Mode::PingPong)).failure.unwrap();
        assert!(refused.contains("one machine"), "{refused}");
    });
    // Nobody reaches another machine's clock.
    let far = suite(Mechanisms::all()).meet(Meeting::Address(([192, 0, 2, 1], 9).into()));
    let refused = far.check(&plan("tcp", Mode::Throughput)).unwrap_err().to_string();
    assert!(refused.contains("clocks"), "{refused}");
    assert!(far.check(&plan("tcp", Mode::PingPong)).is_ok());
}

#[test]
fn a_client_without_a_server_is_told_so_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let suite = suite(Mechanisms::all()).meet(Meeting::Directory(dir.path().to_owned()));
    let failure = suite.measure(&plan("pipe", Mode::PingPong)).failure.unwrap();
    assert!(failure.contains("reach the server"), "{failure}");
}
