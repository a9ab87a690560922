//! What servers tell about themselves: real processes, looked at from outside.

mod common;

use common::{CODE, Carrier, Process, echo, eventually, let_pass, play, ready};
use ginnel_channel::inspect;
use ginnel_memory::RunDir;
use ginnel_service::introspect::{Introspection, Listed, PREFIX, RecordError, Side};
use ginnel_service::{Client, ClientOptions, Introspect, Server, ServerOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn child() {
    play();
}

/// A directory for sockets, and a runtime directory in it.
fn dirs() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    (temp, run)
}

fn options(run: &Path) -> ServerOptions {
    ServerOptions { introspect: Introspect::In(run.to_owned()), ..Carrier::Shm.server() }
}

fn list(run: &Path) -> Vec<Listed> {
    Introspection::list(Some(run)).unwrap()
}

/// The only endpoint, once it has published.
fn only(run: &Path) -> Introspection {
    let mut found = None;
    eventually("the endpoint is listed", || {
        found = list(run).pop().and_then(|listed| listed.told.ok());
        found.is_some()
    });
    found.unwrap()
}

fn server_process(run: &Path, dir: &Path) -> Process {
    let mut server =
        Process::start("server", Carrier::Seqpacket, dir, 0, &[("GINNEL_RUN_DIR", run.display().to_string())]);
    server.line("port ");
    eventually("it is listed", || list(run).iter().any(|listed| listed.told.is_ok()));
    server
}

#[test]
fn a_server_tells_what_it_does_and_goes_from_the_list_when_it_stops() {
    let (temp, run) = dirs();
    let endpoint = Carrier::Shm.endpoint(temp.path(), 0);
    let server = Server::start(&endpoint, options(&run), CODE, echo).unwrap();
    let mut shm = ready(&endpoint, Carrier::Shm.client());
    let mut socket = ready(&endpoint, Carrier::Seqpacket.client());
    for _ in 0..20 {
        shm.call(CODE, &[7; 100]).unwrap();
        socket.call(CODE, &[7; 50]).unwrap();
    }
    assert!(socket.call(CODE, b"!fail").is_err());
    eventually("all of it is told", || {
        let figures = only(&run).figures;
        (figures.requests, figures.failures, figures.in_flight) == (41, 1, 0)
    });
    let told = only(&run);
    let figures = told.figures;
    assert_eq!((told.side, told.service.as_str()), (Side::Server, "svc"));
    assert_eq!(Path::new(&told.endpoint), endpoint.path().unwrap());
    assert_eq!(told.process.pid, std::process::id());
    assert_eq!((figures.sessions, figures.active, figures.slots, figures.seqpacket), (2, 2, 1, 1));
    assert_eq!((figures.bytes_in, figures.bytes_out), (20 * 150 + 5, 20 * 150));
    assert_eq!((told.latency.count(), figures.window, figures.budget), (41, 64, 64 << 20));
    assert!(told.latency.quantile(0.5).unwrap() < common::PATIENCE);
    drop(shm);
    eventually("the session that has left is not counted", || {
        let figures = only(&run).figures;
        (figures.active, figures.slots, figures.seqpacket, figures.sessions) == (1, 0, 1, 2)
    });
    let name = list(&run).pop().unwrap().name;
    assert!(name.starts_with(&format!("{PREFIX}{}.", std::process::id())), "{name}");
    let mode = std::fs::metadata(run.join(format!("{name}.channel"))).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "its user's alone");
    assert!(inspect(Some(&run), &name).unwrap().unwrap().readers.is_empty(), "nobody took part, all only looked");
    server.stop();
    assert_eq!(common::files(&run), [""; 0]);
    assert!(list(&run).is_empty() && Introspection::find(Some(&run), &name).unwrap().is_none());
}

#[test]
fn an_idle_server_publishes_nothing_and_a_busy_one_ten_times_a_second() {
    let (temp, run) = dirs();
    let endpoint = Carrier::Seqpacket.endpoint(temp.path(), 0);
    let server = Server::start(&endpoint, options(&run), CODE, echo).unwrap();
    let began = Instant::now();
    only(&run);
    let name = list(&run).pop().unwrap().name;
    let published = || inspect(Some(&run), &name).unwrap().unwrap().published.unwrap();
    let mut client = ready(&endpoint, Carrier::Seqpacket.client());
    let mut requests = 0;
    while published() < 5 {
        client.call(CODE, b"x").unwrap();
        requests += 1;
    }
    assert!(u128::from(published()) <= began.elapsed().as_millis() / 100 + 2);
    eventually("the last of it is told", || only(&run).figures.requests == requests);
    // Whatever was still to be published is, when nothing has changed for a while.
    let mut before = published();
    eventually("it is quiet", || {
        let_pass(Duration::from_millis(300));
        published() == std::mem::replace(&mut before, published())
    });
    server.stop();
}

