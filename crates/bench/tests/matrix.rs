//! Every mechanism in every form and mode: every message arrives once, as it was sent, and is counted once.

mod common;

use common::{plan, suite};
use ginnel_bench::{Amount, Form, Mechanisms, Mode, Plan, Row};

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
            for size in [8, 1000] {
                let mut plan = plan(name, Mode::PingPong);
                (plan.form, plan.size) = (form, size);
                let row = measured(&plan);
                let one = &row.repetitions[0];
                assert_eq!((one.counts.sent, one.round_trip.len()), (500, 500), "{name} {form}");
                assert!(one.one_way.is_empty() && one.corrected.is_empty());
            }
        }
    }
}

#[test]
fn every_mechanism_flows_saturated_and_at_a_rate_in_every_form() {
    for name in Mechanisms::all().names() {
        for form in forms() {
            for mode in [Mode::Throughput, Mode::Paced] {
                let mut plan = plan(name, mode);
                (plan.form, plan.interval) = (form, std::time::Duration::from_micros(20));
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
                (plan.form, plan.pairs, plan.amount) = (form, 3, Amount::Count(100));
                let one = &measured(&plan).repetitions[0];
                let rounds = if mode == Mode::FanOut { 100 } else { 300 };
                assert_eq!((one.counts.sent, one.round_trip.len()), (300, rounds), "{name} {form} {mode}");
            }
        }
    }
}
