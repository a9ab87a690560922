//! The pipelined client when its server is late, killed, stopped, restarted, leaving, or hostile.

mod peer;

use ginnel_base::Deadline;
use ginnel_service::{CallError, CallOptions, Client, ClientOptions, State};
use ginnel_session::proto::{Event, Input, Pool, Timing};
use ginnel_session::{Endpoint, Listener, Parts, ServerConfig, ServerLayout2, SessionError};
use ginnel_wire::{FrameKind, Head, Profiles, Reply};
use peer::{ECHO, HOLD, ITEMS, KINDS, Kind, LAYOUT_2, NEVER, PATIENCE, Peer, SLOW};
use peer::{counts, eventually, idempotent, play, size};
use rustix::process::Signal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn child() {
    play();
}

#[test]
fn an_absent_server_is_told_at_once_and_a_late_one_is_found_or_waited_for() {
    for kind in [Kind::Ring, Kind::Stream, Kind::Plain] {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&kind.endpoint(dir.path(), 0), kind.options()).unwrap();
        for _ in 0..3 {
            let absent = client.call(ECHO, b"x").unwrap_err();
            assert!(matches!(absent, CallError::NotReady { state: State::NotFound, source: Some(_) }), "{absent:?}");
            assert!(absent.is_retryable());
        }
        assert_eq!(client.state(), State::NotFound);
        let options = CallOptions::at_most(Duration::from_millis(50)).wait_for_server();
        let absent = client.call_with(ECHO, b"x", &options).unwrap_err();
        assert!(matches!(absent, CallError::NotReady { .. }), "{absent:?}");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| client.call_with(ECHO, b"x", &CallOptions::default().wait_for_server()));
            let _peer = Peer::start(kind, dir.path());
            assert_eq!(*waits.join().unwrap().unwrap(), *b"x", "{kind:?}");
            assert_eq!((client.state(), client.last_error().is_none()), (State::Ready, true));
        });
    }
}

#[test]
fn a_wrong_token_is_told_and_not_asked_again_at_every_call() {
    for kind in [Kind::Ring, Kind::Plain] {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client_with(|options| options.session.token = 8);
        for _ in 0..100 {
            let refused = client.call(ECHO, b"x").unwrap_err();
            assert!(matches!(refused, CallError::NotReady { state: State::AuthFailed, .. }), "{refused:?}");
        }
        assert_eq!(client.counters().errors, 100);
    }
}

/// Ends the load when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_server_that_is_killed_ends_every_waiting_call_at_once_and_its_successor_is_found() {
    for kind in [Kind::Ring, Kind::Seqpacket, Kind::Stream, Kind::Plain] {
        for _ in 0..size(3, 200) {
            let dir = tempfile::tempdir().unwrap();
            let peer = Peer::start(kind, dir.path());
            let client = peer.client();
            client.connect().unwrap();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| client.call(NEVER, b"").unwrap_err())).collect();
                let loads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            while !over.load(Ordering::Relaxed) {
                                match client.call(ECHO, &[7; 500]) {
                                    Ok(answer) => assert_eq!(*answer, [7; 500]),
                                    Err(CallError::Lost { .. } | CallError::NotReady { .. }) => {}
                                    Err(other) => panic!("{other:?}"),
                                }
                            }
                        })
                    })
                    .collect();
                // Also when an assertion fails.
                let _over = Over(&over);
                // Asked by another client, because a server of layout 1 answers in order.
                let other = peer.client();
                eventually("all wait", || counts(&other)[3] == 8);
                peer.kill();
                let begin = Instant::now();
                for caller in waiting {
                    let error = caller.join().unwrap();
                    assert!(matches!(error, CallError::Lost { .. }), "{kind:?}: {error:?}");
                }
                assert!(begin.elapsed() < PATIENCE / 3, "{kind:?}: noticed after {:?}", begin.elapsed());
                over.store(true, Ordering::Relaxed);
                loads.into_iter().for_each(|load| load.join().unwrap());
            });
            let _next = Peer::start(kind, dir.path());
            let options = CallOptions::default().wait_for_server();
            assert_eq!(*client.call_with(ECHO, b"next", &options).unwrap(), *b"next");
        }
    }
}

