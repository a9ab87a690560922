//! `ginnel serve procs` and `ginnel call` as their users meet them.

mod common;

use common::{House, Running, eventually, line};
use ginnel_service::{Failure, Interface, OwnedRequest, Request, Router, Server, ServerOptions, Sink};
use ginnel_session::Endpoint;
use rustix::process::Signal;
use std::io::BufReader;

fn serve(house: &House, args: &[&str]) -> Running {
    let mut serving = house.start(&[&["serve", "procs"], args].concat());
    let said = line(&mut BufReader::new(serving.take_stderr()));
    assert!(said.starts_with("serving at "), "{said}");
    serving
}

#[test]
fn the_process_table_is_listed_asked_for_and_taken_whole() {
    let house = House::new();
    let serving = serve(&house, &[]);
    let methods = house.run(&["call", "procs"]);
    assert_eq!(methods.code(), Some(0), "{}", methods.stderr);
    let forms: Vec<Vec<&str>> = methods.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let known: Vec<(&str, &str, &str)> = forms.iter().map(|words| (words[0], words[1], words[3])).collect();
    assert_eq!(known, [("1", "stream", "list"), ("2", "one", "get"), ("3", "one", "snapshot")]);
    assert_eq!(house.json(&["call", "procs", "--json"])[1]["name"], "get");

    let me = std::process::id();
    let got = house.json(&["call", "procs", "get", &me.to_string(), "--json"]);
    assert_eq!((&got["pid"], &got["parent"]), (&me.into(), &std::os::unix::process::parent_id().into()));
    assert!(got["memory_bytes"].as_u64() > Some(0) && got["command"].as_array().is_some_and(|words| words.len() > 1));
    assert_eq!(house.json(&["call", "procs", "get", "4000000000", "--json"]), serde_json::Value::Null);
    assert_eq!(house.json(&["call", "procs", "2", &me.to_string(), "--json"])["pid"], me, "by number");

    let listed = house.run(&["call", "procs", "list", "--json"]);
    let pids: Vec<u64> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.contains(&me.into()) && pids.contains(&serving.pid().into()), "{pids:?}");
    let all = house.json(&["call", "procs", "snapshot", "--json"]);
    assert!(all.as_array().unwrap().iter().any(|process| process["pid"] == me));
    // As bytes: what postcard makes of them.
    assert!(!house.run(&["call", "procs", "snapshot"]).stdout.is_empty());

    let told = house.json(&["service", "stat", "procs", "--json"]);
    assert!(told["requests"].as_u64() >= Some(6), "{told}");
    serving.signal(Signal::INT);
    assert_eq!(serving.end().code(), Some(0));
    assert_eq!(house.files(), [""; 0], "it took all of its files with it");
    assert_eq!(house.run(&["call", "procs", "--deadline", "1s"]).code(), Some(1));
}

#[test]
fn a_call_waits_for_its_service_and_needs_its_token() {
    let house = House::new();
    let socket = house.temp.path().join("p.sock");
    let at = socket.to_str().unwrap();
    let mut waiting = house.start(&["call", at, "get", "1", "--json", "--wait", "--token", "9"]);
    assert!(waiting.is_running());
    let serving = serve(&house, &["--at", at, "--token", "9"]);
    let ended = waiting.end();
    assert!(ended.code() == Some(0) && ended.stdout.contains("\"pid\":1"), "{}", ended.stderr);
    assert!(!house.run(&["call", at, "get", "1", "--json"]).complaint().is_empty());
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().code(), Some(0));
}

#[test]
fn methods_that_nobody_knows_are_called_with_bytes() {
    let house = House::new();
    let endpoint = Endpoint::seqpacket(house.temp.path(), "raw").unwrap();
    let (heard, noted) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    let router = Router::new(Interface::named("raw"))
        .handler(7, "upper", |request: &Request<'_>, response: &mut Vec<u8>| {
            response.extend(request.payload.to_ascii_uppercase());
            Ok::<(), Failure>(())
        })
        .stream(8, "words", |request: OwnedRequest, mut sink: Sink| {
            for word in String::from_utf8_lossy(request.payload()).split(' ') {
                if sink.item(word.as_bytes().to_vec()).is_err() {
                    return;
                }
            }
            sink.finish();
        })
        .one_way(9, "note", move |request: &Request<'_>| {
            let _ = heard.lock().unwrap().send(request.payload.to_vec());
            Ok(())
        });
    let server = Server::serve(&endpoint, ServerOptions::default(), router).unwrap();
    let at = endpoint.path().unwrap().to_str().unwrap();
    assert_eq!(house.run(&["call", at, "7", "hello"]).stdout, "HELLO");
    let mut piped = house.start(&["call", at, "7", "-"]);
    piped.feed([0_u8, b'a', 255]);
    assert!(piped.end().stdout.starts_with("\0A"));
    let file = house.temp.path().join("payload");
    std::fs::write(&file, "from a file").unwrap();
    assert_eq!(house.run(&["call", at, "7", "--file", file.to_str().unwrap()]).stdout, "FROM A FILE");
    assert_eq!(house.run(&["call", at, "8", "one two"]).stdout, "one\ntwo\n", "the service says that it is a stream");
    assert_eq!(house.run(&["call", at, "9", "psst", "--one-way"]).code(), Some(0));
    assert_eq!(noted.recv_timeout(common::LIMIT).unwrap(), b"psst");

    assert!(house.run(&["call", at, "7", "x", "--json"]).complaint().contains("not known here"));
    assert!(house.run(&["call", at, "99"]).complaint().contains("no method \"99\""));
    assert!(house.run(&["call", at, "upper"]).complaint().contains("lists its methods"));
    assert!(house.run(&["call", "/no/where"]).complaint().contains("ends in .sock"));
    assert_eq!(house.run(&["call", at, "7", "x", "--file", "y"]).code(), Some(2));
    server.stop();
    eventually("nothing is left", || !endpoint.path().unwrap().exists());
}
