//! The pipelined client against a server in another process, on every carrier and in both layouts.

mod peer;

use ginnel_base::Deadline;
use ginnel_service::{CallError, CallOptions, State};
use peer::{COUNTS, ECHO, FAIL, HOLD, ITEMS, KINDS, Kind, LAYOUT_2, NEVER, NOTE, PATIENCE, Peer, RELEASE, SLOW};
use peer::{counts, eventually, play, size};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn child() {
    play();
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect()
}

#[test]
fn requests_of_every_size_come_back_on_every_carrier_and_from_a_server_of_layout_1() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        assert_eq!(client.state(), State::Disconnected);
        for len in [0, 1, 100, 1000, 5000, 65_536, 300_000, 1 << 20] {
            let payload = pattern(len, len);
            assert!(*client.call(ECHO, &payload).unwrap() == payload, "{kind:?}: {len} bytes came back changed");
        }
        assert_eq!((client.state(), client.layout_2().is_some()), (State::Ready, kind != Kind::Plain));
        let ring = client.agreement().unwrap().profile == ginnel_wire::Profiles::RING;
        assert_eq!(ring, kind == Kind::Ring);
        let too_large = client.call(ECHO, &vec![0; (1 << 20) + 1]);
        assert!(matches!(too_large, Err(CallError::RequestTooLarge { .. })), "{kind:?}: {too_large:?}");
        assert_eq!(*client.call(ECHO, b"still here").unwrap(), *b"still here");
        assert_eq!(client.counters().retries, 0);
    }
}

#[test]
fn calls_of_many_threads_are_in_flight_at_once_and_answers_out_of_order_reach_their_callers() {
    const CALLERS: usize = 16;
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        client.connect().unwrap();
        for round in 0..size(3, 100) {
            std::thread::scope(|scope| {
                let callers: Vec<_> = (0..CALLERS)
                    .map(|caller| {
                        let client = client.clone();
                        scope.spawn(move || {
                            let payload = format!("{round} {caller}");
                            assert_eq!(*client.call(HOLD, payload.as_bytes()).unwrap(), *payload.as_bytes());
                        })
                    })
                    .collect();
                // All are held at the same time, so none waited for another's answer.
                let mut released = 0;
                eventually("all are in flight", || {
                    let in_flight = client.in_flight();
                    assert!(in_flight <= CALLERS);
                    in_flight == CALLERS
                });
                while released < CALLERS {
                    let told = client.call(RELEASE, b"").unwrap();
                    released += u32::from_ne_bytes((*told).try_into().unwrap()) as usize;
                }
                callers.into_iter().for_each(|caller| caller.join().unwrap());
            });
        }
        let counters = client.counters();
        assert_eq!((counters.connects, counters.reconnects, counters.errors), (1, 0, 0), "{kind:?}: one connection");
    }
}

#[test]
fn sixty_four_threads_share_a_client_and_each_gets_its_own_answers() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        let answered = AtomicUsize::new(0);
        let rounds = size(50, 5000);
        std::thread::scope(|scope| {
            for thread in 0..64 {
                let (client, answered) = (client.clone(), &answered);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let payload = pattern(round % 300, thread * 1000 + round);
                        assert!(*client.call(ECHO, &payload).unwrap() == payload);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(answered.into_inner(), 64 * rounds);
        let [echoes, ..] = counts(&client);
        assert_eq!(echoes as usize, 64 * rounds, "{kind:?}: each was executed once");
        assert_eq!(client.in_flight(), 0);
    }
}

#[test]
fn a_full_window_is_waited_for_or_told() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client_with(|options| {
            options.plain_window = 2;
            options.session.layout_2.as_mut().unwrap().request_window = 2;
        });
        client.connect().unwrap();
        std::thread::scope(|scope| {
            let held: Vec<_> = (0..2).map(|_| scope.spawn(|| client.call(HOLD, b"x").map(|_| ()))).collect();
            eventually("the window is full", || client.in_flight() == 2);
            let full = client.try_call(ECHO, b"x", &CallOptions::default());
            assert!(matches!(full, Err(CallError::WouldBlock { in_flight: 2 })), "{full:?}");
            let late = client.call_with(ECHO, b"x", &CallOptions::at_most(Duration::from_millis(20)));
            assert!(matches!(late, Err(CallError::TimedOut)), "{late:?}");
            // One waits until there is room; another client makes it.
            let waits = scope.spawn(|| client.call(ECHO, b"patient").unwrap().to_vec());
            let other = peer.client();
            eventually("both are held", || {
                let told = other.call(RELEASE, b"").unwrap();
                u32::from_ne_bytes((*told).try_into().unwrap()) > 0 && client.in_flight() == 0 || waits.is_finished()
            });
            assert_eq!(waits.join().unwrap(), b"patient");
            eventually("all are released", || {
                other.call(RELEASE, b"").unwrap();
                held.iter().all(std::thread::ScopedJoinHandle::is_finished)
            });
        });
    }
}

