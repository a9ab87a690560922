//! A service that comes late, goes, comes back with another token or other limits: each with real processes.

mod common;

use common::{CARRIERS, CODE, Carrier, Process, await_state, eventually, files, play, size};
use ginnel_service::{BaselineClient, BaselineError, State};
use ginnel_session::Limits;
use std::time::{Duration, Instant};

#[test]
fn child() {
    play();
}

fn server(carrier: Carrier, dir: &tempfile::TempDir, env: &[(&str, u64)]) -> Process {
    let env: Vec<(&str, String)> = env.iter().map(|(name, value)| (*name, value.to_string())).collect();
    let mut server = Process::start("server", carrier, dir.path(), 0, &env);
    server.line("port ");
    server
}

fn client(carrier: Carrier, dir: &tempfile::TempDir) -> BaselineClient {
    BaselineClient::new(&carrier.endpoint(dir.path(), 0), carrier.client()).unwrap()
}

#[test]
fn a_late_service_is_found_an_absent_one_missed_and_a_restarted_one_found_again() {
    for carrier in [Carrier::Seqpacket, Carrier::Stream, Carrier::Shm] {
        let dir = tempfile::tempdir().unwrap();
        let mut client = client(carrier, &dir);
        for _ in 0..3 {
            assert_eq!(client.refresh(), State::NotFound);
        }
        assert!(matches!(client.call(CODE, b"x"), Err(BaselineError::NotReady(State::NotFound))));

        let first = server(carrier, &dir, &[]);
        assert_eq!(client.refresh(), State::Ready);
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        first.end();
        await_state(&mut client, State::NotFound);

        let second = server(carrier, &dir, &[]);
        assert_eq!(client.refresh(), State::Ready);
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");

        // Restarted between two calls, with no refresh in between: the call finds the new one.
        second.end();
        let third = server(carrier, &dir, &[]);
        assert_eq!(client.call(CODE, b"y").unwrap(), b"y");
        assert_eq!((client.state(), client.counters().retries), (State::Ready, 1));
        third.end();
        assert_eq!(files(dir.path()), [""; 0]);
    }
}

#[test]
fn a_wrong_token_is_refused_with_growing_pauses_and_the_right_one_taken_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = server(Carrier::Seqpacket, &dir, &[("GINNEL_TEST_TOKEN", 8)]);
    let mut client = client(Carrier::Seqpacket, &dir);
    assert_eq!(client.refresh(), State::AuthFailed);
    // Refreshed without a pause, it asks the server now and then only.
    let begin = Instant::now();
    let mut refreshes = 0;
    while begin.elapsed() < Duration::from_millis(60) {
        assert_eq!(client.refresh(), State::AuthFailed);
        refreshes += 1;
    }
    assert!(refreshes > 100, "a refresh that is not due costs next to nothing: {refreshes}");
    wrong.end();
    let right = server(Carrier::Seqpacket, &dir, &[]);
    await_state(&mut client, State::Ready);
    assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
    right.end();
}

#[test]
fn an_incompatible_service_is_tried_again_too() {
    // A server without shared memory, and a client that insists on it.
    let dir = tempfile::tempdir().unwrap();
    let without = server(Carrier::Seqpacket, &dir, &[]);
    let mut options = Carrier::Shm.client();
    options.session.supported = ginnel_wire::Profiles::SHM_HYBRID;
    let mut client = BaselineClient::new(&Carrier::Shm.endpoint(dir.path(), 0), options).unwrap();
    assert_eq!(client.refresh(), State::Incompatible);
    without.end();
    let with = server(Carrier::Shm, &dir, &[]);
    await_state(&mut client, State::Ready);
    assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
    with.end();
}

