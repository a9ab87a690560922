//! Every example runs to its end, finds what it expects, and leaves nothing behind.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where cargo puts the examples that it builds along with this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let path = profile.join("examples").join(name);
    assert!(path.is_file(), "{} is missing: build it with `cargo build -p ginnel --examples`", path.display());
    path
}

/// Runs an example and returns what it printed.
#[track_caller]
fn run(name: &str) -> String {
    let temp = tempfile::tempdir().unwrap();
    let run_dir = temp.path().join("run");
    let output = temp.path().join("output");
    let file = std::fs::File::create(&output).unwrap();
    let mut child = Command::new(example(name))
        .env("GINNEL_RUN_DIR", &run_dir)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() >= deadline {
            // Its children end by themselves: their channels close.
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let printed = std::fs::read_to_string(&output).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{name} ended with {status:?}:\n{printed}");
    let left: Vec<_> = std::fs::read_dir(&run_dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{name} left {left:?}");
    printed
}

#[test]
fn overlay_restarts_its_killed_child() {
    let printed = run("overlay");
    assert!(
        printed.contains("it died (signal: 9 (SIGKILL))") && printed.contains("overlay 2 ended by itself"),
        "{printed}"
    );
}

#[test]
fn telemetry_tells_the_slow_reader_what_it_missed() {
    let printed = run("telemetry");
    assert_eq!(printed.matches("300000 in all").count(), 4, "{printed}");
    assert!(printed.contains("waited for nobody (0 times)"), "{printed}");
}

#[test]
fn latest_state_shows_every_observer_the_last_value() {
    let printed = run("latest_state");
    assert_eq!(printed.matches("the last is 100000").count(), 3, "{printed}");
}

#[test]
fn merged_reads_every_producer_in_order() {
    let printed = run("merged");
    assert!(printed.contains("[50000, 50000, 50000] records"), "{printed}");
}

#[test]
fn aggregator_carries_everything_to_every_consumer() {
    let printed = run("aggregator");
    assert_eq!(printed.matches("received [20000, 20000, 20000]").count(), 2, "{printed}");
}

#[test]
fn kv_serves_many_workers_from_another_process() {
    let printed = run("kv");
    for line in [
        "committed and uncommitted state are told apart",
        "refused: there is no fork \"elsewhere\"",
        "8 workers made 4800 calls over one connection",
        "scanned 10000 keys in order, then 100 of a range",
        "stopped; 0 sessions cut off",
    ] {
        assert!(printed.contains(line), "{line:?} is missing in:\n{printed}");
    }
}

#[test]
fn sharded_workers_keep_the_books_together() {
    let printed = run("sharded");
    assert!(printed.contains("30000 bookings on 20 accounts add up"), "{printed}");
}
