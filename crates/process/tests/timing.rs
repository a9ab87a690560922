//! Promises about time. The machine that runs the tests is shared, so each promise must be kept by the best of a few tries: a design that
//! cannot keep it fails every time.

use ginnel_process::{Command, Isolation, KillLadder, Stdio};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

const TRIES: usize = 10;

/// The best of a few tries; stops trying when one is good enough.
fn best(limit: Duration, mut attempt: impl FnMut() -> Duration) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        best = best.min(attempt());
        if best <= limit {
            break;
        }
    }
    best
}

#[test]
fn a_stop_takes_the_grace_and_at_most_50_ms_more() {
    let grace = Duration::from_millis(200);
    let limit = grace + Duration::from_millis(50);
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let taken = best(limit, || {
            let mut command = Command::new("sh");
            command.args(["-c", "trap '' TERM; setsid sleep 1000 & sleep 1001 & echo ready; wait; sleep 1002"]);
            let mut child = command
                .isolation(isolation)
                .kill_ladder(KillLadder::grace(grace))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            let begun = Instant::now();
            child.stop().unwrap();
            begun.elapsed()
        });
        assert!(taken >= grace && taken <= limit, "{isolation:?}: {taken:?}");
    }
}

#[test]
fn a_stop_of_an_obedient_tree_does_not_wait_for_the_grace() {
    let limit = Duration::from_millis(100);
    let taken = best(limit, || {
        let mut child =
            Command::new("sleep").arg("1000").kill_ladder(KillLadder::grace(Duration::from_secs(60))).spawn().unwrap();
        let begun = Instant::now();
        child.stop().unwrap();
        begun.elapsed()
    });
    assert!(taken <= limit, "{taken:?}");
}

#[test]
fn dropping_a_stream_after_one_line_of_yes_takes_under_50_ms() {
    let limit = Duration::from_millis(50);
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let taken = best(limit, || {
            let mut lines = Command::new("yes").isolation(isolation).stream().unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), "y");
            let (leader, shepherd) = (lines.child().id(), lines.child().shepherd_id());
            let begun = Instant::now();
            drop(lines);
            let taken = begun.elapsed();
            assert!(!std::path::Path::new(&format!("/proc/{leader}")).exists());
            assert!(!std::path::Path::new(&format!("/proc/{shepherd}")).exists());
            taken
        });
        assert!(taken < limit, "{isolation:?}: {taken:?}");
    }
}

#[test]
fn dropping_a_child_does_not_block() {
    let limit = Duration::from_millis(50);
    let taken = best(limit, || {
        let mut command = Command::new("sh");
        let child = command
            .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
            .kill_ladder(KillLadder::grace(Duration::from_millis(300)))
            .spawn()
            .unwrap();
        let shepherd = child.shepherd_id();
        let begun = Instant::now();
        drop(child);
        let taken = begun.elapsed();
        while std::path::Path::new(&format!("/proc/{shepherd}")).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        taken
    });
    assert!(taken < limit, "{taken:?}");
}
