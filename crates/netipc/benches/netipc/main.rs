//! Measures one row of the netipc benchmark. `cargo xtask bench netipc` runs this program for every row, several times,
//! and makes sense of it; nobody else needs to.
//!
//! `list` prints the rows, `measure LABEL [--millis=N] [--requests=N]` one repetition, `serve` is the other side. All
//! output is JSON.

mod cores;
mod pace;
mod rows;
mod service;

use ginnel_netipc::{
    AppsLookup, CgroupCache, CgroupsLookup, CgroupsSnapshot, INCREMENT_METHOD, Increment, Lookup, ServiceClient,
    encode_increment,
};
use ginnel_service::BaselineOptions;
use ginnel_session::{Session, Wait};
use ginnel_wire::{BatchBuilder, Envelope};
use pace::{Pace, Span};
use rows::{Row, rows};
use service::{Served, cgroup_names, limit, profile, snapshot};
use std::any::Any;
use std::collections::VecDeque;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const DEPTH: usize = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["list"] => serde_json::to_string(&rows()).map_err(|error| error.to_string()).map(|rows| println!("{rows}")),
        ["serve", label, directory, core] => {
            find(label).and_then(|row| service::serve(&row, Path::new(directory), core))
        }
        ["measure", label, options @ ..] => find(label).and_then(|row| measure(&row, span(options)?)),
        // `cargo bench` and `cargo test --benches` call without a word that is meant for us.
        _ => {
            eprintln!("run it by `cargo xtask bench netipc`");
            return ExitCode::SUCCESS;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn find(label: &str) -> Result<Row, String> {
    rows().into_iter().find(|row| row.label == label).ok_or_else(|| format!("there is no row {label}"))
}

fn span(options: &[&str]) -> Result<Span, String> {
    let mut span = Span { millis: 1000, requests: 0 };
    for option in options {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("what is {option}?"))?;
        let value = value.parse().map_err(|error| format!("{option}: {error}"))?;
        match name {
            "--millis" => span.millis = value,
            "--requests" => span.requests = value,
            _ => return Err(format!("what is {option}?")),
        }
    }
    Ok(span)
}

type Failure = Box<dyn std::error::Error>;
/// What was seen, and the client that saw it.
type Driven = (Pace, Box<dyn Any>);

fn measure(row: &Row, span: Span) -> Result<(), String> {
    let [first, last] = cores::pair();
    // Under a tracer the calibration would only be counted. On one core nothing travels, and two threads that spin for
    // each other there take minutes.
    let calibrates = span.requests == 0 && first != last;
    let calibrate = move || if calibrates { cores::cache_line_round_trip([first, last]) } else { f64::from(1) };
    let before = calibrate();
    cores::pin(first);
    let (pace, [client, server]) = if row.name == "lookup" {
        let cpu = cores::cpu_seconds(std::process::id());
        let pace = cache_lookups(row, span);
        (pace, [cores::cpu_seconds(std::process::id()) - cpu, 0.0])
    } else {
        let served = Served::start(row, if row.same_core { first } else { last })?;
        // A tenth of the time, unmeasured: page faults, frequency, the server's learning. Where requests are counted,
        // always as many.
        let warm_up = Span { millis: span.millis / 10, requests: span.requests.min(50) };
        drive(row, &served, warm_up).map_err(|error| error.to_string())?;
        let cpu = [cores::cpu_seconds(std::process::id()), served.cpu_seconds()];
        // The client is kept: with it the server's thread would end, and take its count of time along.
        let (pace, _client) = drive(row, &served, span).map_err(|error| error.to_string())?;
        let used = [cores::cpu_seconds(std::process::id()) - cpu[0], served.cpu_seconds() - cpu[1]];
        (pace, used)
    };
    let after = std::thread::spawn(calibrate).join().unwrap_or(f64::NAN);
    println!("{}", pace.report(client, server, [before, after]));
    Ok(())
}

fn drive(row: &Row, served: &Served, span: Span) -> Result<Driven, Failure> {
    let mut options = BaselineOptions::default();
    options.session.supported = profile(row);
    options.session.request.max_payload = limit(row);
    options.session.request.max_items = row.size as u32;
    options.session.response.max_payload = limit(row);
    let endpoint = served.endpoint()?;
    let pace = Pace::new(span, row.rate);
    match row.name {
        "uds-ping-pong" | "shm-ping-pong" => ping_pong(ready(ServiceClient::new(&endpoint, options)?)?, pace),
        "uds-batch" | "shm-batch" => batches(row, ready(ServiceClient::new(&endpoint, options)?)?, pace),
        "uds-pipeline-d16" | "uds-pipeline-batch-d16" => {
            let session = Session::connect(&endpoint, &options.session, &Wait::forever())?;
            pipeline(row, session, pace)
        }
        "snapshot-baseline" | "snapshot-shm" => snapshots(row, ready(ServiceClient::new(&endpoint, options)?)?, pace),
        "cgroups-lookup" => {
            let paths: Vec<Vec<u8>> = (0..row.size).map(|index| cgroup_key(row.mix, index)).collect();
            let keys: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
            lookups::<CgroupsLookup>(&keys, ready(ServiceClient::new(&endpoint, options)?)?, pace)
        }
        _ => {
            let pids: Vec<u32> = (0..row.size as u32).map(|index| app_key(row.mix, index)).collect();
            lookups::<AppsLookup>(&pids, ready(ServiceClient::new(&endpoint, options)?)?, pace)
        }
    }
}

