//! The futures of the pipelined client, alone and beside calls that block, against a server in another process.
#![cfg(feature = "tokio")]

mod peer;

use futures_core::Stream;
use ginnel_service::{CallError, CallOptions, Response};
use peer::{ECHO, HOLD, ITEMS, KINDS, Kind, LAYOUT_2, NEVER, NOTE, Peer, RELEASE, SLOW};
use peer::{counts, eventually, idempotent, play, size};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

#[test]
fn child() {
    play();
}

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    ]
}

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn futures_are_in_flight_at_once_and_answers_out_of_order_reach_theirs() {
    for kind in KINDS {
        for runtime in runtimes() {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client();
            runtime.block_on(async {
                for len in [0, 100, 5000, 300_000] {
                    assert!(*client.call_async(ECHO, &vec![7; len]).await.unwrap() == vec![7; len]);
                }
                let held: Vec<_> = (0..16)
                    .map(|at| {
                        let client = client.clone();
                        tokio::spawn(async move {
                            let payload = format!("call {at}").into_bytes();
                            assert_eq!(*client.call_async(HOLD, &payload).await.unwrap(), *payload);
                        })
                    })
                    .collect();
                while client.in_flight() < 16 {
                    tokio::task::yield_now().await;
                }
                let mut released = 0;
                while released < 16 {
                    let told = client.call_async(RELEASE, &[]).await.unwrap();
                    released += u32::from_ne_bytes((*told).try_into().unwrap());
                }
                for held in held {
                    held.await.unwrap();
                }
                let items = [b"one".as_slice(), b"two"];
                let answers = client.batch_async(ECHO, items, &CallOptions::default()).await.unwrap();
                assert!(answers.items().eq(items));
            });
            assert_eq!((client.counters().connects, client.counters().errors), (1, 0), "{kind:?}");
        }
    }
}

