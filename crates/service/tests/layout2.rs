//! A server and its clients of layout 2, over every carrier that this layout has.

#[path = "common/mod.rs"]
mod common;
#[path = "common/peer.rs"]
mod peer;

use common::{PATIENCE, eventually, let_pass, size};
use ginnel_service::{
    ApplicationError, Context, Deadline, Execution, Failure, Interface, Order, OwnedRequest, Pool, Request, Responder,
    Router, Server, SinkError,
};
use ginnel_session::proto::{Body, Call, Event, Timing};
use ginnel_session::{ConnectError, Connector, Wait};
use ginnel_wire::{Batch, BatchBuilder, Frame, MethodHash, MethodHashes, Reply, Status};
use peer::{Told, WAYS, Way};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const ECHO: u16 = 1;
const HOLD: u16 = 2;
const ITEMS: u16 = 3;
const NOTE: u16 = 4;
const BUSY: u16 = 5;

fn echo(request: &Request<'_>, response: &mut Vec<u8>) -> Result<(), Failure> {
    match request.payload {
        b"!panic" => panic!("told to"),
        b"!application" => {
            let error = ApplicationError::new(42, "no such key").retryable().with_details(*b"key");
            Err(error.into())
        }
        b"!large" => {
            response.resize(request.response_limit + 1, 0);
            Ok(())
        }
        payload => {
            response.extend_from_slice(payload);
            Ok(())
        }
    }
}

/// What a test has in its hands of the calls of HOLD, and the notes of NOTE.
struct Held {
    held: Receiver<(OwnedRequest, Responder)>,
    notes: Receiver<Vec<u8>>,
    /// Says that BUSY has begun; its context.
    busy: Receiver<Context>,
}

fn router() -> (Router, Held) {
    let ((hold, held), (note, notes), (begun, busy)) = (channel(), channel(), channel());
    let begun: Sender<Context> = begun;
    let router = Router::new(Interface { id: 5, schema_hash: 6, name: "test".into() })
        .handler(ECHO, "echo", echo)
        .responder(HOLD, "hold", move |request, responder| hold.send((request, responder)).unwrap())
        .stream(ITEMS, "items", |request, mut sink| match request.payload() {
            b"!panic" => panic!("told to"),
            b"!drop" => {}
            b"!for ever" => while sink.item(vec![7; 100]).is_ok() {},
            count => {
                for item in 0..std::str::from_utf8(count).unwrap().parse().unwrap() {
                    sink.item(vec![item]).unwrap();
                }
                sink.finish();
            }
        })
        .one_way(NOTE, "note", move |request| {
            note.send(request.payload.to_vec()).unwrap();
            Ok(())
        })
        .handler(BUSY, "busy", move |request: &Request<'_>, _: &mut Vec<u8>| -> Result<(), Failure> {
            begun.send(request.context.clone()).unwrap();
            // A handler that works, and looks now and then.
            while request.context.check().is_ok() {
                let_pass(Duration::from_micros(100));
            }
            request.context.check()
        })
        .execution(BUSY, Execution::Executor)
        .hash(ECHO, 11);
    (router, Held { held, notes, busy })
}

fn start(way: Way, dir: &tempfile::TempDir) -> (Server, Held) {
    let (router, held) = router();
    (way.serve(dir.path(), router, |_| ()), held)
}

