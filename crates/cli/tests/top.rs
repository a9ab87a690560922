//! `ginnel top` and `ginnel service` as their users meet them: real servers, a real terminal.

mod common;

use common::{House, LIMIT, eventually};
use ginnel_process::{Child, Command, Pty, PtyMaster, Signal, Size};
use ginnel_service::introspect::Introspection;
use ginnel_service::{BaselineClient, BaselineOptions, Failure, Introspect, Request, Server, ServerOptions};
use ginnel_session::Endpoint;
use std::io::{Read, Write};
use std::path::Path;

const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

fn serve(house: &House, service: &str) -> Server {
    let endpoint = Endpoint::seqpacket(house.temp.path(), service).unwrap();
    let options = ServerOptions { introspect: Introspect::In(house.run.clone()), ..ServerOptions::default() };
    let echo = |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
        response.extend_from_slice(request.payload);
        Ok(())
    };
    let server = Server::start(&endpoint, options, 7, echo).unwrap();
    eventually("it tells about itself", || {
        let listed = Introspection::list(Some(&house.run)).unwrap();
        listed.iter().any(|listed| listed.told.as_ref().is_ok_and(|told| told.service == service))
    });
    server
}

/// A process with a server, told by its runtime directory.
fn process(house: &House, netipc_dir: &Path) -> common::Running {
    let dir = netipc_dir.to_str().unwrap();
    let process = house.start(&["netipc", "serve", "apps-lookup", "--run-dir", dir]);
    eventually("it tells about itself", || {
        let listed = Introspection::list(Some(&house.run)).unwrap();
        listed.iter().any(|listed| listed.owner.pid == process.pid() && listed.told.is_ok())
    });
    process
}

fn top(house: &House, size: Size, args: &[&str]) -> (Child, PtyMaster) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ginnel"));
    command.arg("top").args(args).env("GINNEL_RUN_DIR", &house.run).env("TERM", "xterm").env_remove("NO_COLOR");
    command.pty(Pty::new(size)).timeout(LIMIT);
    let mut child = command.spawn().unwrap();
    let master = child.pty.take().unwrap();
    (child, master)
}