#[test]
fn threads_that_block_and_futures_share_one_connection() {
    for kind in KINDS {
        for runtime in runtimes() {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client();
            let rounds = size(200, 20_000);
            std::thread::scope(|scope| {
                for thread in 0..4u8 {
                    let client = client.clone();
                    scope.spawn(move || {
                        for round in 0..rounds {
                            let payload = [thread, round as u8, (round >> 8) as u8];
                            assert_eq!(*client.call(ECHO, &payload).unwrap(), payload);
                        }
                    });
                }
                runtime.block_on(async {
                    let tasks: Vec<_> = (4..8u8)
                        .map(|task| {
                            let client = client.clone();
                            tokio::spawn(async move {
                                for round in 0..rounds {
                                    let payload = [task, round as u8, (round >> 8) as u8];
                                    assert_eq!(*client.call_async(ECHO, &payload).await.unwrap(), payload);
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            });
            assert_eq!(counts(&client)[0] as usize, 8 * rounds, "{kind:?}: each was executed once");
            assert_eq!((client.counters().connects, client.counters().errors), (1, 0), "{kind:?}");
        }
    }
}

#[test]
fn a_future_that_is_dropped_takes_its_call_back_and_one_that_races_its_answer_leaves_the_connection_whole() {
    for kind in LAYOUT_2 {
        for runtime in runtimes() {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client();
            runtime.block_on(async {
                client.connect_async(&CallOptions::default()).await.unwrap();
                for round in 0..size(40, 2000) {
                    let mut never = pin!(client.call_async(NEVER, b"".as_slice()));
                    assert!(poll(never.as_mut()).is_pending());
                    if round % 2 == 0 {
                        client.call_async(ECHO, &[]).await.unwrap();
                    }
                }
                // The server has begun some of them, and not others; of each it is told.
                loop {
                    let told = client.call_async(peer::COUNTS, &[]).await.unwrap();
                    let told = |at: usize| u64::from_ne_bytes(told[at * 8..at * 8 + 8].try_into().unwrap());
                    assert!(told(2) <= told(3));
                    if told(2) == told(3) && client.in_flight() == 0 {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                // The answer is on its way, or there, or the call is not even read when it is taken back.
                for round in 0..size(300, 30_000) {
                    let mut call = Box::pin(client.call_async(ECHO, &[1]));
                    assert!(poll(call.as_mut()).is_pending());
                    for _ in 0..round % 5 {
                        tokio::task::yield_now().await;
                    }
                    drop(call);
                    if round % 10 == 0 {
                        assert_eq!(*client.call_async(ECHO, &[2, 3]).await.unwrap(), [2, 3]);
                    }
                }
                let mut calls = 0;
                while client.in_flight() > 0 {
                    let answer = client.call_async(ECHO, &[]).await;
                    assert!(answer.is_ok(), "{kind:?}: after {calls} calls, {} open: {answer:?}", client.in_flight());
                    calls += 1;
                }
            });
            assert_eq!((client.counters().connects, client.counters().reconnects), (1, 0), "{kind:?}");
        }
    }
}

#[test]
fn a_deadline_ends_a_future_also_where_there_is_no_room_or_no_server() {
    for kind in KINDS {
        for runtime in runtimes() {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client_with(|options| {
                options.plain_window = 1;
                options.session.layout_2.as_mut().unwrap().request_window = 1;
            });
            runtime.block_on(async {
                let soon = || CallOptions::at_most(Duration::from_millis(20));
                let hold = client.clone();
                let held = tokio::spawn(async move { hold.call_async(HOLD, &[5]).await });
                while client.in_flight() == 0 {
                    tokio::task::yield_now().await;
                }
                let full = client.call_async_with(ECHO, &[1], &soon()).await.unwrap_err();
                assert!(matches!(full, CallError::TimedOut), "{kind:?}: {full:?}");
                let waits = client.clone();
                let waits = tokio::spawn(async move { waits.call_async(ECHO, &[6]).await });
                let other = peer.client();
                while !held.is_finished() {
                    other.call_async(RELEASE, &[]).await.unwrap();
                }
                assert_eq!(*held.await.unwrap().unwrap(), [5]);
                assert_eq!(*waits.await.unwrap().unwrap(), [6], "{kind:?}");
                let late = client.call_async_with(SLOW, &200u32.to_ne_bytes(), &soon()).await.unwrap_err();
                assert!(matches!(late, CallError::TimedOut), "{kind:?}: {late:?}");
                let absent = ginnel_service::Client::new(&kind.endpoint(dir.path(), 1), kind.options()).unwrap();
                if kind == Kind::Tcp {
                    let options = soon().wait_for_server();
                    let absent = absent.call_async_with(ECHO, &[1], &options).await.unwrap_err();
                    assert!(matches!(absent, CallError::NotReady { .. } | CallError::TimedOut), "{absent:?}");
                }
            });
        }
    }
}

#[test]
fn streams_and_one_way_calls_work_as_futures() {
    for kind in LAYOUT_2 {
        for runtime in runtimes() {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client_with(|options| options.session.layout_2.as_mut().unwrap().stream_window = 4);
            let number = |item: Result<Response, CallError>| u32::from_ne_bytes((*item.unwrap()).try_into().unwrap());
            runtime.block_on(async {
                let options = CallOptions::default();
                let mut items = client.stream_async(ITEMS, &500u32.to_ne_bytes(), &options).await.unwrap();
                for expected in 0..250 {
                    assert_eq!(number(items.next().await.unwrap()), expected);
                    if expected % 50 == 0 {
                        assert_eq!(*client.call_async(ECHO, b"between").await.unwrap(), *b"between");
                    }
                }
                // As a `Stream`, too.
                for expected in 250..500 {
                    let item = std::future::poll_fn(|cx| Pin::new(&mut items).poll_next(cx)).await.unwrap();
                    assert_eq!(number(item), expected);
                }
                assert!(items.next().await.is_none() && items.next().await.is_none());
                for _ in 0..50 {
                    let endless = u32::MAX.to_ne_bytes().to_vec();
                    let mut items = client.stream_async(ITEMS, &endless, &options).await.unwrap();
                    assert_eq!(number(items.next().await.unwrap()), 0);
                }
                for _ in 0..100 {
                    client.send_async(NOTE, &[9; 1000], &options).await.unwrap();
                }
                assert_eq!(client.methods_async(&options).await.unwrap().len(), 9);
                while client.in_flight() > 0 {
                    client.call_async(ECHO, &[]).await.unwrap();
                }
            });
            eventually("all are executed", || counts(&client)[1] == 100);
        }
    }
}

#[test]
fn a_server_that_is_killed_ends_every_future_and_what_is_idempotent_goes_on_with_the_next() {
    for kind in [Kind::Ring, Kind::Seqpacket, Kind::Stream, Kind::Plain] {
        for runtime in runtimes() {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client();
            runtime.block_on(async {
                let waiting: Vec<_> = (0..8)
                    .map(|_| {
                        let client = client.clone();
                        tokio::spawn(async move { client.call_async(NEVER, &[]).await.unwrap_err() })
                    })
                    .collect();
                while client.in_flight() < 8 {
                    tokio::task::yield_now().await;
                }
                peer.kill();
                for call in waiting {
                    let error = call.await.unwrap();
                    assert!(matches!(error, CallError::Lost { .. }), "{kind:?}: {error:?}");
                }
                let next = Peer::start(kind, dir.path());
                let options = idempotent().wait_for_server();
                assert_eq!(*client.call_async_with(ECHO, b"next", &options).await.unwrap(), *b"next");
                drop(next);
            });
        }
    }
}

#[test]
fn a_client_outlives_the_runtime_that_served_it() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        for runtime in runtimes().into_iter().chain(runtimes()) {
            runtime.block_on(async { assert_eq!(*client.call_async(ECHO, b"x").await.unwrap(), *b"x") });
            // With a call in flight that nobody waits for.
            let request = 20u32.to_ne_bytes();
            let mut pending = Box::pin(client.call_async(SLOW, &request));
            runtime.block_on(async { assert!(poll(pending.as_mut()).is_pending()) });
            drop((pending, runtime));
            assert_eq!(*client.call(ECHO, b"blocking").unwrap(), *b"blocking", "{kind:?}");
        }
        assert_eq!(client.counters().connects, 1);
    }
}

/// The answer of a call that was taken back lies in the ring, the bell has rung, and the task has not run since: the
/// next call must not take both away from it.
#[test]
fn an_answer_that_a_call_finds_before_the_task_does_leaves_the_task_awake() {
    for kind in LAYOUT_2 {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        let [current, _] = runtimes();
        current.block_on(async {
            assert_eq!(*client.call_async(ECHO, &[1]).await.unwrap(), [1]);
            for _ in 0..5 {
                let mut call = Box::pin(client.call_async(ECHO, &[2]));
                assert!(poll(call.as_mut()).is_pending());
                drop(call);
                // The runtime's only thread: nothing of it runs meanwhile, and the server answers.
                std::thread::sleep(Duration::from_millis(30));
                assert_eq!(*client.call_async(ECHO, &[3]).await.unwrap(), [3], "{kind:?}");
            }
        });
    }
}