#[test]
fn calls_of_every_form_are_answered_on_every_carrier() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (server, held) = start(way, &dir);
        let mut peer = way.connect(&server);

        let id = peer.ask(ECHO, b"hello");
        peer.expect(id, Told::Response(b"hello".to_vec()));
        let id = peer.ask(99, b"");
        peer.expect(id, Told::Error(Status::UNSUPPORTED));
        // Larger than a ring, and than a packet.
        let large: Vec<u8> = (0..1 << 20).map(|at: usize| (at * 31) as u8).collect();
        let id = peer.ask(ECHO, &large);
        peer.expect(id, Told::Response(large));

        let id = peer.tell(NOTE, b"noted");
        assert_eq!(held.notes.recv_timeout(PATIENCE).unwrap(), b"noted");
        let after = peer.ask(HOLD, b"later");
        let (request, responder) = held.held.recv_timeout(PATIENCE).unwrap();
        assert_eq!((request.payload(), request.method(), after), (&b"later"[..], HOLD, id + 1));
        let second = peer.ask(ECHO, b"first");
        peer.expect(second, Told::Response(b"first".to_vec()));
        responder.respond(b"at last".to_vec());
        peer.expect(after, Told::Response(b"at last".to_vec()));

        let id = peer.stream(ITEMS, b"3");
        for item in 0..3 {
            peer.expect(id, Told::Item(vec![item]));
        }
        peer.expect(id, Told::End);

        let mut items = BatchBuilder::new(3);
        for item in [&b"a"[..], b"", b"ccc"] {
            items.push(item).unwrap();
        }
        let body = items.finish();
        let id = peer.call(&Call { method: ECHO, batch: Some(3), ..Call::default() }, &body);
        let message = peer.message();
        assert_eq!((message.head().unwrap().id, message.head().unwrap().items), (id, 3));
        let answers = Batch::parse(message.payload(), 3).unwrap();
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"ccc"]);
        server.stop();
    }
}

#[test]
fn a_call_in_another_form_than_the_method_has_is_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    let (server, held) = start(Way::Seqpacket, &dir);
    let mut peer = Way::Seqpacket.connect(&server);
    let id = peer.ask(NOTE, b"");
    peer.expect(id, Told::Error(Status::UNSUPPORTED));
    let id = peer.ask(ITEMS, b"1");
    peer.expect(id, Told::Error(Status::UNSUPPORTED));
    let id = peer.stream(ECHO, b"");
    peer.expect(id, Told::Error(Status::UNSUPPORTED));
    // Nobody is told.
    peer.tell(ECHO, b"");
    let id = peer.ask(ECHO, b"on");
    peer.expect(id, Told::Response(b"on".to_vec()));
    drop(held);
}

#[test]
fn a_failure_reaches_the_client_whole_and_costs_its_call_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (server, held) = start(Way::Ring, &dir);
    let mut peer = Way::Ring.connect(&server);
    let asked = peer.ask(ECHO, b"!application");
    let message = peer.message();
    match Frame::decode(message.head().unwrap(), message.payload()).unwrap() {
        Frame::Error { head, status, failure: Some(failure) } => {
            assert_eq!((head.id, status), (asked, Status::APPLICATION));
            assert_eq!(
                (failure.code, failure.message, failure.retryable, failure.details),
                (42, "no such key", true, &b"key"[..])
            );
        }
        other => panic!("{other:?}"),
    }
    for (body, status) in [(&b"!panic"[..], Status::INTERNAL_ERROR), (b"!large", Status::LIMIT_EXCEEDED)] {
        let id = peer.ask(ECHO, body);
        peer.expect(id, Told::Error(status));
    }
    let id = peer.ask(HOLD, b"");
    drop(held.held.recv_timeout(PATIENCE).unwrap());
    peer.expect(id, Told::Error(Status::ABORTED));
    for (body, status) in [(&b"!panic"[..], Status::INTERNAL_ERROR), (b"!drop", Status::ABORTED)] {
        let id = peer.stream(ITEMS, body);
        peer.expect(id, Told::Error(status));
    }
    let id = peer.ask(ECHO, b"on");
    peer.expect(id, Told::Response(b"on".to_vec()));
}

#[test]
fn methods_are_told_with_form_and_hash() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _held) = start(Way::Stream, &dir);
    let mut peer = Way::Stream.connect(&server);
    assert_eq!(peer.connection.layout_2().map(|ack| (ack.interface_id, ack.schema_hash)), Some((5, 6)));
    for (asked, told) in [
        (&[ECHO, ITEMS, 77][..], vec![(ECHO, Reply::One, 11), (ITEMS, Reply::Stream, 0)]),
        (
            &[],
            vec![
                (ECHO, Reply::One, 11),
                (HOLD, Reply::One, 0),
                (ITEMS, Reply::Stream, 0),
                (NOTE, Reply::None, 0),
                (BUSY, Reply::One, 0),
            ],
        ),
    ] {
        let id = peer.connection.ask_methods(Instant::now(), asked).unwrap();
        peer.flush();
        let message = peer.message();
        let head = message.head().unwrap();
        assert_eq!(head.id, id);
        let hashes = MethodHashes::parse(message.payload(), head.items).unwrap();
        let hashes = hashes.iter().map(|MethodHash { method, reply, hash }| (method, reply, hash));
        assert_eq!(hashes.collect::<Vec<_>>(), told);
    }
}