#[test]
fn what_is_idempotent_survives_a_restart_and_nothing_else_is_executed_twice() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let first = Peer::start(kind, dir.path());
        let port = first.endpoint.tcp_address().map_or(0, |address| address.port());
        let client = first.client();
        std::thread::scope(|scope| {
            let safe = scope.spawn(|| client.call_with(HOLD, b"safe", &idempotent()));
            let once = scope.spawn(|| client.call(HOLD, b"once").unwrap_err());
            eventually("both are held", || client.in_flight() == 2);
            first.kill();
            let second = Peer::start_at(kind, dir.path(), port);
            assert!(matches!(once.join().unwrap(), CallError::Lost { .. }));
            // It is sent again to the second one, which holds it until it is told.
            let other = second.client();
            let released = || {
                let told = other.call_with(peer::RELEASE, b"", &idempotent()).unwrap();
                u32::from_ne_bytes((*told).try_into().unwrap())
            };
            eventually("it is held again, and alone", || match released() {
                0 => safe.is_finished(),
                held => {
                    assert_eq!(held, 1, "{kind:?}");
                    true
                }
            });
            match safe.join().unwrap() {
                Ok(answer) => assert_eq!(*answer, *b"safe"),
                // The successor was not there within the time that a lost call looks for one.
                Err(error) => assert!(matches!(error, CallError::NotReady { .. }), "{kind:?}: {error:?}"),
            }
            assert_eq!(client.counters().retries, 1, "{kind:?}");
        });
    }
}

#[test]
fn a_restart_between_two_calls_is_seen_by_neither() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let first = Peer::start(kind, dir.path());
        let port = first.endpoint.tcp_address().map_or(0, |address| address.port());
        let client = first.client();
        assert_eq!(*client.call(ECHO, b"x").unwrap(), *b"x");
        first.kill();
        let _second = Peer::start_at(kind, dir.path(), port);
        assert_eq!(*client.call(ECHO, b"y").unwrap(), *b"y", "{kind:?}");
        assert_eq!((client.counters().reconnects, client.counters().retries), (1, 0));
    }
}

#[test]
fn a_stopped_server_costs_calls_their_deadline_and_nothing_else() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        client.connect().unwrap();
        peer.signal(Signal::STOP);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|at| {
                    let client = &client;
                    scope.spawn(move || {
                        let options = CallOptions::at_most(Duration::from_millis(20 + at * 10));
                        // More than any carrier holds, so that some wait to be sent.
                        client.call_with(ECHO, &vec![1; 400_000], &options).unwrap_err()
                    })
                })
                .collect();
            for caller in callers {
                let error = caller.join().unwrap();
                assert!(matches!(error, CallError::TimedOut | CallError::NotReady { .. }), "{kind:?}: {error:?}");
            }
        });
        peer.signal(Signal::CONT);
        let options = idempotent().wait_for_server();
        assert_eq!(*client.call_with(ECHO, b"awake", &options).unwrap(), *b"awake", "{kind:?}");
    }
}

#[test]
fn a_server_that_leaves_answers_what_it_has_begun_and_its_successor_gets_the_rest() {
    for kind in LAYOUT_2 {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Peer::start(kind, dir.path());
        let port = first.endpoint.tcp_address().map_or(0, |address| address.port());
        let client = first.client();
        client.connect().unwrap();
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| client.call(SLOW, &300u32.to_ne_bytes()).map(|answer| answer.to_vec()));
            eventually("it is in flight", || client.in_flight() == 1);
            let begun = counts(&first.client())[3];
            assert_eq!(begun, 0);
            first.begin_end();
            assert_eq!(slow.join().unwrap().unwrap(), 300u32.to_ne_bytes(), "{kind:?}");
        });
        first.wait();
        let _second = Peer::start_at(kind, dir.path(), port);
        assert_eq!(*client.call(ECHO, b"x").unwrap(), *b"x", "{kind:?}");
    }
}

// ---- servers whose bytes the tests write ----

const WINDOW: u32 = 2;

struct Script {
    parts: Parts,
    pool: Pool,
}

impl Script {
    fn listen(dir: &Path, ring: bool) -> Listener {
        let supported = if ring { Profiles::BASELINE | Profiles::RING } else { Profiles::BASELINE };
        let layout_2 = ServerLayout2 { stream_window: WINDOW, ..Default::default() };
        let config = ServerConfig {
            supported,
            max_request_payload: 1 << 20,
            max_response_payload: 1 << 16,
            layout_2: Some(layout_2),
            ..Default::default()
        };
        Listener::bind(&Endpoint::seqpacket(dir, "svc").unwrap(), config).unwrap()
    }

