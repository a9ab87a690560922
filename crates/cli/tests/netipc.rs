//! `ginnel netipc` as its users meet it: the real binary, real sockets, real kills.

mod netipc_common;

use ginnel_netipc::{
    AppsLookup, CacheRefresher, CgroupOutcome, CgroupsLookup, CgroupsSnapshot, NetipcError, ServiceClient, host::fnv1,
};
use ginnel_service::{BaselineError, BaselineOptions, State};
use ginnel_session::Endpoint;
use ginnel_wire::Profiles;
use netipc_common::{Machine, RunDir, Serving, ginnel, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

const ID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

fn options(profile: Profiles) -> BaselineOptions {
    let mut options = BaselineOptions::default();
    options.session.supported = profile | Profiles::BASELINE;
    options.session.preferred = profile;
    options
}

fn endpoint(run: &RunDir, service: &str) -> Endpoint {
    Endpoint::seqpacket(run.path(), service).unwrap()
}

#[test]
fn apps_lookup_says_of_every_process_what_ps_says() {
    if !ginnel_testing::has_program("ps") {
        return;
    }
    let run = RunDir::new();
    let _server = Serving::start(&run, &["apps-lookup"]);
    let before = netipc_common::ps();
    let pids: Vec<String> = before.keys().map(u32::to_string).collect();
    let mut arguments = vec!["get", "apps-lookup", "--json"];
    arguments.extend(pids.iter().map(String::as_str));
    let output = ginnel(&run, &arguments);
    let after = netipc_common::ps();
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let apps = answer["apps"].as_array().unwrap();
    assert_eq!(apps.len(), pids.len());
    let mut compared = 0;
    for app in apps {
        let pid = app["pid"].as_u64().unwrap() as u32;
        let said = &before[&pid];
        // Whoever died, was adopted or renamed in between is judged by nobody.
        if after.get(&pid) != Some(said) {
            continue;
        }
        assert_eq!(app["status"], "known", "{said:?}");
        assert_eq!((&app["ppid"], &app["uid"]), (&json!(said.ppid), &json!(said.uid)), "{said:?}");
        netipc_common::assert_same_name(app["comm"].as_str().unwrap(), &said.comm);
        if let Some(starttime) = netipc_common::starttime(pid) {
            assert_eq!(app["starttime"], starttime, "{said:?}");
        }
        compared += 1;
    }
    assert!(compared > 2, "at least this test, its parent and the server live through it");
    assert!(compared * 10 >= apps.len() * 7, "most processes live on: {compared} of {}", apps.len());
}

#[test]
fn a_cache_follows_what_the_machine_does() {
    let (run, machine) = (RunDir::new(), Machine::new());
    let _server = Serving::start(&run, &["cgroups-snapshot", "--max-age", "0", "--host-root", machine.root()]);
    let mut refresher =
        CacheRefresher::new(&endpoint(&run, "cgroups-snapshot"), options(Profiles::SHM_HYBRID)).unwrap();
    let mut reader = refresher.cache().reader();
    refresher.refresh().unwrap();
    assert_eq!(reader.get(fnv1(b"lxc-one"), b"lxc-one"), None);
    machine.cgroup("lxc/lxc-one", "populated 1\n");
    refresher.refresh().unwrap();
    let found = reader.get(fnv1(b"lxc-one"), b"lxc-one").expect("it was made");
    assert_eq!((found.enabled, found.path), (1, &b"/sys/fs/cgroup/lxc/lxc-one"[..]));
    machine.cgroup("lxc/lxc-one", "populated 0\n");
    refresher.refresh().unwrap();
    assert_eq!(reader.get(fnv1(b"lxc-one"), b"lxc-one").expect("it is empty, not gone").enabled, 0);
    machine.remove("lxc/lxc-one");
    refresher.refresh().unwrap();
    assert_eq!(reader.get(fnv1(b"lxc-one"), b"lxc-one"), None);
    assert_eq!(refresher.cache().status().generation, 4);
}

#[test]
fn real_cgroups_and_the_processes_in_them_are_followed() {
    let Some(cgroup) = netipc_common::RealCgroup::new() else {
        // The same is proved with a made-up machine above; a container may forbid the real thing.
        ginnel_testing::skip("needs control groups that it may make");
        return;
    };
    let run = RunDir::new();
    let _snapshot = Serving::start(&run, &["cgroups-snapshot", "--max-age", "0"]);
    let _apps = Serving::start(&run, &["apps-lookup", "--max-age", "0"]);
    let mut refresher =
        CacheRefresher::new(&endpoint(&run, "cgroups-snapshot"), options(Profiles::SHM_HYBRID)).unwrap();
    let mut reader = refresher.cache().reader();
    let name = cgroup.path().strip_prefix('/').unwrap().as_bytes().to_vec();
    let hash = fnv1(&name);
    refresher.refresh().unwrap();
    assert_eq!(reader.get(hash, &name).expect("it was just made").enabled, 0);

    let pid = cgroup.populate();
    refresher.refresh().unwrap();
    assert_eq!(reader.get(hash, &name).unwrap().enabled, 1);
    let output = ginnel(&run, &["get", "apps-lookup", "--json", &pid.to_string()]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["apps"][0]["comm"], "sleep");
    assert_eq!(answer["apps"][0]["cgroup"]["path"], cgroup.path());

    drop(cgroup);
    refresher.refresh().unwrap();
    assert_eq!(reader.get(hash, &name), None);
}

#[test]
fn the_cache_keeps_its_data_while_the_provider_is_dead_and_goes_on_when_it_is_back() {
    let (run, machine) = (RunDir::new(), Machine::new());
    machine.cgroup("lxc/web", "populated 1\n");
    let arguments = ["cgroups-snapshot", "--max-age", "0", "--host-root", machine.root()];
    let mut refresher =
        CacheRefresher::new(&endpoint(&run, "cgroups-snapshot"), options(Profiles::SHM_HYBRID)).unwrap();
    let mut reader = refresher.cache().reader();

    let absent = refresher.refresh().unwrap_err();
    assert!(matches!(absent, NetipcError::Call(BaselineError::NotReady(State::NotFound))), "{absent}");
    let status = refresher.cache().status();
    assert_eq!((status.populated, status.failures, status.connection), (false, 1, State::NotFound));

    let mut server = Serving::start(&run, &arguments);
    refresher.refresh().expect("it started late");
    assert!(reader.get(fnv1(b"web"), b"web").is_some());

    server.kill();
    refresher.refresh().unwrap_err();
    assert!(reader.get(fnv1(b"web"), b"web").is_some(), "the last good data stays");
    let status = refresher.cache().status();
    assert_eq!((status.populated, status.successes, status.failures), (true, 1, 2));

    machine.cgroup("lxc/db", "populated 1\n");
    let server = Serving::start(&run, &arguments);
    until("the refresher finds the new server", || refresher.refresh().is_ok());
    assert!(reader.get(fnv1(b"db"), b"db").is_some());
    assert_eq!(refresher.cache().status().connection, State::Ready);
    drop(refresher);
    assert!(server.interrupt().success());
    assert_eq!(run.files(), Vec::<String>::new(), "nothing is left of either server");
}

#[test]
fn a_client_waits_for_a_late_server_and_survives_its_restart() {
    let run = RunDir::new();
    let mut client =
        ServiceClient::<AppsLookup>::new(&endpoint(&run, "apps-lookup"), options(Profiles::SHM_HYBRID)).unwrap();
    assert_eq!(client.refresh(), State::NotFound);
    let me = std::process::id();
    assert!(client.lookup(&[me]).is_err(), "a call never connects");
    let mut server = Serving::start(&run, &["apps-lookup"]);
    assert_eq!(client.refresh(), State::Ready);
    assert_eq!(client.lookup(&[me]).unwrap().response().len(), 1);
    server.kill();
    // The next server takes over what the dead one left; the call that finds the session broken is tried again on it.
    let _server = Serving::start(&run, &["apps-lookup"]);
    assert_eq!(client.lookup(&[me]).unwrap().response().len(), 1);
    assert_eq!(client.base().counters().reconnects, 1);
}

#[test]
fn a_wrong_token_is_refused_and_the_right_one_accepted() {
    let run = RunDir::new();
    let server =
        Serving::start_with_env(&run, &["cgroups-lookup", "--token-from-env"], &[("NETDATA_INVOCATION_ID", ID)]);
    let output = ginnel(&run, &["get", "cgroups-lookup", "/", "--token", "0xDEADBEEFCAFEBABE"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--token-from-env"), "the error says what to do: {said}");

    let mut client =
        ServiceClient::<CgroupsLookup>::new(&endpoint(&run, "cgroups-lookup"), BaselineOptions::default()).unwrap();
    assert_eq!(client.refresh(), State::AuthFailed);

    let command =
        |arguments: &[&str]| netipc_common::command(&run, arguments).env("OTHER", ID.to_uppercase()).output().unwrap();
    let output = command(&["get", "cgroups-lookup", "/", "--token-from-env", "OTHER", "--json"]);
    assert!(output.status.success(), "{output:?}");

    let output = command(&["get", "cgroups-lookup", "/", "--token-from-env", "NOT_THERE"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("NOT_THERE"));

    // The provider comes back without a token: the client that was refused is not poisoned for good.
    assert!(server.interrupt().success());
    let _server = Serving::start(&run, &["cgroups-lookup"]);
    until("the refused client tries again", || client.refresh().is_ready());
}

#[test]
fn every_profile_carries_every_service() {
    let (run, machine) = (RunDir::new(), Machine::new());
    machine.cgroup("lxc/web", "populated 1\n");
    let servers = ["cgroups-snapshot", "cgroups-lookup", "apps-lookup"]
        .map(|service| Serving::start(&run, &[service, "--host-root", machine.root()]));
    for (profile, carried) in [("auto", "shm"), ("baseline", "baseline"), ("shm", "shm"), ("shm-futex", "shm-futex")] {
        for service in ["cgroups-snapshot", "cgroups-lookup", "apps-lookup"] {
            let output =
                ginnel(&run, &["ping", service, "--profile", profile, "--json", "-n", "50", "--interval", "0"]);
            assert!(output.status.success(), "{output:?}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (&answer["profile"], &answer["answered"], &answer["lost"]),
                (&json!(carried), &json!(50), &json!(0))
            );
            assert!(answer["min_us"].as_f64() <= answer["max_us"].as_f64());
        }
    }
    for server in servers {
        assert!(server.interrupt().success());
    }
    assert_eq!(run.files(), Vec::<String>::new());
}

#[test]
fn a_server_of_the_socket_alone_refuses_a_client_of_shared_memory_alone() {
    let run = RunDir::new();
    let _server = Serving::start(&run, &["cgroups-lookup", "--profile", "baseline"]);
    let output = ginnel(&run, &["ping", "cgroups-lookup", "--profile", "shm"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--profile auto"), "{said}");
}

#[test]
fn responses_larger_than_any_limit_so_far_are_learned() {
    let (run, machine) = (RunDir::new(), Machine::new());
    for index in 0..500 {
        machine.cgroup(&format!("lxc/container-with-a-long-name-{index}"), "populated 1\n");
    }
    let _server = Serving::start(&run, &["cgroups-snapshot", "--host-root", machine.root()]);
    for profile in [Profiles::BASELINE, Profiles::SHM_HYBRID] {
        let mut client =
            ServiceClient::<CgroupsSnapshot>::new(&endpoint(&run, "cgroups-snapshot"), options(profile)).unwrap();
        client.refresh();
        let snapshot = client.snapshot().unwrap();
        assert_eq!(snapshot.len(), 501);
        let len = snapshot.payload_len();
        assert!(len > 50_000 && len < client.base().agreement().unwrap().response.max_payload as usize);
    }
}

#[test]
fn requests_larger_than_the_session_takes_are_learned_up_to_what_the_server_grants() {
    let run = RunDir::new();
    let _server = Serving::start(&run, &["apps-lookup"]);
    let pids: Vec<u32> = (1..=20_000).collect();
    for profile in [Profiles::BASELINE, Profiles::SHM_HYBRID] {
        let mut client = ServiceClient::<AppsLookup>::new(&endpoint(&run, "apps-lookup"), options(profile)).unwrap();
        client.refresh();
        assert_eq!(client.base().agreement().unwrap().request.max_payload, 1024);
        let answer = client.lookup(&pids).unwrap();
        assert!(answer.response().iter().map(|answer| answer.key).eq(pids.iter().copied()));
        assert_eq!(client.base().agreement().unwrap().request.max_payload, 64 << 10);
        let counters = client.base().counters();
        assert!(counters.calls <= 6, "4,095 pids a request: {counters:?}");
    }
}

#[test]
fn a_path_that_no_request_can_carry_costs_that_path_and_nothing_else() {
    let (run, machine) = (RunDir::new(), Machine::new());
    machine.cgroup("lxc/web", "populated 1\n");
    let _server = Serving::start(&run, &["cgroups-lookup", "--host-root", machine.root()]);
    let mut client =
        ServiceClient::<CgroupsLookup>::new(&endpoint(&run, "cgroups-lookup"), options(Profiles::SHM_HYBRID)).unwrap();
    client.refresh();
    let long = [b"/".to_vec(), vec![b'l'; 100_000]].concat();
    for _ in 0..2 {
        let answer = client.lookup(&[b"/lxc/web", &long, b"/lxc/web"]).unwrap();
        let outcomes: Vec<_> = answer.response().iter().map(|answer| answer.outcome).collect();
        assert!(matches!(outcomes[0], CgroupOutcome::Known { name: b"web", .. }), "{outcomes:?}");
        assert_eq!(outcomes[1], CgroupOutcome::OversizedItem);
        assert_eq!(outcomes[2], outcomes[0]);
    }
    assert_eq!(client.refresh(), State::Ready);
}

#[test]
fn watching_prints_what_changed_and_outlives_its_server() {
    let (run, machine) = (RunDir::new(), Machine::new());
    let arguments = ["cgroups-snapshot", "--max-age", "0", "--host-root", machine.root()];
    let mut server = Serving::start(&run, &arguments);
    let mut watch = netipc_common::command(&run, &["get", "cgroups-snapshot", "--watch", "--json", "--interval", "20"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map(netipc_common::Reaped)
        .unwrap();
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
    let mut cgroups = || -> Vec<String> {
        let line = lines.next().expect("the watch goes on").unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        let mut names: Vec<_> = answer["cgroups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(cgroups(), Vec::<String>::new());
    machine.cgroup("web.service", "populated 1\n");
    assert_eq!(cgroups(), ["web.service"]);
    server.kill();
    machine.cgroup("db.service", "populated 1\n");
    let _server = Serving::start(&run, &arguments);
    assert_eq!(cgroups(), ["db.service", "web.service"]);
    netipc_common::signal(&watch.0, netipc_common::Signal::INT);
    assert_eq!(watch.0.wait().unwrap().code(), Some(130));
}

#[test]
fn a_killed_server_leaves_nothing_that_the_next_does_not_clear() {
    let run = RunDir::new();
    let mut server = Serving::start(&run, &["apps-lookup"]);
    let mut client =
        ServiceClient::<AppsLookup>::new(&endpoint(&run, "apps-lookup"), options(Profiles::SHM_HYBRID)).unwrap();
    client.refresh();
    assert!(run.files().iter().any(|name| name.ends_with(".ipcshm")), "{:?}", run.files());
    server.kill();
    assert_eq!(run.files().len(), 2, "the socket and the region: {:?}", run.files());
    drop(client);
    let server = Serving::start(&run, &["apps-lookup"]);
    assert_eq!(run.files(), ["apps-lookup.sock"]);
    assert!(server.interrupt().success());
    assert_eq!(run.files(), Vec::<String>::new());
}

#[test]
fn a_second_server_of_one_name_is_refused_and_the_first_lives_on() {
    let run = RunDir::new();
    let _server = Serving::start(&run, &["apps-lookup"]);
    let output = ginnel(&run, &["serve", "apps-lookup"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("in use"));
    assert!(ginnel(&run, &["ping", "apps-lookup", "-n", "1"]).status.success());
}

#[test]
fn absent_services_and_wrong_command_lines_have_their_own_exit_codes() {
    let run = RunDir::new();
    let output = ginnel(&run, &["get", "cgroups-snapshot"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cgroups-snapshot.sock") && said.contains("--run-dir"), "{said}");
    for wrong in [
        &["get", "no-such-service"][..],
        &["serve", "increment"],
        &["ping"],
        &["get", "increment", "1", "--token", "x"],
    ] {
        assert_eq!(ginnel(&run, wrong).status.code(), Some(2), "{wrong:?}");
    }
    for impossible in [&["get", "apps-lookup", "init"][..], &["get", "cgroups-snapshot", "/key"], &["get", "increment"]]
    {
        assert_eq!(ginnel(&run, impossible).status.code(), Some(1), "{impossible:?}");
    }
    for help in [&["--help"][..], &["serve", "--help"], &["get", "--help"], &["ping", "--help"]] {
        let output = ginnel(&run, help);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(help.len() == 1 || text.contains("Examples:"), "{text}");
    }
}

#[test]
fn a_reader_that_stops_reading_ends_a_watch_quietly() {
    let (run, machine) = (RunDir::new(), Machine::new());
    let _server = Serving::start(&run, &["cgroups-snapshot", "--max-age", "0", "--host-root", machine.root()]);
    let mut watch = netipc_common::command(&run, &["get", "cgroups-snapshot", "--watch", "--json", "--interval", "10"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(netipc_common::Reaped)
        .unwrap();
    let mut first = String::new();
    BufReader::new(watch.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    machine.cgroup("new", "populated 1\n");
    let status = watch.0.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "no panic, no SIGPIPE");
}

#[test]
fn a_hung_server_costs_a_client_its_timeout_and_no_more() {
    let run = RunDir::new();
    let server = Serving::start(&run, &["apps-lookup"]);
    server.signal(netipc_common::Signal::STOP);
    let started = std::time::Instant::now();
    let output = ginnel(&run, &["get", "apps-lookup", "1", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(started.elapsed() >= Duration::from_secs(1), "it waited as long as it was told");
    server.signal(netipc_common::Signal::CONT);
    assert!(ginnel(&run, &["get", "apps-lookup", "1"]).status.success());
}

/// Starts a command whose both outputs are read later.
fn started(run: &RunDir, arguments: &[&str]) -> netipc_common::Reaped {
    let mut command = netipc_common::command(run, arguments);
    netipc_common::Reaped(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The kind of the one error object that a command said, and nothing else on either output.
fn json_error(output: &std::process::Output) -> String {
    let said = std::str::from_utf8(&output.stderr).unwrap();
    assert!(output.stdout.is_empty() && said.lines().count() == 1, "{output:?}");
    let object: Value = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let error = &object["error"];
    assert!(!error["message"].as_str().unwrap().is_empty(), "{said}");
    error["kind"].as_str().unwrap().to_owned()
}

#[test]
fn a_reader_that_goes_away_ends_a_watch_while_nothing_changes() {
    let run = RunDir::new();
    let server = Serving::start(&run, &["apps-lookup"]);
    let mut watch = started(&run, &["get", "apps-lookup", "0", "--watch", "--json", "--interval", "3600000"]);
    BufReader::new(watch.0.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    assert_eq!(watch.0.wait().unwrap().code(), Some(0));

    // Also while an answer is waited for, and while there is no server.
    server.signal(netipc_common::Signal::STOP);
    let hung = ["get", "apps-lookup", "0", "--watch", "--timeout", "1h"];
    let absent = ["get", "cgroups-lookup", "/x", "--watch", "--interval", "3600000"];
    for waiting in [&hung, &absent] {
        let mut watch = started(&run, waiting);
        drop(watch.0.stdout.take());
        assert_eq!(watch.0.wait().unwrap().code(), Some(0), "{waiting:?}");
    }
    server.signal(netipc_common::Signal::CONT);
}

#[test]
fn a_signal_ends_a_question_with_its_own_code() {
    let run = RunDir::new();
    let server = Serving::start(&run, &["apps-lookup"]);
    server.signal(netipc_common::Signal::STOP);
    for (signal, code) in [(netipc_common::Signal::INT, 130), (netipc_common::Signal::TERM, 143)] {
        for arguments in [
            &["get", "apps-lookup", "1", "--json", "--timeout", "1h"][..],
            &["ping", "apps-lookup", "--json", "--timeout", "1h"],
        ] {
            let child = started(&run, arguments);
            let pid = child.0.id();
            // It waits for an answer to its HELLO: its thread for signals is there, and so are their handlers.
            netipc_common::until("it catches signals and sleeps", || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
                let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
                caught & 1 << (signal.as_raw() - 1) != 0 && status.contains("Threads:\t2")
            });
            netipc_common::signal(&child.0, signal);
            let output = netipc_common::output(child);
            assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
            assert_eq!(json_error(&output), "interrupted");
        }
    }
    server.signal(netipc_common::Signal::CONT);
}

#[test]
fn an_error_of_json_is_one_object_that_names_its_kind() {
    let run = RunDir::new();
    let kind = |arguments: &[&str]| {
        let output = ginnel(&run, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} {output:?}");
        json_error(&output)
    };
    assert_eq!(kind(&["get", "apps-lookup", "1", "--json"]), "not-found");
    assert_eq!(kind(&["ping", "apps-lookup", "--json"]), "not-found");
    assert_eq!(kind(&["get", "apps-lookup", "init", "--json"]), "failed");
    let _server = Serving::start(&run, &["apps-lookup", "--token", "7", "--profile", "baseline"]);
    assert_eq!(kind(&["get", "apps-lookup", "1", "--json"]), "auth-failed");
    assert_eq!(kind(&["get", "apps-lookup", "1", "--json", "--token", "7", "--profile", "shm"]), "incompatible");
    assert_eq!(kind(&["get", "apps-lookup", "1", "--json", "--token", "7", "--timeout", "0"]), "timed-out");
    // The socket of one service, asked for another.
    let other = ["get", "increment", "1", "--name", "apps-lookup", "--json", "--token", "7"];
    assert_eq!(kind(&other), "status");
    let right = ginnel(&run, &["get", "apps-lookup", "0", "--json", "--token", "7"]);
    assert!(right.status.success() && right.stderr.is_empty(), "{right:?}");
}

#[test]
fn any_timeout_is_taken_or_refused_and_none_panics() {
    let run = RunDir::new();
    let _server = Serving::start(&run, &["apps-lookup"]);
    for (timeout, code) in [
        ("0", 1),
        ("0ms", 1),
        ("1h", 0),
        // Beyond what any clock can count.
        ("9223372036854775808", 0),
        ("18000000000000000000", 0),
        ("18446744073709551616", 2),
        ("99999999999999999999999h", 2),
        ("-1", 2),
        ("nan", 2),
        ("inf", 2),
        ("1e3", 2),
        ("", 2),
        ("5 parsecs", 2),
    ] {
        for action in ["get", "ping"] {
            let timeout = format!("--timeout={timeout}");
            let mut arguments = vec![action, "apps-lookup", &timeout];
            arguments.extend(if action == "get" { ["--json", "0"] } else { ["-n", "1"] });
            let output = ginnel(&run, &arguments);
            assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
        }
    }
}

#[test]
fn the_socket_of_another_user_is_told_from_an_absent_server() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !ginnel_testing::is_root("to become another user") {
        return;
    }
    let run = RunDir::new();
    let _server = Serving::start(&run, &["apps-lookup"]);
    // Where this user's binary lies, another may not look.
    let place = tempfile::tempdir().unwrap();
    for directory in [run.path(), place.path()] {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let binary = place.path().join("ginnel");
    std::fs::copy(env!("CARGO_BIN_EXE_ginnel"), &binary).unwrap();
    let output = std::process::Command::new(binary)
        .args(["netipc", "get", "apps-lookup", "1", "--json", "--run-dir"])
        .arg(run.path())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(json_error(&output), "denied");
}

#[test]
fn a_server_whose_standard_error_nobody_reads_serves_and_ends() {
    for gone in [true, false] {
        let run = RunDir::new();
        let (reader, writer) = std::io::pipe().unwrap();
        // Nobody is there, or somebody who never reads.
        let kept = if gone {
            drop(reader);
            None
        } else {
            rustix::io::ioctl_fionbio(&writer, true).unwrap();
            while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
            rustix::io::ioctl_fionbio(&writer, false).unwrap();
            Some(reader)
        };
        let mut command = netipc_common::command(&run, &["serve", "apps-lookup"]);
        let mut server = netipc_common::Reaped(command.stderr(writer).spawn().unwrap());
        until("it serves", || ginnel(&run, &["get", "apps-lookup", "1"]).status.success());
        netipc_common::signal(&server.0, rustix::process::Signal::TERM);
        let mut ended = None;
        until("it ends", || {
            ended = server.0.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{ended:?}");
        assert_eq!(run.files(), [""; 0]);
        drop(kept);
    }
}

#[test]
fn with_few_descriptors_a_client_has_the_answer_or_says_why() {
    let run = RunDir::new();
    let _server = Serving::start(&run, &["apps-lookup"]);
    let script = r#"ulimit -n "$1"; exec "$0" netipc get apps-lookup 1 --json --run-dir "$2""#;
    let mut answered = Vec::new();
    for most in 4..20 {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script, env!("CARGO_BIN_EXE_ginnel"), &most.to_string()]).arg(run.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["apps"][0]["pid"], 1, "{most}: {said}");
            answered.push(most);
        } else {
            assert!(said.contains("Too many open files"), "{most}: {said}");
        }
    }
    // What is enough for one is enough for every larger number: without shared memory it takes no more than a socket.
    let first = *answered.first().expect("no number is enough");
    assert_eq!(answered, (first..20).collect::<Vec<_>>());
}
