//! Promises about time. These tests have the machine for themselves, as far as a shared one can be had: each promise is
//! kept by the median of a few tries, so that a single disturbance does not count, and a design that mostly keeps it
//! does not pass.

mod common;

use common::{LONG, wait_until};
use ginnel_process::{Command, Isolation, KillLadder, Stdio};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The times of a few tries, the shortest first.
struct Taken([Duration; 11]);

impl Taken {
    fn by(mut attempt: impl FnMut() -> Duration) -> Taken {
        let mut taken = [(); 11].map(|()| attempt());
        taken.sort();
        Taken(taken)
    }

    fn least(&self) -> Duration {
        self.0[0]
    }

    fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }
}

fn is_there(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

#[test]
fn a_stop_takes_the_grace_and_at_most_50_ms_more() {
    let grace = Duration::from_millis(100);
    let limit = grace + Duration::from_millis(50);
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let taken = Taken::by(|| {
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
        assert!(taken.least() >= grace && taken.median() <= limit, "{isolation:?}: {:?}", taken.0);
    }
}

#[test]
fn a_stop_of_an_obedient_tree_does_not_wait_for_the_grace() {
    let limit = Duration::from_millis(100);
    let taken = Taken::by(|| {
        let mut child =
            Command::new("sleep").arg("1000").kill_ladder(KillLadder::grace(Duration::from_secs(60))).spawn().unwrap();
        let begun = Instant::now();
        child.stop().unwrap();
        begun.elapsed()
    });
    assert!(taken.median() <= limit, "{:?}", taken.0);
}

#[test]
fn dropping_a_stream_after_one_line_of_yes_takes_under_50_ms() {
    let limit = Duration::from_millis(50);
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let taken = Taken::by(|| {
            let mut lines = Command::new("yes").isolation(isolation).stream().unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), "y");
            let (leader, shepherd) = (lines.child().id(), lines.child().shepherd_id());
            let begun = Instant::now();
            drop(lines);
            let taken = begun.elapsed();
            assert!(!is_there(leader) && !is_there(shepherd));
            taken
        });
        assert!(taken.median() < limit, "{isolation:?}: {:?}", taken.0);
    }
}

#[test]
fn dropping_a_child_does_not_block() {
    let limit = Duration::from_millis(50);
    let taken = Taken::by(|| {
        let mut command = Command::new("sh");
        let child = command
            .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
            .kill_ladder(KillLadder::grace(Duration::from_millis(100)))
            .spawn()
            .unwrap();
        let shepherd = child.shepherd_id();
        let begun = Instant::now();
        drop(child);
        let taken = begun.elapsed();
        assert!(wait_until(LONG, || !is_there(shepherd)));
        taken
    });
    assert!(taken.median() < limit, "{:?}", taken.0);
}