/// Sixteen calls on eight threads; each lets the one before it complete, so that they complete in reverse.
struct Reverse {
    next: Mutex<Vec<u8>>,
    changed: Condvar,
}

impl Reverse {
    fn order() -> Vec<u8> {
        (0..8).rev().chain((8..16).rev()).collect()
    }

    fn take_turn(&self, request: &OwnedRequest, responder: Responder) {
        let own = request.payload()[0];
        let mut next = self.next.lock().unwrap();
        while next.last() != Some(&own) {
            let (back, timeout) = self.changed.wait_timeout(next, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "the calls do not run at the same time");
            next = back;
        }
        next.pop();
        responder.respond(vec![own]);
        self.changed.notify_all();
    }
}

#[test]
fn sixteen_calls_complete_in_reverse_on_eight_threads_and_are_answered_as_they_complete_or_as_they_were_asked() {
    for way in WAYS {
        for order in [Order::Completion, Order::Fifo] {
            let dir = tempfile::tempdir().unwrap();
            let reverse = Arc::new(Reverse { next: Mutex::default(), changed: Condvar::new() });
            let of_server = Arc::clone(&reverse);
            let router = Router::new(Interface::named("reverse"))
                .responder(1, "reverse", move |request, responder| of_server.take_turn(&request, responder))
                .execution(1, Execution::Executor);
            let server = way.serve(dir.path(), router, |options| {
                options.order = order;
                options.executor = Some(Arc::new(Pool::with(NonZeroUsize::new(8).unwrap(), 64)));
            });
            let mut peer = way.connect(&server);
            for _ in 0..size(30, 10_000) {
                *reverse.next.lock().unwrap() = Reverse::order().into_iter().rev().collect();
                let ids: Vec<u64> = (0..16).map(|call| peer.ask(1, &[call])).collect();
                let expected: Vec<u8> = if order == Order::Fifo { (0..16).collect() } else { Reverse::order() };
                for call in expected {
                    peer.expect(ids[usize::from(call)], Told::Response(vec![call]));
                }
            }
        }
    }
}

/// How long after `from` something was seen, for whoever looks at the output.
fn say(what: &str, mut took: Vec<Duration>) {
    took.sort();
    println!("{what}: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
}

#[test]
fn cancel_deadline_and_hang_up_reach_a_running_handler() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (server, held) = start(way, &dir);
        let mut peer = way.connect(&server);
        // The moment at which the context said so.
        let watch = |context: &Context| {
            let (said, told) = channel();
            context.on_unwanted(move || said.send(Instant::now()).unwrap());
            told
        };
        let (mut cancelled, mut late) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            let id = peer.ask(BUSY, b"");
            let context = held.busy.recv_timeout(PATIENCE).unwrap();
            let told = watch(&context);
            let sent = Instant::now();
            peer.cancel(id);
            cancelled.push(told.recv_timeout(PATIENCE).unwrap() - sent);
            assert_eq!(context.check(), Err(Failure::Cancelled));

            let id = peer.ask_within(HOLD, b"", Duration::from_millis(20));
            let (request, _kept) = held.held.recv_timeout(PATIENCE).unwrap();
            let context = request.context();
            let told = watch(context).recv_timeout(PATIENCE).unwrap();
            late.push(told - context.deadline().instant().unwrap());
            assert_eq!(context.check(), Err(Failure::DeadlineExceeded));
            peer.expect(id, Told::Error(Status::DEADLINE_EXCEEDED));
        }
        say(&format!("{way:?}, cancelled"), cancelled);
        say(&format!("{way:?}, out of time"), late);
        peer.ask(BUSY, b"");
        let context = held.busy.recv_timeout(PATIENCE).unwrap();
        let told = watch(&context);
        let gone = Instant::now();
        drop(peer);
        say(&format!("{way:?}, gone"), vec![told.recv_timeout(PATIENCE).unwrap() - gone]);
        assert_eq!(context.check(), Err(Failure::Cancelled));
    }
}

