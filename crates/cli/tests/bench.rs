//! `ginnel bench`, from outside.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ginnel")).arg("bench").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn without_options_every_mechanism_has_its_number_within_two_minutes() {
    let soak = std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1");
    // What takes the time is left out of a short run.
    let short = ["-i", "20", "--repetitions", "1", "--mode", "ping-pong"];
    let begun = Instant::now();
    let output = bench(if soak { &[] } else { &short });
    assert!(output.status.success(), "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    let table = text(&output.stdout);
    for mechanism in text(&bench(&["--list"]).stdout).lines().map(|line| line.split(' ').next().unwrap()) {
        let line = table.lines().find(|line| line.trim_start().starts_with(&format!("{mechanism} ")));
        let line = line.unwrap_or_else(|| panic!("{mechanism} is not in\n{table}"));
        // One that spins needs two CPUs.
        assert!(line.contains(" ns") || line.contains(" µs") || line.contains(" ms"), "{line}");
    }
    assert!(table.contains("half of p50"), "{table}");
}

#[test]
fn the_report_is_json_with_its_version_and_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let file = file.to_str().unwrap();
    let options = ["-m", "pipe", "-s", "64,1K", "-i", "100", "--blocking", "--async", "-q", "-o", file];
    let output = bench(&options);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(report["schema_version"], 1);
    for fact in ["cpu", "kernel", "affinity", "argv", "version", "clock_source"] {
        assert!(!report["environment"][fact].is_null(), "{fact}");
    }
    // Two forms, two sizes, two modes.
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row["summary"]["counts"]["lost"] == 0 && row["failure"].is_null()), "{rows:?}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    for (options, why) in [
        (&["-m", "pidgeon"][..], "there is no mechanism `pidgeon`"),
        (&["-m", "posix-mq", "-s", "64,1M"], "msgsize_max"),
        (&["-m", "pipe", "-s", "4"], "at least 8 bytes"),
        (&["-i", "10", "-d", "1s"], "cannot be used with"),
        (&["--mode", "paced"], "--rate or --send-delay"),
        (&["--mode", "ping-pong", "--rate", "100"], "mode paced only"),
        (&["--rate", "0"], "--rate is a number"),
        (&["--mode", "throughput", "--round-trip"], "no round trip"),
        (&["-m", "pipe", "--server-affinity", "4000"], "CPU 4000"),
        (&["--percentiles", "50,101"], "101 is no percentile"),
        (&["-m", "ginnel-shm", "--mode", "throughput", "--depth", "8"], "at most 1 "),
    ] {
        let output = bench(options);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {output:?}");
        assert!(text(&output.stderr).contains(why), "{options:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{options:?}");
    }
}