#[test]
fn errors_of_the_service_are_told_with_all_they_say() {
    for kind in LAYOUT_2 {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        match client.call(FAIL, b"details").unwrap_err() {
            CallError::Application { code, message, retryable, details } => {
                assert_eq!((code, &*message, retryable, &*details), (42, "as you wish", true, &b"details"[..]));
            }
            other => panic!("{other}"),
        }
        let unknown = client.call(999, b"").unwrap_err();
        assert!(matches!(unknown, CallError::Status { .. }), "{unknown}");
        let not_a_stream = client.call(ITEMS, &1u32.to_ne_bytes());
        assert!(matches!(not_a_stream, Err(CallError::Status { .. })), "{not_a_stream:?}");
        let methods = client.methods(&CallOptions::default()).unwrap();
        let known = [ECHO, HOLD, RELEASE, ITEMS, FAIL, NEVER, COUNTS, NOTE, SLOW];
        assert_eq!(methods.iter().map(|method| method.method).collect::<Vec<_>>(), known);
        assert_eq!(methods[0].hash, 11);
    }
}

#[test]
fn a_server_of_layout_1_is_told_apart_by_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(Kind::Plain, dir.path());
    let (client, options) = (peer.client(), CallOptions::default());
    let unsupported = [
        client.send(NOTE, b"", &options).unwrap_err(),
        client.stream(ITEMS, &1u32.to_ne_bytes(), &options).unwrap_err(),
        client.methods(&options).unwrap_err(),
    ];
    for error in unsupported {
        assert!(matches!(error, CallError::Unsupported { .. }), "{error}");
    }
    assert_eq!(*client.call(ECHO, b"x").unwrap(), *b"x");
}

#[test]
fn batches_are_answered_item_by_item() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        for count in [1, 2, 100] {
            let items: Vec<Vec<u8>> = (0..count).map(|at| pattern(at % 50, at)).collect();
            let options = CallOptions::default();
            let answer = client.batch(ECHO, items.iter().map(Vec::as_slice), &options).unwrap();
            assert!(answer.items().eq(items.iter().map(Vec::as_slice)), "{kind:?}: {count} items");
        }
        let too_many = client.batch(ECHO, vec![&b""[..]; 100_000], &CallOptions::default());
        assert!(matches!(too_many, Err(CallError::TooManyItems { items: 100_000, .. })), "{kind:?}: {too_many:?}");
    }
}

#[test]
fn one_way_calls_are_all_executed_and_hold_no_window() {
    for kind in LAYOUT_2 {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client_with(|options| options.session.layout_2.as_mut().unwrap().request_window = 1);
        let payload = pattern(9000, 1);
        for _ in 0..500 {
            client.send(NOTE, &payload, &CallOptions::default()).unwrap();
        }
        // Nobody waits for them any more, and they arrive all the same.
        let other = peer.client();
        eventually("all are executed", || counts(&other)[1] == 500);
        assert_eq!(client.in_flight(), 0);
    }
}

