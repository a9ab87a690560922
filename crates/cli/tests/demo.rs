//! `ginnel demo`: the quick start does what it says, and ends well however it ends.

mod common;

use common::{House, Running, eventually};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The children of a process's first thread.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until the demo talks to its child, which stands behind a shepherd: its memory is mapped by both.
fn talking(demo: &Running) -> Pid {
    let mut linked = None;
    eventually("the demo has a child that is linked to it", || {
        linked = children(demo.pid()).into_iter().flat_map(children).find(|pid| {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            maps.matches("_status").count() > 0 && maps.matches("_control").count() > 0
        });
        linked.is_some()
    });
    Pid::from_raw(linked.unwrap().cast_signed()).unwrap()
}

#[track_caller]
fn assert_gone(pid: Pid) {
    eventually("the child is gone", || test_kill_process(pid).is_err());
}

#[test]
fn the_demo_needs_no_runtime_directory_that_works() {
    let house = House::new();
    std::fs::write(&house.run, "not a directory").unwrap();
    let ended = house.run(&["demo", "--seconds", "0.2", "--json"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn the_summary_in_json_counts_every_record_and_nothing_left_behind() {
    let house = House::new();
    let ended = house.run(&["demo", "--seconds", "0.5", "--json"]);
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    let last: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no count: {last}"));
    assert!(number(&last["messages"]) > 10);
    assert_eq!(number(&last["bytes"]), number(&last["messages"]) * 64);
    assert_eq!((number(&last["lost"]), number(&last["damaged"])), (0, 0));
    assert_eq!(number(&last["reports"]), number(&last["sweeps"]));
    let [p50, p99, p999] = ["p50", "p99", "p999"].map(|quantile| number(&last["latency_ns"][quantile]));
    assert!(0 < p50 && p50 <= p99 && p99 <= p999, "{last}");
    assert_eq!(last["left_behind"], serde_json::json!([]));
    assert!(number(&last["service"]["calls"]) > 0 && number(&last["service"]["wrong"]) == 0, "{last}");
    assert!(number(&last["service"]["p50_ns"]) <= number(&last["service"]["p99_ns"]), "{last}");
    assert!(!house.run.exists(), "a demo needs no runtime directory");
}

#[test]
fn the_summary_for_people_says_the_same() {
    let ended = House::new().run(&["demo", "--seconds", "0.2"]);
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""), "no live line without a terminal");
    for part in [
        "records   ",
        "lost 0, damaged 0",
        "latency   one way: p50 ",
        "p99.9 ",
        "nothing: the whole process tree is gone",
        "service   ",
        " 0 wrong answers",
    ] {
        assert!(ended.stdout.contains(part), "{part:?} is missing in {}", ended.stdout);
    }
}

#[test]
fn ctrl_c_ends_the_demo_with_its_summary_and_without_its_child() {
    let house = House::new();
    let demo = house.start(&["demo", "--seconds", "600", "--json"]);
    let child = talking(&demo);
    demo.signal(Signal::INT);
    let ended = demo.end();
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    let summary: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((summary["lost"].as_u64(), &summary["left_behind"]), (Some(0), &serde_json::json!([])));
    assert_gone(child);
}

#[test]
fn a_killed_child_is_a_clear_error() {
    let house = House::new();
    let demo = house.start(&["demo", "--seconds", "600"]);
    let child = talking(&demo);
    kill_process(child, Signal::KILL).unwrap();
    let ended = demo.end();
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(1), ""));
    let said = ended.complaint();
    assert!(said.starts_with(&format!("the other process ({}) ended after ", child.as_raw_nonzero())), "{said}");
    assert!(said.ends_with("ended by SIGKILL"), "{said}");
    assert_gone(child);
}

#[test]
fn a_killed_parent_takes_its_child_along() {
    let house = House::new();
    let demo = house.start(&["demo", "--seconds", "600"]);
    let child = talking(&demo);
    demo.signal(Signal::KILL);
    drop(demo);
    assert_gone(child);
}

#[test]
fn the_hidden_half_says_that_it_is_not_for_people() {
    let ended = House::new().run(&["demo-child"]);
    assert_eq!(ended.code(), Some(1));
    assert!(
        ended.complaint().contains("start this program through the one that exports the channel"),
        "{}",
        ended.stderr
    );
}