#[test]
fn queued_work_is_not_begun_when_it_is_cancelled_out_of_time_or_its_client_is_gone() {
    for way in [Way::Ring, Way::Seqpacket] {
        let dir = tempfile::tempdir().unwrap();
        let (router, held) = router();
        let server = way.serve(dir.path(), router, |options| {
            options.executor = Some(Arc::new(Pool::with(NonZeroUsize::MIN, 64)));
        });
        let mut other = way.connect(&server);
        let mut peer = way.connect(&server);
        let running = other.ask(BUSY, b"");
        held.busy.recv_timeout(PATIENCE).unwrap();
        // The only thread is taken: what follows waits.
        let cancelled = peer.ask(BUSY, b"cancelled");
        let late = peer.ask_within(BUSY, b"late", Duration::from_millis(5));
        peer.cancel(cancelled);
        // Cancelled calls are told no more, and leave the window all the same.
        peer.expect(late, Told::Error(Status::DEADLINE_EXCEEDED));
        eventually("the cancelled call is answered", || {
            assert!(peer.try_event().is_none());
            peer.connection.in_flight() == 0
        });
        peer.ask(BUSY, b"gone");
        eventually("all have come", || server.counters().requests == 4);
        drop(peer);
        eventually("the client is gone", || server.counters().active == 1);
        other.cancel(running);
        let last = other.ask(HOLD, b"");
        // It stands behind all of them.
        let (_, responder) = held.held.recv_timeout(PATIENCE).unwrap();
        responder.respond(Vec::new());
        other.expect(last, Told::Response(Vec::new()));
        assert!(held.busy.try_recv().is_err(), "a call was begun that nobody waits for");
    }
}

#[test]
fn one_whose_time_is_over_when_it_comes_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (server, held) = start(Way::Seqpacket, &dir);
    let mut peer = Way::Seqpacket.connect(&server);
    let id = peer.ask_within(HOLD, b"", Duration::ZERO);
    peer.expect(id, Told::Error(Status::DEADLINE_EXCEEDED));
    assert!(held.held.try_recv().is_err());
}

#[test]
fn a_cancel_that_races_with_the_answer_leaves_one_answer() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (server, held) = start(way, &dir);
        let mut peer = way.connect(&server);
        std::thread::scope(|scope| {
            let held = held.held;
            scope.spawn(move || {
                while let Ok((_, responder)) = held.recv() {
                    responder.respond(b"done".to_vec());
                }
            });
            for round in 0..size(300, 100_000) {
                let id = peer.ask(HOLD, b"");
                if round % 3 == 0 {
                    std::thread::yield_now();
                }
                // Told by the peer's state machine, which takes no second answer, nor one of a call that is over.
                peer.connection.cancel(Instant::now(), id);
                peer.flush();
                while peer.connection.in_flight() > 0 {
                    assert!(peer.try_event().is_none(), "a cancelled call is told");
                    peer.carrier.arm();
                }
            }
            server.stop();
        });
    }
}

#[test]
fn handlers_of_cancelled_calls_that_run_on_are_not_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let (router, held) = router();
    let server = Way::Seqpacket.serve(dir.path(), router, |options| options.window = 2);
    let mut peer = Way::Seqpacket.connect(&server);
    let mut responders = Vec::new();
    for _ in 0..4 {
        let id = peer.ask(HOLD, b"");
        responders.push(held.held.recv_timeout(PATIENCE).unwrap());
        peer.cancel(id);
        eventually("it is answered", || {
            assert!(peer.try_event().is_none());
            peer.connection.in_flight() == 0
        });
    }
    let id = peer.ask(HOLD, b"");
    peer.expect(id, Told::Error(Status::UNAVAILABLE));
    responders.pop();
    eventually("there is room again", || {
        let id = peer.ask(ECHO, b"");
        peer.told() == (id, Told::Response(Vec::new()))
    });
}