fn expect(master: &mut PtyMaster, wanted: &str) -> String {
    let (mut seen, mut buf) = (String::new(), [0; 4096]);
    while !seen.contains(wanted) {
        let len = master.read(&mut buf).unwrap_or(0);
        assert!(len > 0, "never saw {wanted:?}, but {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buf[..len]));
    }
    seen
}

#[test]
fn a_screen_shows_the_servers_and_q_puts_the_terminal_back() {
    let house = House::new();
    let (mut child, mut master) = top(&house, Size::new(24, 80), &["--interval", "100ms"]);
    expect(&mut master, "No server or client of this user tells about itself.");
    let server = serve(&house, "shouting");
    let seen = expect(&mut master, "shouting");
    let frame = seen.rsplit("\x1b[H").next().unwrap();
    assert!(!frame.contains("ENDPOINT"), "no room for it: {frame}");
    master.resize(Size::new(50, 200)).unwrap();
    expect(&mut master, "shouting.sock");
    master.write_all(b"s").unwrap();
    expect(&mut master, "sorted by failures");
    server.stop();
    expect(&mut master, "No server or client");
    master.write_all(b"q").unwrap();
    assert!(expect(&mut master, LEAVE).contains("\x1b[?7h"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn control_c_and_term_put_the_terminal_back_too() {
    let house = House::new();
    let (mut child, mut master) = top(&house, Size::new(24, 80), &[]);
    expect(&mut master, "q: quit");
    master.write_all(b"\x03").unwrap();
    expect(&mut master, LEAVE);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let (mut child, mut master) = top(&house, Size::new(24, 80), &["--interval", "1h"]);
    expect(&mut master, "q: quit");
    child.signal_leader(Signal::TERM).unwrap();
    expect(&mut master, LEAVE);
    assert_eq!(child.wait().unwrap().code(), Some(143));

    // Raw mode ends as well: the shell that comes after it sees the terminal as it was.
    let script = format!(
        "before=$(stty -g); {} top -n 1 -d 50ms; [ \"$before\" = \"$(stty -g)\" ] && echo same",
        env!("CARGO_BIN_EXE_ginnel")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("GINNEL_RUN_DIR", &house.run).pty(Pty::new(Size::new(24, 80))).timeout(LIMIT);
    let mut child = command.spawn().unwrap();
    expect(&mut child.pty.take().unwrap(), "same");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn without_a_terminal_tables_are_printed_without_colour() {
    let house = House::new();
    let _server = serve(&house, "quiet");
    let ended = house.run(&["top", "--count", "2", "--interval", "50ms"]);
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    assert!(!ended.stdout.contains('\x1b'), "{}", ended.stdout);
    assert_eq!(ended.stdout.matches("SERVICE").count(), 2);
    assert!(ended.stdout.contains("quiet.sock"), "all columns: {}", ended.stdout);
    assert_eq!(house.run(&["top", "--interval", "1ms"]).code(), Some(2));
}

#[test]
fn ls_and_stat_tell_once_what_a_server_does() {
    let house = House::new();
    assert_eq!(house.json(&["service", "ls", "--json"]), serde_json::json!([]));
    assert_eq!(house.run(&["service", "ls"]).stdout, "no server or client of this user tells about itself\n");
    let server = serve(&house, "shop");
    let mut client = BaselineClient::new(server.endpoint(), BaselineOptions::default()).unwrap();
    eventually("it is ready", || client.refresh().is_ready());
    for _ in 0..10 {
        client.call(7, &[1; 30]).unwrap();
    }
    eventually("all is told", || house.json(&["service", "ls", "--json"])[0]["requests"] == 10);
    let shown = house.json(&["service", "stat", "shop", "--json"]);
    assert_eq!(shown["service"], "shop");
    assert_eq!(shown["endpoint"], server.endpoint().to_string());
    assert_eq!((&shown["alive"], &shown["draining"]), (&true.into(), &false.into()));
    assert_eq!((&shown["in_bytes"], &shown["out_bytes"]), (&300.into(), &300.into()));
    assert_eq!((&shown["sessions"]["active"], &shown["latency"]["count"]), (&1.into(), &10.into()));
    assert!(shown["latency"]["p50_ns"].as_u64() <= shown["latency"]["p99_ns"].as_u64());
    assert_eq!(shown["rate"]["requests"], 0.0);
    let page = house.run(&["service", "stat", shown["name"].as_str().unwrap()]).stdout;
    assert!(page.contains("requests  10 (0/s), 0 failed") && page.contains("handlers  10 runs"), "{page}");
    let table = house.run(&["service", "ls"]).stdout;
    assert!(table.lines().count() == 2 && table.contains("shop.sock"), "{table}");

    assert!(house.run(&["service", "stat", "nobody"]).complaint().contains("there is no endpoint \"nobody\""));
    let dir = tempfile::tempdir().unwrap();
    let other = Server::start(
        &Endpoint::seqpacket(dir.path(), "shop").unwrap(),
        ServerOptions { introspect: Introspect::In(house.run.clone()), ..ServerOptions::default() },
        7,
        |_: &Request<'_>, _: &mut Vec<u8>| Ok(()),
    );
    eventually("there are two", || house.json(&["service", "ls", "--json"]).as_array().unwrap().len() == 2);
    assert!(house.run(&["service", "stat", "shop"]).complaint().contains("is several endpoints"));
    drop(other);
}

#[test]
fn a_killed_server_is_dead_a_stopped_one_is_not_and_clean_removes_the_dead() {
    let house = House::new();
    let dir = tempfile::tempdir().unwrap();
    let process = process(&house, dir.path());
    process.signal(rustix::process::Signal::STOP);
    assert_eq!(house.json(&["service", "ls", "--json"])[0]["alive"], true);
    process.signal(rustix::process::Signal::CONT);
    let pid = process.pid();
    drop(process); // by SIGKILL
    let shown = house.json(&["service", "ls", "--json"]);
    assert_eq!((&shown[0]["alive"], &shown[0]["process"]["pid"]), (&false.into(), &pid.into()));
    assert!(house.run(&["service", "ls"]).stdout.contains(" dead "));
    assert!(house.run(&["top", "-n", "1", "-d", "50ms"]).stdout.contains("1 dead"));
    assert_eq!(house.run(&["channel", "clean"]).code(), Some(0));
    assert_eq!(house.files(), [""; 0]);
}

#[test]
fn a_record_that_cannot_be_read_is_told_as_that() {
    let house = House::new();
    let _other = ginnel::channel::Writer::<u64>::builder().run_dir(&house.run).create("ginnel.service.7.0").unwrap();
    let shown = house.json(&["service", "ls", "--json"]);
    assert!(shown[0]["error"].as_str().unwrap().contains("another type"), "{shown}");
    let listed = house.run(&["service", "ls"]);
    assert!(listed.code() == Some(0) && listed.stdout.contains("another type"), "{}", listed.stdout);
    assert!(house.run(&["service", "stat", "ginnel.service.7.0"]).complaint().contains("cannot be shown"));
}