#[test]
fn a_server_that_is_killed_is_dead_in_the_list_and_gone_when_the_next_one_begins() {
    let (temp, run) = dirs();
    let server = server_process(&run, temp.path());
    let mut client = ready(&Carrier::Seqpacket.endpoint(temp.path(), 0), Carrier::Seqpacket.client());
    client.call(CODE, b"one").unwrap();
    eventually("it has told", || only(&run).figures.requests == 1);
    server.kill();
    let dead = list(&run).pop().unwrap();
    assert_eq!(dead.alive, Some(false));
    assert_eq!(dead.told.unwrap().figures.requests, 1, "what it told last");
    let next = server_process(&run, temp.path());
    eventually("only the next one is there", || {
        let listed = list(&run);
        listed.len() == 1 && listed[0].alive == Some(true) && listed[0].name != dead.name
    });
    next.end();
    assert_eq!(common::files(&run), [""; 0]);
}

#[test]
fn a_server_that_is_stopped_is_listed_as_ever() {
    let (temp, run) = dirs();
    let server = server_process(&run, temp.path());
    let pid = rustix::process::Pid::from_raw(only(&run).process.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let listed = list(&run).pop().unwrap();
    assert_eq!((listed.alive, listed.told.is_ok()), (Some(true), true));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    server.end();
}

#[test]
fn a_server_in_another_pid_namespace_is_alive_until_it_is_dead() {
    if !ginnel_testing::has_namespaces("-pf") {
        return;
    }
    let (temp, run) = dirs();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
    let env = [("GINNEL_RUN_DIR", run.display().to_string())];
    let inside = Process::start_by(command, "server", Carrier::Seqpacket, temp.path(), 0, &env);
    let told = only(&run);
    assert!(told.process.pid < 10, "in its own namespace: {:?}", told.process);
    assert_eq!(list(&run)[0].alive, Some(true), "although nobody here has its id, or another process has");
    // One from here, which has that id too as far as it knows, leaves it alone.
    let other = tempfile::tempdir().unwrap();
    let server = server_process(&run, other.path());
    eventually("both are there", || list(&run).len() == 2);
    inside.kill();
    eventually("its death is known", || list(&run).iter().any(|listed| listed.alive == Some(false)));
    server.end();
}

#[test]
fn a_run_dir_that_cannot_be_used_costs_a_server_nothing() {
    let (temp, run) = dirs();
    std::fs::write(&run, "a file").unwrap();
    let open = temp.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(temp.path(), 0);
    for bad in [run, open.clone(), temp.path().join("no/parent")] {
        let server = Server::start(&endpoint, options(&bad), CODE, echo).unwrap();
        let mut client = ready(&endpoint, Carrier::Seqpacket.client());
        assert_eq!(client.call(CODE, b"served").unwrap(), b"served");
        server.stop();
    }
    assert_eq!(common::files(&open), [""; 0]);
    // Switched off.
    let run = temp.path().join("off");
    let server = Server::start(&endpoint, ServerOptions { introspect: Introspect::Off, ..options(&run) }, CODE, echo);
    let mut client = ready(&endpoint, Carrier::Seqpacket.client());
    client.call(CODE, b"served").unwrap();
    server.unwrap().stop();
    assert!(!run.exists());
}

#[test]
fn a_read_only_or_full_run_dir_costs_a_server_nothing() {
    if !ginnel_testing::is_root("to mount file systems") || !ginnel_testing::has_namespaces("-m") {
        return;
    }
    for mount in ["mount -t tmpfs -o size=8k,mode=700 none", "mount -t tmpfs -o ro,mode=700 none"] {
        let (temp, run) = dirs();
        std::fs::create_dir(&run).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("{mount} {} && exec \"$@\"", run.display()), "sh"]);
        command.arg(std::env::current_exe().unwrap());
        let env = [("GINNEL_RUN_DIR", run.display().to_string())];
        let mut server = Process::start_by(command, "server", Carrier::Seqpacket, temp.path(), 0, &env);
        server.line("port ");
        let mut client = ready(&Carrier::Seqpacket.endpoint(temp.path(), 0), Carrier::Seqpacket.client());
        assert_eq!(client.call(CODE, b"served").unwrap(), b"served", "{mount}");
        server.end();
    }
}