#[test]
fn a_stream_goes_on_as_its_client_allows_and_ends_when_it_is_cancelled() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (over, overs) = channel();
        let router = Router::new(Interface::named("stream")).stream(1, "count", move |_, mut sink| {
            for item in 0u32.. {
                if let Err(error) = sink.item(item.to_ne_bytes().to_vec()) {
                    over.send((item, error)).unwrap();
                    return;
                }
            }
        });
        let server = way.serve(dir.path(), router, |_| ());
        let mut peer = way.connect_with(server.endpoint(), |config| {
            config.layout_2.as_mut().unwrap().stream_window = 4;
        });
        let id = peer.stream(1, b"");
        for item in 0..4u32 {
            peer.expect(id, Told::Item(item.to_ne_bytes().to_vec()));
        }
        peer.grant(id, 2);
        for item in 4..6u32 {
            peer.expect(id, Told::Item(item.to_ne_bytes().to_vec()));
        }
        let_pass(Duration::from_millis(20));
        assert!(peer.try_event().is_none(), "more than was allowed");
        peer.cancel(id);
        assert_eq!(overs.recv_timeout(PATIENCE).unwrap(), (6, SinkError::Over(Failure::Cancelled)));
        // The same if the client leaves.
        peer.stream(1, b"");
        peer.message();
        drop(peer);
        let (_, error) = overs.recv_timeout(PATIENCE).unwrap();
        assert_eq!(error, SinkError::Over(Failure::Cancelled));
    }
}

#[test]
fn a_stream_whose_client_does_not_read_holds_little_and_nobody_else() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (sent, items) = channel();
        let router = Router::new(Interface::named("stream"))
            .stream(1, "large", move |_, mut sink| {
                while sink.item(vec![1; 100_000]).is_ok() {
                    sent.send(()).unwrap();
                }
            })
            .handler(ECHO + 1, "echo", echo);
        let server = way.serve(dir.path(), router, |options| {
            options.session.layout_2.as_mut().unwrap().stream_window = 10_000;
        });
        let mut peer = way.connect_with(server.endpoint(), |config| {
            config.layout_2.as_mut().unwrap().stream_window = 10_000;
        });
        let mut other = way.connect(&server);
        let id = peer.stream(1, b"");
        items.recv_timeout(PATIENCE).unwrap();
        // Another one is served meanwhile, and the stream comes to a halt.
        let mut count = 1;
        eventually("it stands still", || {
            let id = other.ask(ECHO + 1, b"x");
            other.expect(id, Told::Response(b"x".to_vec()));
            let_pass(Duration::from_millis(20));
            let before = count;
            count += items.try_iter().count();
            count == before
        });
        println!("{way:?}: {count} items are under way");
        assert!(count * 100_000 < 20 << 20, "{way:?}: {count} items are under way");
        for _ in 0..2 * count {
            peer.expect(id, Told::Item(vec![1; 100_000]));
        }
    }
}

#[test]
fn a_drain_says_so_and_answers_what_was_begun() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (server, held) = start(way, &dir);
        let (mut idle, mut peer) = (way.connect(&server), way.connect(&server));
        let id = peer.ask(HOLD, b"");
        let (_, responder) = held.held.recv_timeout(PATIENCE).unwrap();
        let drain = std::thread::spawn(move || server.drain(PATIENCE));
        match idle.event() {
            Event::GoAway { last_id: 0, drain: Some(drain) } => assert!(drain <= PATIENCE),
            other => panic!("{other:?}"),
        }
        idle.ended();
        match peer.event() {
            Event::GoAway { last_id, .. } => assert_eq!(last_id, id),
            other => panic!("{other:?}"),
        }
        responder.respond(b"in time".to_vec());
        peer.expect(id, Told::Response(b"in time".to_vec()));
        peer.ended();
        assert_eq!(drain.join().unwrap().cut_off, 0);
    }
}

