//! Every mechanism in every form and mode: every message arrives once, as it was sent, and is counted once.

mod common;

use common::{cpus, plan, sides, suite, until};
use ginnel_bench::{Amount, BenchError, Form, Mechanisms, Mode, Plan, Relation, Row};
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn a_side_of_a_measurement() {
    common::become_side(&Mechanisms::all());
}

/// A row without a failure whose counts are complete.
fn measured(plan: &Plan) -> Row {
    let row = suite(Mechanisms::all()).measure(plan);
    let what = format!("{} {} {}, {} bytes", plan.form, plan.mode, plan.mechanism, plan.size);
    assert_eq!(row.failure, None, "{what}");
    for one in &row.repetitions {
        assert!(one.counts.is_clean(), "{what}: {:?}", one.counts);
        assert_eq!(one.counts.sent, one.counts.received, "{what}");
    }
    row
}

fn forms() -> Vec<Form> {
    if cfg!(feature = "tokio") { vec![Form::Blocking, Form::Async] } else { vec![Form::Blocking] }
}

#[test]
fn every_mechanism_plays_ping_pong_in_every_form() {
    for name in Mechanisms::all().names() {
        for form in forms() {
            let mut plan = plan(name, Mode::PingPong);
            (plan.form, plan.size) = (form, if form == Form::Blocking { 1000 } else { 8 });
            let row = measured(&plan);
            let one = &row.repetitions[0];
            assert_eq!((one.counts.sent, one.round_trip.len()), (500, 500), "{name} {form}");
            assert!(one.one_way.is_empty() && one.corrected.is_empty());
        }
    }
}

#[test]
fn every_mechanism_flows_saturated_and_at_a_rate_in_every_form() {
    for name in Mechanisms::all().names() {
        for form in forms() {
            for mode in [Mode::Throughput, Mode::Paced] {
                let mut plan = plan(name, mode);
                (plan.form, plan.interval) = (form, Duration::from_micros(20));
                let facts = Mechanisms::all().facts().into_iter().find(|facts| facts.name == name).unwrap();
                plan.depth = facts.max_depth.unwrap_or(32);
                let one = &measured(&plan).repetitions[0];
                let corrected = if mode == Mode::Paced { 500 } else { 0 };
                assert_eq!((one.counts.sent, one.one_way.len()), (500, 500), "{name} {form} {mode}");
                assert_eq!(one.corrected.len(), corrected, "{name} {form} {mode}");
                assert!(one.window_ns > 0 && one.round_trip.is_empty());
            }
        }
    }
}

#[test]
fn every_mechanism_fans_out_and_in_in_every_form() {
    for name in Mechanisms::all().names() {
        for form in forms() {
            for mode in [Mode::FanOut, Mode::FanIn] {
                let mut plan = plan(name, mode);
                (plan.form, plan.pairs, plan.amount) = (form, 2, Amount::Count(100));
                let one = &measured(&plan).repetitions[0];
                let rounds = if mode == Mode::FanOut { 100 } else { 200 };
                assert_eq!((one.counts.sent, one.round_trip.len()), (200, rounds), "{name} {form} {mode}");
            }
        }
    }
}

#[test]
fn message_queues_take_any_count_and_any_duration() {
    let amounts = [1, 9, 10, 11, 2500].map(Amount::Count);
    for amount in amounts.into_iter().chain([Amount::Duration(Duration::from_millis(150))]) {
        for mode in [Mode::PingPong, Mode::Throughput] {
            let mut plan = plan("posix-mq", mode);
            (plan.amount, plan.priority, plan.depth) = (amount, 3, 64);
            let sent = measured(&plan).repetitions[0].counts.sent;
            match amount {
                Amount::Count(count) => assert_eq!(sent, count),
                Amount::Duration(_) => assert!(sent > 10, "{sent}"),
            }
        }
    }
}