    /// A session up to its first request.
    fn accept(listener: &Listener) -> (Self, Head) {
        let mut incoming = listener.accept(&ginnel_session::Wait::at_most(PATIENCE)).unwrap();
        let deadline = Deadline::after(PATIENCE);
        while !incoming.try_receive_hello().unwrap() {
            assert!(!deadline.passed());
            std::thread::yield_now();
        }
        let parts = incoming.into_parts(Timing::default(), Instant::now()).unwrap();
        let mut script = Self { parts, pool: Pool::new(1 << 20) };
        let head = script.request();
        (script, head)
    }

    /// The next request.
    fn request(&mut self) -> Head {
        let deadline = Deadline::after(PATIENCE);
        loop {
            assert!(!deadline.passed(), "no request");
            let Parts { connection, carrier, .. } = &mut self.parts;
            while let Some(transmit) = connection.poll_transmit(&[]) {
                match carrier.try_send(transmit.head, transmit.body).unwrap() {
                    Some(len) => connection.transmitted(Instant::now(), len, &mut self.pool),
                    None => break,
                }
            }
            if let Some(event) = connection.poll_event(&mut self.pool) {
                if let Event::Message(message) = event {
                    return *message.head().unwrap();
                }
                continue;
            }
            if connection.wants_input() {
                let due = carrier.due();
                match carrier.try_recv(connection.space(due, &mut self.pool)) {
                    Ok(Some(len)) => connection.handle(Instant::now(), Input::Received(len)),
                    Ok(None) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn say(&mut self, head: &Head, payload: &[u8]) {
        let bytes = Head { payload_len: payload.len() as u32, ..*head }.encode();
        self.say_bytes(&[&bytes[..], payload].concat());
    }

    fn say_bytes(&mut self, bytes: &[u8]) {
        while self.parts.carrier.try_send(bytes, &[]).unwrap().is_none() {
            std::thread::yield_now();
        }
    }

    /// Waits until the client has hung up.
    fn ended(mut self) {
        let deadline = Deadline::after(PATIENCE);
        let mut space = [0; 1 << 16];
        loop {
            match self.parts.carrier.try_recv(&mut space) {
                Err(SessionError::Closed) => return,
                Ok(_) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
            assert!(!deadline.passed(), "the client keeps a connection whose server breaks the protocol");
        }
    }
}

fn head(request: &Head, kind: FrameKind) -> Head {
    Head { kind, batch: false, items: 1, payload_len: 0, ..*request }
}

fn scripted(ring: bool) -> ClientOptions {
    let mut options = ClientOptions::default();
    if !ring {
        options.session.supported = Profiles::BASELINE;
    }
    options
}

#[test]
fn a_server_that_breaks_the_protocol_loses_its_connection_and_every_call_ends_once() {
    type Frames = fn(&Head) -> Vec<(Head, Vec<u8>)>;
    let scripts: [(&str, Frames); 8] = [
        ("an unknown id", |request| vec![(Head { id: 99, ..head(request, FrameKind::Response) }, vec![])]),
        ("an item of no stream", |request| vec![(head(request, FrameKind::Item), vec![])]),
        ("an end of no stream", |request| vec![(head(request, FrameKind::End), vec![])]),
        ("methods that nobody asked for", |request| {
            vec![(Head { items: 0, method: 0, ..head(request, FrameKind::MethodsAck) }, vec![])]
        }),
        ("a request", |request| vec![(head(request, FrameKind::Request(Reply::One)), vec![0; 8])]),
        ("more than was agreed", |request| vec![(head(request, FrameKind::Response), vec![0; (1 << 16) + 1])]),
        ("a batch of one", |request| vec![(Head { batch: true, ..head(request, FrameKind::Response) }, vec![0; 8])]),
        ("a GOAWAY that is raised", |request| {
            let goaway = Head { method: 0, ..head(request, FrameKind::GoAway) };
            vec![(goaway, vec![0; 8]), (Head { id: request.id + 1, ..goaway }, vec![0; 8])]
        }),
    ];
    for ring in [true, false] {
        for (name, frames) in scripts {
            let dir = tempfile::tempdir().unwrap();
            let listener = Script::listen(dir.path(), ring);
            let client = Client::new(listener.endpoint(), scripted(ring)).unwrap();
            std::thread::scope(|scope| {
                let server = scope.spawn(|| {
                    let (mut script, request) = Script::accept(&listener);
                    for (head, payload) in frames(&request) {
                        script.say(&head, &payload);
                    }
                    script.ended();
                    // An honest one, for the call after it.
                    let (mut script, request) = Script::accept(&listener);
                    script.say(&head(&request, FrameKind::Response), b"honest");
                    script
                });
                let error = client.call(ECHO, b"x").unwrap_err();
                assert!(matches!(error, CallError::Lost { .. }), "{name}: {error:?}");
                assert_eq!(*client.call(ECHO, b"x").unwrap(), *b"honest", "{name}");
                drop(server.join().unwrap());
            });
            assert_eq!(client.counters().retries, 0);
        }
    }
}

#[test]
fn a_second_answer_reaches_nobody_and_items_beyond_credit_end_the_stream() {
    for ring in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let listener = Script::listen(dir.path(), ring);
        let client = Client::new(listener.endpoint(), scripted(ring)).unwrap();
        let said = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut script, request) = Script::accept(&listener);
                script.say(&head(&request, FrameKind::Response), b"first");
                script.say(&head(&request, FrameKind::Response), b"second");
                let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script.request()));
                drop((next, script));
                let (mut script, request) = Script::accept(&listener);
                for item in 0..=WINDOW as u8 {
                    script.say(&head(&request, FrameKind::Item), &[item]);
                }
                said.store(true, Ordering::Release);
                script.ended();
            });
            assert_eq!(*client.call(ECHO, b"x").unwrap(), *b"first");
            // It cannot be told whether the server would have executed this.
            let second = client.call(ECHO, b"y");
            assert!(matches!(second, Err(CallError::Lost { .. })), "{second:?}");
            let items = client.stream(ITEMS, b"", &CallOptions::default()).unwrap();
            eventually("all items are there", || said.load(Ordering::Acquire));
            // Whoever drives finds it out, also while nobody reads the stream.
            let other = client.call(ECHO, b"z").unwrap_err();
            assert!(matches!(other, CallError::Lost { .. }), "{other:?}");
            let items: Vec<_> = items.collect();
            assert!(items.len() == WINDOW as usize + 1 && items[..WINDOW as usize].iter().all(Result::is_ok));
            assert!(matches!(items.last(), Some(Err(CallError::Lost { .. }))), "{items:?}");
            server.join().unwrap();
        });
    }
}