#[test]
fn requests_and_responses_that_do_not_fit_are_learned_by_both_sides() {
    for carrier in [Carrier::Seqpacket, Carrier::Stream, Carrier::Shm] {
        let dir = tempfile::tempdir().unwrap();
        let server = server(carrier, &dir, &[]);
        let mut client = client(carrier, &dir);
        assert_eq!(client.refresh(), State::Ready);
        let granted = |client: &BaselineClient| {
            let agreement = client.agreement().unwrap();
            (agreement.request.max_payload, agreement.response.max_payload)
        };
        assert_eq!(granted(&client), (1024, 1024));
        assert_eq!(client.call(CODE, b"!size 1000").unwrap().len(), 1000);
        // The response overflows: the server learns what it needs, and the next session has it.
        assert_eq!(client.call(CODE, b"!size 300000").unwrap().len(), 300_000);
        assert_eq!(granted(&client), (1024, 1 << 19), "{carrier:?}");
        // The request overflows: the client proposes more.
        let large = vec![3; 70_000];
        assert_eq!(client.call(CODE, &large).unwrap(), large);
        assert_eq!(granted(&client), (1 << 17, 1 << 19));
        // Both are remembered: nothing is negotiated again.
        let counters = client.counters();
        assert_eq!(client.call(CODE, b"!size 400000").unwrap().len(), 400_000);
        assert_eq!(client.call(CODE, &large).unwrap(), large);
        assert_eq!(
            (client.counters().reconnects, client.counters().overflows),
            (counters.reconnects, counters.overflows)
        );
        // The ceiling of what is learned is one MiB.
        assert!(matches!(
            client.call(CODE, b"!size 1048577"),
            Err(BaselineError::ResponseTooLarge { limit: 1_048_576 })
        ));
        assert_eq!(client.call(CODE, b"!size 1048576").unwrap().len(), 1 << 20);
        server.end();
    }
}

#[test]
fn a_client_that_has_learned_lives_with_a_server_that_takes_less_and_with_one_that_takes_more() {
    let dir = tempfile::tempdir().unwrap();
    let large = server(Carrier::Seqpacket, &dir, &[("GINNEL_TEST_REQUEST", 65536), ("GINNEL_TEST_RESPONSE", 65536)]);
    let mut client = client(Carrier::Seqpacket, &dir);
    assert_eq!(client.refresh(), State::Ready);
    assert_eq!(client.call(CODE, &[1; 60_000]).unwrap(), [1; 60_000]);
    assert_eq!(client.agreement().unwrap().request.max_payload, 65536);
    large.end();

    let small = server(Carrier::Seqpacket, &dir, &[("GINNEL_TEST_REQUEST", 4096), ("GINNEL_TEST_RESPONSE", 2048)]);
    await_state(&mut client, State::Ready);
    assert_eq!(client.call(CODE, &[1; 500]).unwrap(), [1; 500]);
    let refused = client.call(CODE, &[1; 60_000]);
    assert!(matches!(refused, Err(BaselineError::RequestTooLarge { len: 60_000, .. })), "{refused:?}");
    let refused = client.call(CODE, &[1; 4000]);
    assert!(matches!(refused, Err(BaselineError::ResponseTooLarge { limit: 2048 })), "{refused:?}");
    assert_eq!(client.call(CODE, &[1; 2048]).unwrap(), [1; 2048]);
    small.end();

    let large =
        server(Carrier::Seqpacket, &dir, &[("GINNEL_TEST_REQUEST", 1 << 20), ("GINNEL_TEST_RESPONSE", 1 << 20)]);
    await_state(&mut client, State::Ready);
    assert_eq!(client.call(CODE, &[1; 1 << 20]).unwrap().len(), 1 << 20);
    large.end();
}

#[test]
fn a_client_that_starts_above_a_server_s_limit_never_gets_a_session_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(Carrier::Seqpacket, &dir, &[("GINNEL_TEST_REQUEST", 4096), ("GINNEL_TEST_RESPONSE", 4096)]);
    let mut options = Carrier::Seqpacket.client();
    options.session.request = Limits { max_payload: 8192, max_items: 1 };
    let mut client = BaselineClient::new(&Carrier::Seqpacket.endpoint(dir.path(), 0), options).unwrap();
    for _ in 0..3 {
        assert_eq!(client.refresh(), State::Disconnected);
    }
    server.end();
}