/// Why a plan is refused.
fn refused(plan: &Plan) -> String {
    let refused = suite(Mechanisms::all()).check(plan).unwrap_err();
    assert!(matches!(refused, BenchError::Refused { .. } | BenchError::Unknown { .. }), "{refused:?}");
    // Nothing was started, and measuring it says the same.
    assert_eq!(suite(Mechanisms::all()).measure(plan).failure, Some(refused.to_string()));
    refused.to_string()
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_limit_named() {
    let changed = |mechanism: &str, mode: Mode, change: fn(&mut Plan)| {
        let mut plan = plan(mechanism, mode);
        change(&mut plan);
        refused(&plan)
    };
    let most = std::fs::read_to_string("/proc/sys/fs/mqueue/msgsize_max").unwrap();
    let queue = changed("posix-mq", Mode::PingPong, |plan| plan.size = 1 << 26);
    assert!(queue.contains(most.trim()) && queue.contains("msgsize_max"), "{queue}");
    assert!(changed("uds-dgram", Mode::PingPong, |plan| plan.size = 1 << 30).contains("--buffer-size"));
    assert!(changed("pipe", Mode::Paced, |plan| plan.size = 16).contains("at least 24 bytes"));
    assert!(changed("ginnel-shm", Mode::Throughput, |plan| plan.depth = 2).contains("at most 1 "));
    assert!(changed("shm-spin", Mode::PingPong, |plan| plan.server_cpu = plan.client_cpu).contains("a CPU each"));
    assert!(changed("futex", Mode::PingPong, |plan| plan.buffer = Some(4096)).contains("no buffer"));
    assert!(changed("pipe", Mode::PingPong, |plan| plan.client_cpu = Some(99_999)).contains("CPU 99999"));
    assert!(changed("pipe", Mode::PingPong, |plan| plan.amount = Amount::Count(0)).contains("nothing"));
    assert!(changed("posix-mq", Mode::PingPong, |plan| plan.priority = 32_768).contains("32767"));
    assert!(changed("carrier-pigeon", Mode::PingPong, |_| ()).contains("uds-seqpacket"));
}

#[test]
fn the_largest_packet_that_is_not_refused_goes_through() {
    for name in ["uds-seqpacket", "uds-dgram", "posix-mq"] {
        let mut plan = plan(name, Mode::PingPong);
        plan.amount = Amount::Count(3);
        let fits = |size: usize| {
            let plan = Plan::clone(&plan);
            suite(Mechanisms::all())
                .check(&{
                    let mut plan = plan;
                    plan.size = size;
                    plan
                })
                .is_ok()
        };
        let (mut low, mut high) = (8, 1 << 30);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if fits(middle) { low = middle } else { high = middle }
        }
        plan.size = low;
        measured(&plan);
    }
}

#[test]
fn a_buffer_that_is_asked_for_is_set_and_read_back() {
    for (name, bytes) in [("pipe", 65_536), ("uds-stream", 2 * 65_536), ("tcp", 2 * 65_536)] {
        let mut plan = plan(name, Mode::PingPong);
        plan.buffer = Some(65_536);
        assert_eq!(measured(&plan).repetitions[0].buffer, Some(bytes), "{name}: the kernel doubles a socket's buffer");
    }
}

#[test]
fn both_sides_are_where_they_should_be_from_their_first_moment_to_their_last() {
    let cpus = cpus();
    for (client, server) in [(cpus[0], cpus[0]), (cpus[0], cpus[cpus.len() - 1])] {
        let mut plan = plan("uds-seqpacket", Mode::PingPong);
        (plan.client_cpu, plan.server_cpu) = (Some(client), Some(server));
        plan.amount = Amount::Duration(Duration::from_millis(300));
        let mut seen = BTreeSet::new();
        let row = std::thread::scope(|scope| {
            let measuring = scope.spawn(|| measured(&plan));
            until("the measurement ends", || {
                for pid in sides() {
                    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
                    seen.extend(allowed.map(|cpu| (pid, cpu.trim().to_owned())));
                }
                measuring.is_finished()
            });
            measuring.join().unwrap()
        });
        // Each process had one set of CPUs, whenever it was looked at. (A repetition that drifted has others.)
        let processes: BTreeSet<u32> = seen.iter().map(|(pid, _)| *pid).collect();
        let found: BTreeSet<String> = seen.iter().map(|(_, cpu)| cpu.clone()).collect();
        assert_eq!(processes.len(), seen.len(), "{seen:?}");
        assert_eq!(found, [client, server].map(|cpu| cpu.to_string()).into(), "{seen:?}");
        assert_eq!((row.placement.client, row.placement.server), (Some(client), Some(server)));
        assert_eq!(row.placement.relation == Relation::SameCpu, client == server);
    }
}

#[test]
fn a_report_survives_its_file() {
    use ginnel_bench::{Environment, Report};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let mut report = Report::new(Environment::read());
    report.rows.push(measured(&plan("pipe", Mode::PingPong)));
    report.write(&path).unwrap();
    let read = Report::read(&path).unwrap();
    let (before, after) = (&report.rows[0], &read.rows[0]);
    assert_eq!((&after.mechanism, after.size, &after.placement), (&before.mechanism, before.size, &before.placement));
    let (one, again) = (&before.repetitions[0], &after.repetitions[0]);
    assert!(one.round_trip.counts().eq(again.round_trip.counts()), "the histogram is whole");
    assert_eq!((again.counts, again.client, again.window_ns), (one.counts, one.client, one.window_ns));
    assert_eq!(after.summary.as_ref().unwrap().p50_ns, before.summary.as_ref().unwrap().p50_ns);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no half-written file is left");
    std::fs::write(&path, r#"{"schema_version": 99}"#).unwrap();
    assert!(Report::read(&path).is_err());
}

#[test]
fn an_unstable_row_is_measured_again_and_both_results_are_kept() {
    let plan = plan("pipe", Mode::PingPong);
    let mut row = measured(&plan);
    let suite = suite(Mechanisms::all());
    row.summary.as_mut().unwrap().stable = true;
    suite.diagnose(&plan, &mut row, Duration::ZERO);
    assert!(row.diagnosis.is_none());
    row.summary.as_mut().unwrap().stable = false;
    let first = row.summary.as_ref().unwrap().p50_ns;
    suite.diagnose(&plan, &mut row, Duration::ZERO);
    assert_eq!(row.summary.as_ref().unwrap().p50_ns, first);
    assert!(row.diagnosis.unwrap().summary.unwrap().p50_ns > 0.0);
}