fn ready<S>(mut client: ServiceClient<S>) -> Result<ServiceClient<S>, Failure> {
    let state = client.refresh();
    if state.is_ready() { Ok(client) } else { Err(format!("not connected: {state}").into()) }
}

/// Servers of this benchmark know paths below /docker and even pids.
fn cgroup_key(mix: &str, index: usize) -> Vec<u8> {
    let known = mix == "known" || (mix == "mixed" && index.is_multiple_of(2));
    format!("{}/0123456789abcdef-{index:05}", if known { "/docker" } else { "/nobody" }).into_bytes()
}

fn app_key(mix: &str, index: u32) -> u32 {
    match mix {
        "known" => 2 * index,
        "unknown" => 2 * index + 1,
        _ => index,
    }
}

fn ping_pong(mut client: ServiceClient<Increment>, mut pace: Pace) -> Result<Driven, Failure> {
    let mut value = 0;
    while let Some(since) = pace.next() {
        let answer = client.increment(value)?;
        if answer != value + 1 {
            return Err(format!("{value} was answered by {answer}").into());
        }
        value = answer;
        pace.done(since, 1);
    }
    Ok((pace, Box::new(client)))
}

fn batches(row: &Row, mut client: ServiceClient<Increment>, mut pace: Pace) -> Result<Driven, Failure> {
    let values: Vec<u64> = (0..row.size as u64).collect();
    let mut answers = Vec::new();
    while let Some(since) = pace.next() {
        client.increment_batch(&values, &mut answers)?;
        if answers.iter().zip(&values).any(|(answer, value)| *answer != value + 1) {
            return Err("a batch was answered wrong".into());
        }
        pace.done(since, row.size as u64);
    }
    Ok((pace, Box::new(client)))
}

/// Up to [`DEPTH`] requests in flight. Latency is that of each request from when it was sent, or should have been.
fn pipeline(row: &Row, mut session: Session, mut pace: Pace) -> Result<Driven, Failure> {
    let mut payload = Vec::new();
    if row.size == 1 {
        encode_increment(&mut payload, 41);
    } else {
        let mut builder = BatchBuilder::new(row.size);
        for value in 0..row.size as u64 {
            builder.push(&value.to_ne_bytes())?;
        }
        payload = builder.finish();
    }
    let mut flying: VecDeque<Instant> = VecDeque::new();
    let (mut id, mut over) = (0, false);
    while !over || !flying.is_empty() {
        while !over && flying.len() < DEPTH && (flying.is_empty() || pace.is_due()) {
            let Some(since) = pace.next() else {
                over = true;
                break;
            };
            id += 1;
            let envelope = Envelope::request(INCREMENT_METHOD, id, 0);
            let envelope = if row.size == 1 { envelope } else { envelope.with_batch(row.size as u32) };
            session.send(&envelope, &payload, &Wait::forever())?;
            flying.push_back(since);
        }
        if flying.is_empty() {
            continue;
        }
        let response = session.recv(&Wait::forever())?;
        if !response.envelope.status.is_ok() || response.payload.len() != payload.len() {
            return Err(format!("answered {:?}", response.envelope).into());
        }
        black_box(response.payload);
        if let Some(since) = flying.pop_front() {
            pace.done(since, row.size as u64);
        }
    }
    Ok((pace, Box::new(session)))
}

fn snapshots(row: &Row, mut client: ServiceClient<CgroupsSnapshot>, mut pace: Pace) -> Result<Driven, Failure> {
    while let Some(since) = pace.next() {
        let snapshot = client.snapshot()?;
        let enabled: u32 = snapshot.iter().map(|item| item.enabled).sum();
        if enabled as usize != row.size {
            return Err(format!("{enabled} cgroups in the snapshot").into());
        }
        pace.done(since, 1);
    }
    Ok((pace, Box::new(client)))
}

fn lookups<'k, L: Lookup>(
    keys: &'k [L::Key<'k>],
    mut client: ServiceClient<L>,
    mut pace: Pace,
) -> Result<Driven, Failure> {
    while let Some(since) = pace.next() {
        let answer = client.lookup(keys)?;
        let mut answered = 0;
        for answer in answer.response().iter() {
            black_box(answer);
            answered += 1;
        }
        if answered != keys.len() {
            return Err(format!("{answered} answers to {} keys", keys.len()).into());
        }
        pace.done(since, keys.len() as u64);
    }
    Ok((pace, Box::new(client)))
}

/// The cache alone, by one thread, batched so that reading the clock costs nothing.
fn cache_lookups(row: &Row, span: Span) -> Pace {
    let names = cgroup_names(row.size);
    let mut payload = Vec::new();
    let cache = CgroupCache::new();
    if let Err(error) = snapshot(&mut payload, usize::MAX, &names) {
        unreachable!("no limit to exceed: {error}");
    }
    if let Err(error) = cache.apply(&payload) {
        unreachable!("this very program encoded it: {error}");
    }
    let mut reader = cache.reader();
    let mut pace = Pace::new(span, 0);
    while let Some(since) = pace.next() {
        let mut found = 0;
        for _ in 0..100 {
            for (hash, name) in (1000u32..).zip(&names) {
                found += reader.get(hash, black_box(name)).map_or(0, |item| u64::from(item.enabled));
            }
        }
        assert_eq!(found, 100 * names.len() as u64, "every lookup finds its cgroup");
        pace.done_many(since, found);
    }
    pace
}