#[test]
fn of_many_servers_that_start_at_once_on_a_stale_endpoint_exactly_one_wins() {
    for carrier in [Carrier::Shm, Carrier::Stream] {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..size(3, 60) {
            let mut racers: Vec<Process> =
                (0..6).map(|_| Process::start("racer", carrier, dir.path(), 0, &[])).collect();
            for racer in &mut racers {
                racer.line("waiting ");
            }
            for racer in &mut racers {
                racer.tell();
            }
            let took: Vec<bool> = racers.iter_mut().map(|racer| racer.line("took ") == "true").collect();
            assert_eq!(took.iter().filter(|took| **took).count(), 1, "round {round}: {took:?}");
            let mut client = client(carrier, &dir);
            await_state(&mut client, State::Ready);
            assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
            // All of them crash: the next round begins with what they left.
            drop(racers);
            assert!(!files(dir.path()).is_empty(), "something stale is left for the next round");
        }
        server(carrier, &dir, &[]).end();
        assert_eq!(files(dir.path()), [""; 0]);
    }
}

#[test]
fn a_server_that_is_killed_while_it_starts_leaves_nothing_that_hinders_the_next() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..size(10, 200) {
        let mut racer = Process::start("racer", Carrier::Shm, dir.path(), 0, &[]);
        racer.line("waiting ");
        racer.tell();
        // From before the first system call of its start to after the last.
        common::let_pass(Duration::from_micros(round as u64 * 37 % 500));
        racer.kill();
        let next = server(Carrier::Shm, &dir, &[]);
        assert_eq!(files(dir.path()), ["svc.sock"]);
        next.end();
        assert_eq!(files(dir.path()), [""; 0]);
    }
}

#[test]
fn a_live_region_of_another_pid_namespace_is_left_alone_and_a_dead_one_is_not() {
    if !ginnel_testing::has_namespaces("-pf") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut there = Process::start_in_namespace("server", Carrier::Shm, dir.path());
    there.line("port ");
    let mut client = client(Carrier::Shm, &dir);
    assert_eq!(client.refresh(), State::Ready);
    assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
    let regions = || files(dir.path()).into_iter().filter(|name| name.ends_with(".ipcshm")).collect::<Vec<_>>();
    let region = regions();
    assert_eq!(region.len(), 1);
    // Its name taken away, as by an administrator, so that another server can start here beside the live one.
    std::fs::remove_file(dir.path().join("svc.sock")).unwrap();
    let here = server(Carrier::Shm, &dir, &[]);
    assert_eq!(regions(), region, "its owner has no meaning as a pid here, but it lives");
    assert_eq!(client.call(CODE, b"still served from there").unwrap(), b"still served from there");
    here.end();
    there.kill();
    eventually("the client notices", || client.refresh() != State::Ready);
    eventually("the next start sweeps it up", || {
        server(Carrier::Shm, &dir, &[]).end();
        files(dir.path()).is_empty()
    });
}

#[test]
fn fifty_clients_of_a_real_server_are_served_at_once() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Process::start("server", carrier, dir.path(), 0, &[]);
        let port = server.line("port ").parse().unwrap();
        std::thread::scope(|scope| {
            for number in 0..50_u8 {
                let endpoint = carrier.endpoint(dir.path(), port);
                scope.spawn(move || {
                    let mut client = common::ready(&endpoint, carrier.client());
                    for call in 0..20 {
                        assert_eq!(client.call(CODE, &[number, call]).unwrap(), [number, call]);
                    }
                });
            }
        });
        server.end();
        let left = || files(dir.path());
        eventually("the regions are gone", || left().is_empty());
    }
}