#[test]
fn a_drain_that_takes_too_long_tells_the_handlers_and_cuts_the_rest_off() {
    let dir = tempfile::tempdir().unwrap();
    let (server, held) = start(Way::Ring, &dir);
    let mut peer = Way::Ring.connect(&server);
    let busy = peer.ask(BUSY, b"");
    held.busy.recv_timeout(PATIENCE).unwrap();
    peer.ask(HOLD, b"");
    let kept = held.held.recv_timeout(PATIENCE).unwrap();
    let drained = server.drain(Duration::from_millis(50));
    assert_eq!((drained.cut_off, drained.stuck), (1, 1));
    assert!(matches!(peer.event(), Event::GoAway { .. }));
    peer.expect(busy, Told::Error(Status::CANCELLED));
    peer.ended();
    assert_eq!(kept.1.context().check(), Err(Failure::Cancelled));
    // Nobody is there any more to hear it.
    kept.1.respond(Vec::new());
}

#[test]
fn a_client_beyond_the_budget_waits_and_is_not_taken_for_silent() {
    for way in [Way::Ring, Way::Stream, Way::Tcp] {
        let dir = tempfile::tempdir().unwrap();
        let (router, held) = router();
        let server = way.serve(dir.path(), router, |options| {
            options.request_budget = 10_000;
            options.session.message_timeout = Duration::from_millis(300);
        });
        let (mut holder, mut peer) = (way.connect(&server), way.connect(&server));
        // A part of a message is read.
        let call = Call { method: ECHO, ..Call::default() };
        let id = peer.connection.call(Instant::now(), &call, Body::Owned(vec![3; 500_000])).unwrap();
        peer.send_part(10_000);
        for _ in 0..2 {
            let id = holder.ask(ECHO, b"x");
            holder.expect(id, Told::Response(b"x".to_vec()));
        }
        let last = holder.ask(HOLD, &[0; 20_000]);
        let (request, responder) = held.held.recv_timeout(PATIENCE).unwrap();
        // What follows stays where it is.
        peer.send_part(10_000);
        // Longer than a client may be silent in a message.
        let over = Deadline::after(Duration::from_millis(900));
        while !over.passed() {
            assert_eq!(server.counters().active, 2, "{way:?}: it was dismissed");
            let_pass(Duration::from_millis(10));
        }
        drop(request);
        responder.respond(Vec::new());
        holder.expect(last, Told::Response(Vec::new()));
        peer.flush();
        peer.expect(id, Told::Response(vec![3; 500_000]));
    }
}

#[test]
fn credit_is_heard_although_the_budget_is_used_up() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let router = Router::new(Interface::named("stream")).stream(1, "keep", |request, mut sink| {
            // It holds its request until the stream is over.
            for item in 0..10 {
                sink.item(vec![item; 10]).unwrap();
            }
            drop(request);
            sink.finish();
        });
        let server = way.serve(dir.path(), router, |options| options.request_budget = 1);
        let mut peer = way.connect_with(server.endpoint(), |config| {
            config.layout_2.as_mut().unwrap().stream_window = 1;
        });
        let id = peer.stream(1, &[0; 1000]);
        for item in 0..10 {
            peer.expect(id, Told::Item(vec![item; 10]));
            if item < 9 {
                peer.grant(id, 1);
            }
        }
        peer.expect(id, Told::End);
    }
}