#[test]
fn calls_that_a_leaving_server_has_not_begun_go_to_the_next_one_although_they_are_not_idempotent() {
    for ring in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let listener = Script::listen(dir.path(), ring);
        let client = Client::new(listener.endpoint(), scripted(ring)).unwrap();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let (mut script, first) = Script::accept(&listener);
                let second = script.request();
                let goaway = Head { method: 0, id: first.id, ..head(&first, FrameKind::GoAway) };
                script.say(&goaway, &[0; 8]);
                // The next session while the first call still runs here: it is not waited for.
                let (mut next, again) = Script::accept(&listener);
                assert_eq!((again.id, again.payload_len), (1, second.payload_len));
                next.say(&head(&again, FrameKind::Response), b"second");
                script.say(&head(&first, FrameKind::Response), b"first");
                next
            });
            let first = scope.spawn(|| client.call(ECHO, b"1").unwrap().to_vec());
            eventually("the first is in flight", || client.in_flight() == 1);
            assert_eq!(*client.call(ECHO, b"22").unwrap(), *b"second");
            assert_eq!(first.join().unwrap(), b"first");
            drop(server.join().unwrap());
        });
        assert_eq!((client.counters().retries, client.counters().reconnects), (0, 1));
    }
}

#[test]
fn a_forked_child_leaves_its_parents_connection_alone() {
    for kind in [Kind::Ring, Kind::Seqpacket, Kind::Plain] {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(kind, dir.path());
        let client = peer.client();
        assert_eq!(*client.call(ECHO, b"before").unwrap(), *b"before");
        // SAFETY: the child asks the client, which takes no lock there, drops it, and leaves.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "fork");
        if child == 0 {
            let told = matches!(client.call(ECHO, b"child"), Err(CallError::Forked));
            client.close();
            drop(client);
            // SAFETY: ends this process without running what the parent registered.
            unsafe { libc::_exit(if told { 7 } else { 8 }) }
        }
        let mut status = 0;
        // SAFETY: the process is a child of this one; `status` is valid for the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 7, "{kind:?}");
        assert_eq!(*client.call(ECHO, b"after").unwrap(), *b"after", "{kind:?}");
        assert_eq!(client.counters().reconnects, 0, "{kind:?}");
    }
}
