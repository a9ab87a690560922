//! Clients and servers in one process: calls, batches, pipelines, failures, fullness, drain and stop.

mod common;

use common::{CARRIERS, CODE, Carrier, PATIENCE, await_state, echo, eventually, files, ready, soon};
use ginnel_service::{BaselineClient, BaselineError, Drained, Failure, Request, Server, State};
use ginnel_wire::Status;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn start(carrier: Carrier, dir: &tempfile::TempDir) -> Server {
    Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, echo).unwrap()
}

#[test]
fn calls_batches_and_pipelines_work_over_every_carrier() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir);
        let mut client = ready(server.endpoint(), carrier.client());
        assert_eq!(client.call(CODE, b"").unwrap(), b"");
        assert_eq!(client.call(CODE, b"hello").unwrap(), b"hello");

        for count in [0_usize, 1, 2, 50] {
            let items: Vec<Vec<u8>> = (0..count).map(|item| vec![item as u8; item % 13]).collect();
            let reply = client.call_batch(CODE, items.iter().map(Vec::as_slice), soon()).unwrap();
            assert_eq!(reply.len(), count);
            assert!(items.iter().enumerate().all(|(index, item)| reply.get(index) == Some(item)), "{carrier:?}");
        }

        let payloads: Vec<Vec<u8>> = (0..500_u32).map(|item| item.to_ne_bytes().to_vec()).collect();
        let borrowed: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let mut answered = vec![0; 500];
        client
            .pipeline(CODE, &borrowed, 16, soon(), |index, response| {
                assert_eq!(response.unwrap(), payloads[index]);
                answered[index] += 1;
            })
            .unwrap();
        assert!(answered.iter().all(|count| *count == 1));
        assert_eq!(server.counters().failures, 0);
    }
}

#[test]
fn a_wrong_method_is_told_and_the_session_stays() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir);
        let mut client = ready(server.endpoint(), carrier.client());
        assert!(matches!(client.call(CODE + 1, b"x"), Err(BaselineError::Status(Status::UNSUPPORTED))));
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        assert_eq!((server.counters().sessions, client.counters().reconnects), (1, 0));
    }
}

#[test]
fn a_panic_or_a_failure_costs_its_request_and_no_more() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir);
        let mut client = ready(server.endpoint(), carrier.client());
        for bad in [&b"!panic"[..], b"!fail"] {
            assert!(matches!(client.call(CODE, bad), Err(BaselineError::Status(Status::INTERNAL_ERROR))));
            assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        }
        let items = [&b"fine"[..], b"!panic"];
        let refused = client.call_batch(CODE, items, soon());
        assert!(matches!(refused, Err(BaselineError::Status(Status::INTERNAL_ERROR))));
        assert_eq!((server.counters().sessions, server.counters().failures), (1, 3));
    }
}

#[test]
fn a_malformed_request_is_told_and_its_session_ends() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir);
        let mut client = ready(server.endpoint(), carrier.client());
        assert!(matches!(client.call(CODE, b"!malformed"), Err(BaselineError::Status(Status::BAD_ENVELOPE))));
        eventually("the session has ended", || server.counters().active == 0);
        // The next call finds it closed, and another one in its place.
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        assert_eq!((server.counters().sessions, client.counters().retries), (2, 1));
    }
}

#[test]
fn a_full_server_refuses_in_the_handshake_and_takes_the_client_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.max_sessions = 2;
    let server = Server::start(&Carrier::Seqpacket.endpoint(dir.path(), 0), options, CODE, echo).unwrap();
    let first = ready(server.endpoint(), Carrier::Seqpacket.client());
    let mut second = ready(server.endpoint(), Carrier::Seqpacket.client());
    let mut third = BaselineClient::new(server.endpoint(), Carrier::Seqpacket.client()).unwrap();
    assert_eq!(third.refresh(), State::Disconnected);
    assert!(matches!(third.call(CODE, b"x"), Err(BaselineError::NotReady(State::Disconnected))));
    assert_eq!(second.call(CODE, b"x").unwrap(), b"x");
    drop(first);
    await_state(&mut third, State::Ready);
    assert_eq!(third.call(CODE, b"x").unwrap(), b"x");
}

#[test]
fn a_call_ends_at_its_deadline_and_the_client_recovers() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let hold = move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            if request.payload == b"hold" {
                let _ = held.lock().unwrap().recv();
            }
            response.extend_from_slice(request.payload);
            Ok(())
        };
        let server = Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, hold).unwrap();
        let mut client = ready(server.endpoint(), carrier.client());
        let begin = Instant::now();
        let late = client.call_until(CODE, b"hold", begin + Duration::from_millis(30));
        assert!(matches!(late, Err(BaselineError::TimedOut)), "{late:?}");
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert_eq!((client.state(), client.counters().retries), (State::Broken, 0));
        assert!(matches!(client.call(CODE, b"x"), Err(BaselineError::NotReady(State::Broken))));
        assert_eq!(client.refresh(), State::Ready);
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        assert_eq!((client.counters().connects, client.counters().reconnects), (1, 1));
        drop(release);
    }
}