#[test]
fn several_reactors_share_the_sessions_and_end_together() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let threads: Arc<Mutex<std::collections::HashSet<std::thread::ThreadId>>> = Arc::default();
        let seen = Arc::clone(&threads);
        let where_it_runs = move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            seen.lock().unwrap().insert(std::thread::current().id());
            response.extend_from_slice(request.payload);
            Ok(())
        };
        let (hold, held) = channel();
        let router = Router::new(Interface::named("shared"))
            .handler(ECHO, "echo", where_it_runs)
            .execution(ECHO, Execution::Inline)
            .responder(HOLD, "hold", move |request: OwnedRequest, responder| hold.send((request, responder)).unwrap());
        let server = way.serve(dir.path(), router, |options| {
            options.reactors = 3;
            options.max_sessions = 6;
            options.idle_timeout = PATIENCE;
        });
        let mut peers: Vec<_> = (0..6).map(|_| way.connect(&server)).collect();
        assert_eq!(server.counters().active, 6);
        std::thread::scope(|scope| {
            for peer in &mut peers {
                scope.spawn(|| {
                    for round in 0..size(100, 10_000) {
                        let id = peer.ask(ECHO, &round.to_ne_bytes());
                        peer.expect(id, Told::Response(round.to_ne_bytes().to_vec()));
                    }
                });
            }
        });
        assert_eq!(threads.lock().unwrap().len(), 3);
        // Each has a call open when the server drains.
        let ids: Vec<u64> = peers.iter_mut().map(|peer| peer.ask(HOLD, b"")).collect();
        let responders: Vec<_> = ids.iter().map(|_| held.recv_timeout(PATIENCE).unwrap()).collect();
        drop(peers.pop());
        eventually("one is gone", || server.counters().active == 5);
        let drain = std::thread::spawn(move || server.drain(PATIENCE));
        for peer in &mut peers {
            assert!(matches!(peer.event(), Event::GoAway { .. }));
        }
        responders.into_iter().for_each(|(_, responder)| responder.respond(b"last".to_vec()));
        for (peer, id) in peers.iter_mut().zip(ids) {
            peer.expect(id, Told::Response(b"last".to_vec()));
            peer.ended();
        }
        assert_eq!(drain.join().unwrap().cut_off, 0);
    }
}

#[test]
fn a_flood_of_calls_that_nobody_is_answered_for_stays_within_the_budget() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (go, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let router = Router::new(Interface::named("flood"))
            .one_way(NOTE, "note", move |_| {
                // Until the test lets all of them go.
                let _ = wait.lock().unwrap().recv();
                Ok(())
            })
            .execution(NOTE, Execution::Executor);
        let server = way.serve(dir.path(), router, |options| options.request_budget = 100_000);
        let mut peer = way.connect(&server);
        let call = Call { method: NOTE, reply: Reply::None, ..Call::default() };
        let mut sent = 0;
        let mut still = Instant::now();
        while still.elapsed() < Duration::from_millis(50) {
            if peer.connection.call(Instant::now(), &call, Body::Owned(vec![1; 1000])).is_ok() {
                sent += 1;
            }
            if peer.flush_some() {
                still = Instant::now();
            }
        }
        let begun = server.counters().requests;
        assert!((10..200).contains(&begun), "{way:?}: {begun} of {sent} were taken");
        drop(go);
        eventually("all are taken", || {
            peer.flush_some();
            server.counters().requests == sent
        });
    }
}

#[test]
fn a_client_of_layout_2_teaches_its_limits_counts_and_finds_a_full_server_full() {
    let dir = tempfile::tempdir().unwrap();
    let (router, _held) = router();
    let server = Way::Ring.serve(dir.path(), router, |options| {
        options.session.max_request_payload = 0;
        options.session.max_response_payload = 0;
        options.max_sessions = 1;
        options.idle_timeout = PATIENCE;
    });
    let mut peer = Way::Ring.connect(&server);
    let large = vec![1; 1 << 20];
    let id = peer.ask(NOTE + 100, &large);
    peer.expect(id, Told::Error(Status::UNSUPPORTED));
    let connector = Connector::new(server.endpoint().clone(), Way::Ring.client());
    let refused = connector.connect(&Wait::at_most(PATIENCE), Timing::default()).unwrap_err();
    assert!(matches!(refused, ConnectError::Refused2 { .. }), "{refused}");
    let counters = server.counters();
    assert_eq!((counters.sessions, counters.active, counters.refused), (1, 1, 1));
    drop(peer);
    eventually("its place is free", || server.counters().active == 0);
    drop(Way::Ring.connect(&server));
}