#[test]
fn a_run_dir_that_somebody_keeps_locked_is_not_waited_for() {
    let (temp, run) = dirs();
    let lock = RunDir::at(&run).unwrap().lock().unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(temp.path(), 0);
    let server = Server::start(&endpoint, options(&run), CODE, echo).unwrap();
    let mut client = ready(&endpoint, Carrier::Seqpacket.client());
    assert_eq!(client.call(CODE, b"served").unwrap(), b"served");
    assert!(list(&run).is_empty());
    drop(lock);
    assert_eq!(only(&run).side, Side::Server, "it comes when the lock is free");
    server.stop();
    assert_eq!(common::files(&run), [""; 0]);
}

#[test]
fn a_hundred_servers_are_all_listed_and_leave_nothing() {
    let (temp, run) = dirs();
    let servers: Vec<Server> = (0..100)
        .map(|number| {
            let endpoint = ginnel_session::Endpoint::seqpacket(temp.path(), &format!("svc-{number}")).unwrap();
            Server::start(&endpoint, options(&run), CODE, echo).unwrap()
        })
        .collect();
    eventually("all are listed", || list(&run).iter().filter(|listed| listed.told.is_ok()).count() == 100);
    let mut services: Vec<String> = list(&run).into_iter().map(|listed| listed.told.unwrap().service).collect();
    services.sort();
    services.dedup();
    assert_eq!(services.len(), 100);
    drop(servers);
    assert_eq!(common::files(&run), [""; 0]);
}

#[test]
fn a_channel_of_something_else_under_such_a_name_is_told_as_that() {
    let (_temp, run) = dirs();
    let name = format!("{PREFIX}1.1");
    let _other = ginnel_channel::Writer::<u64>::builder().run_dir(&run).create(&name).unwrap();
    let listed = list(&run).pop().unwrap();
    assert!(matches!(listed.told, Err(RecordError::Open(_))), "{listed:?}");
    assert_eq!((listed.owner.pid, listed.alive), (std::process::id(), Some(true)));
}

#[test]
fn a_client_tells_of_its_calls_a_moment_after_they_end_and_goes_from_the_list_with_its_last_clone() {
    let (temp, run) = dirs();
    let endpoint = Carrier::Seqpacket.endpoint(temp.path(), 0);
    let options = ServerOptions { introspect: Introspect::Off, ..Carrier::Seqpacket.server() };
    let server = Server::start(&endpoint, options, CODE, echo).unwrap();
    let mut options = ClientOptions { introspect: Introspect::In(run.clone()), ..ClientOptions::default() };
    options.session.token = 7;
    let client = Client::new(&endpoint, options).unwrap();
    for _ in 0..5 {
        assert_eq!(&*client.call(CODE, &[7; 40]).unwrap(), &[7; 40]);
    }
    assert!(client.call(CODE, b"!fail").is_err());
    // Nothing is called any more, and nobody drives the client: it is told all the same.
    eventually("all of it is told", || only(&run).figures.requests == 6);
    let told = only(&run);
    let figures = told.figures;
    assert_eq!((told.side, told.service.as_str(), figures.sessions, figures.active), (Side::Client, "svc", 1, 1));
    assert_eq!((figures.failures, figures.in_flight, figures.bytes_in), (1, 0, 200));
    assert_eq!((figures.bytes_out, told.latency.count()), (205, 6));
    assert_eq!(figures.seqpacket + figures.ring, 1);
    let name = list(&run).pop().unwrap().name;
    let published = || inspect(Some(&run), &name).unwrap().unwrap().published.unwrap();
    let before = published();
    let_pass(Duration::from_millis(300));
    assert_eq!(published(), before, "it is idle");

    let clone = client.clone();
    drop(client);
    clone.call(CODE, b"more").unwrap();
    eventually("it goes on", || only(&run).figures.requests == 7);
    server.stop();
    assert!(clone.call(CODE, b"nobody").is_err());
    eventually("the loss is told", || only(&run).figures.active == 0);
    drop(clone);
    eventually("it has gone", || common::files(&run).is_empty());
}