#[test]
fn streams_come_whole_and_one_that_is_not_read_holds_up_nothing_else() {
    for kind in LAYOUT_2 {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client_with(|options| options.session.layout_2.as_mut().unwrap().stream_window = 8);
        let stream = |items: u32| client.stream(ITEMS, &items.to_ne_bytes(), &CallOptions::default()).unwrap();
        let number = |item: Result<ginnel_service::Response, CallError>| {
            u32::from_ne_bytes((*item.unwrap()).try_into().unwrap())
        };
        assert_eq!(stream(0).count(), 0);
        assert!(stream(1000).map(number).eq(0..1000), "{kind:?}");
        let mut half = stream(1000);
        assert_eq!(number(half.next().unwrap()), 0);
        for _ in 0..200 {
            assert_eq!(*client.call(ECHO, b"between").unwrap(), *b"between");
        }
        assert!(half.map(number).eq(1..1000), "{kind:?}: the rest is not lost");
        // Taken back in its middle: the window is free again.
        for _ in 0..200 {
            let mut dropped = stream(u32::MAX);
            assert_eq!(number(dropped.next().unwrap()), 0);
        }
        eventually("all are over", || {
            client.call(ECHO, b"x").unwrap();
            client.in_flight() == 0
        });
    }
}

#[test]
fn several_streams_and_calls_from_several_threads_share_the_connection() {
    for kind in LAYOUT_2 {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let items = client.stream(ITEMS, &500u32.to_ne_bytes(), &CallOptions::default()).unwrap();
                    let items: Vec<u32> =
                        items.map(|item| u32::from_ne_bytes((*item.unwrap()).try_into().unwrap())).collect();
                    assert!(items.into_iter().eq(0..500));
                });
                scope.spawn(|| {
                    for _ in 0..100 {
                        assert_eq!(*client.call(ECHO, b"x").unwrap(), *b"x");
                    }
                });
            }
        });
        assert_eq!(client.counters().connects, 1);
    }
}

#[test]
fn a_deadline_ends_a_call_here_and_at_the_server_and_its_answer_finds_nobody() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        let begin = Instant::now();
        let late = client.call_with(NEVER, b"", &CallOptions::at_most(Duration::from_millis(30)));
        assert!(matches!(late, Err(CallError::TimedOut)), "{kind:?}: {late:?}");
        assert!(begin.elapsed() >= Duration::from_millis(30));
        // Answers that come after their deadline are nobody's, and the next ones are whole.
        for _ in 0..5 {
            let late = client.call_with(SLOW, &20u32.to_ne_bytes(), &CallOptions::at_most(Duration::from_millis(5)));
            // On a busy machine the answer may be there before the caller gets to give up.
            let fits =
                late.as_ref().map_or_else(|error| matches!(error, CallError::TimedOut), |answer| answer[0] == 20);
            assert!(fits, "{kind:?}: {late:?}");
            assert_eq!(*client.call(ECHO, b"mine").unwrap(), *b"mine");
        }
        if kind != Kind::Plain {
            // On a busy machine its time may be over before it is begun.
            eventually("the server has stopped it", || {
                let [_, _, unwanted, begun] = counts(&client);
                unwanted == begun
            });
            eventually("nothing is in flight", || client.in_flight() == 0 || client.call(ECHO, b"").is_err());
        }
        let over = client.call_with(ECHO, b"x", &CallOptions::until(Deadline::after(Duration::ZERO)));
        assert!(matches!(over, Err(CallError::TimedOut)), "{kind:?}: {over:?}");
        // A server of layout 1 answers in order: there, a call that is given up costs its connection.
        assert_eq!(client.counters().reconnects > 0, kind == Kind::Plain);
    }
}

#[test]
fn a_close_ends_the_calls_in_flight_and_the_next_call_connects_again() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        client.connect().unwrap();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4).map(|_| scope.spawn(|| client.call(NEVER, b"").unwrap_err())).collect();
            eventually("all are in flight", || client.in_flight() == 4);
            let begin = Instant::now();
            client.close();
            for caller in callers {
                let error = caller.join().unwrap();
                assert!(matches!(error, CallError::Closed), "{error}");
            }
            assert!(begin.elapsed() < PATIENCE / 3);
        });
        assert_eq!((client.state(), client.in_flight()), (State::Disconnected, 0));
        assert_eq!(*client.call(ECHO, b"again").unwrap(), *b"again");
    }
}