#[test]
fn an_abort_ends_a_call_from_another_thread() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (entered, inside) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let (entered, held) = (std::sync::Mutex::new(entered), std::sync::Mutex::new(held));
        let hold = move |_: &Request<'_>, _: &mut Vec<u8>| -> Result<(), Failure> {
            entered.lock().unwrap().send(()).unwrap();
            let _ = held.lock().unwrap().recv();
            Ok(())
        };
        let server = Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, hold).unwrap();
        let mut client = ready(server.endpoint(), carrier.client());
        let abort = client.abort_handle();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                inside.recv_timeout(PATIENCE).unwrap();
                abort.raise();
            });
            let ended = client.call_until(CODE, b"x", soon() + PATIENCE);
            assert!(matches!(ended, Err(BaselineError::Aborted)), "{ended:?}");
        });
        assert_eq!(client.state(), State::Broken);
        // It stays raised until it is cleared.
        assert_eq!(client.refresh(), State::Disconnected);
        client.close();
        assert_eq!(client.refresh(), State::Ready);
        drop(release);
    }
}

#[test]
fn an_abort_between_calls_is_forgotten_when_cleared_and_no_request_is_executed_twice() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir);
        let mut client = ready(server.endpoint(), carrier.client());
        assert_eq!(client.call(CODE, b"one").unwrap(), b"one");
        let abort = client.abort_handle();
        abort.raise();
        let aborted = client.call(CODE, b"never");
        assert!(matches!(aborted, Err(BaselineError::Aborted)), "{carrier:?}: {aborted:?}");
        let aborted = client.pipeline(CODE, &[b"never"], 1, soon(), |_, _| {});
        assert!(matches!(aborted, Err(BaselineError::NotReady(State::Broken))), "{carrier:?}: {aborted:?}");
        abort.clear();
        assert_eq!(client.refresh(), State::Ready);
        abort.raise();
        abort.clear();
        assert_eq!(client.call(CODE, b"two").unwrap(), b"two", "{carrier:?}");
        assert_eq!(server.counters().requests, 2, "{carrier:?}");
    }
}

#[test]
fn stop_ends_idle_sessions_at_once_and_frees_the_name() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir);
        let mut clients: Vec<BaselineClient> = (0..5).map(|_| ready(server.endpoint(), carrier.client())).collect();
        eventually("all sessions are up", || server.counters().active == 5);
        server.stop();
        assert_eq!(files(dir.path()), [""; 0], "{carrier:?}");
        for client in &mut clients {
            assert!(!client.refresh().is_ready(), "a refresh notices that the server has gone");
        }
    }
}

#[test]
fn drain_finishes_what_runs_refuses_what_comes_and_says_what_it_cut_off() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (entered, inside) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let (entered, held) = (std::sync::Mutex::new(entered), std::sync::Mutex::new(held));
        let hold = move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            entered.lock().unwrap().send(()).unwrap();
            let _ = held.lock().unwrap().recv();
            response.extend_from_slice(request.payload);
            Ok(())
        };
        let server = Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, hold).unwrap();
        let endpoint = server.endpoint().clone();
        let mut client = ready(&endpoint, carrier.client());
        let idle = ready(&endpoint, carrier.client());
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.call(CODE, b"finished").map(<[u8]>::to_vec));
            inside.recv_timeout(PATIENCE).unwrap();
            let draining = scope.spawn(|| server.drain(PATIENCE));
            eventually("the name is free", || {
                BaselineClient::new(&endpoint, carrier.client()).unwrap().refresh() == State::NotFound
            });
            assert!(!draining.is_finished(), "a request still runs");
            release.send(()).unwrap();
            assert_eq!(call.join().unwrap().unwrap(), b"finished");
            assert_eq!(draining.join().unwrap(), Drained { cut_off: 0, stuck: 0 });
        });
        drop(idle);
    }
}

#[test]
fn a_handler_that_hangs_cannot_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Carrier::Seqpacket, &dir);
    let mut client = ready(server.endpoint(), Carrier::Seqpacket.client());
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.call(CODE, b"!hang").map(<[u8]>::to_vec));
        eventually("the handler runs", || server.counters().requests == 1);
        assert_eq!(server.drain(Duration::from_millis(20)), Drained { cut_off: 1, stuck: 1 });
        // The client is hung up on, although the handler's thread lives on.
        assert!(matches!(call.join().unwrap(), Err(BaselineError::Connect(_))));
    });
}

#[test]
fn a_client_that_is_refused_makes_no_region_of_the_others_larger() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Carrier::Shm.endpoint(dir.path(), 0);
    let server = Server::start(&endpoint, Carrier::Shm.server(), CODE, echo).unwrap();
    let region = || {
        let name = files(dir.path()).into_iter().find(|name| name.ends_with(".ipcshm")).expect("a region");
        std::fs::metadata(dir.path().join(name)).unwrap().len()
    };
    let large = || {
        let mut options = Carrier::Shm.client();
        options.session.request.max_payload = 1 << 20;
        options
    };
    let mut wrong = large();
    wrong.session.token = 8;
    assert_eq!(BaselineClient::new(&endpoint, wrong).unwrap().refresh(), State::AuthFailed);
    let client = ready(&endpoint, Carrier::Shm.client());
    assert!(region() < 1 << 20, "{}", region());
    drop(client);
    eventually("the session ends", || server.counters().active == 0);
    // Who is accepted does.
    let client = ready(&endpoint, large());
    assert!(region() > 1 << 20, "{}", region());
    drop(client);
    server.stop();
}
