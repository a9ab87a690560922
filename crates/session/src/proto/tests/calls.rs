//! Layout 2 in memory: every race of calls, credit, cancellation and leaving, with virtual time.

use super::*;
use crate::error::{ProtocolError, SessionError};
use ginnel_base::Deadline;
use ginnel_wire::{BatchBuilder, Failure, Features, Frame, FrameKind, Head, Hello2, Reply};

const WINDOW: u32 = 3;
const CREDIT: u32 = 2;

fn hello_2(packet: u32) -> Hello2 {
    Hello2 {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: LIMIT,
        max_request_items: 4,
        max_response_payload: LIMIT,
        max_response_items: 4,
        auth_token: 7,
        packet_size: packet,
        features: Features::ALL,
        required: Features::NONE,
        interface_id: 0,
        schema_hash: 0,
        request_window: WINDOW,
        stream_window: CREDIT,
        request_ring: 0,
        response_ring: 0,
    }
}

fn offer_2(packet: u32) -> Offer2 {
    Offer2 {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: LIMIT,
        max_response_payload: LIMIT,
        max_response_items: 4,
        token: 7,
        packet_size: packet,
        features: Features::ALL,
        interface_id: 0,
        schema_hash: 0,
        request_window: 64,
        stream_window: 64,
        ring: 4096,
        min_ring: 4096,
        max_ring: 4096,
        session_id: 5,
        refuse: None,
    }
}

fn pair_with(packet: Option<u32>, features: Features, timing: Timing) -> Pair {
    let (packets, size) = (packet.is_some(), packet.unwrap_or(4096));
    let mut pair = Pair::fresh(packets, size, timing);
    let hello = Hello2 { features, ..hello_2(size) };
    pair.client = Side::new(Connection::client_2(hello, 0, packets, timing, pair.now));
    pair.client.write(pair.now, &mut pair.up);
    pair.server.read(pair.now, &mut pair.up);
    assert!(matches!(pair.server.told.remove(0), Event::Greeted));
    let Some(Verdict2::Accept(ack)) = pair.server.connection.judge_2(&offer_2(size)) else { panic!("refused") };
    pair.server.connection.accept_2(&ack, pair.now);
    pair.server.write(pair.now, &mut pair.down);
    pair.read_both();
    for side in [&mut pair.server, &mut pair.client] {
        assert!(matches!(side.told.remove(0), Event::Established2(granted) if granted == ack));
        assert_eq!(side.connection.layout_2(), Some(&ack));
    }
    pair
}

fn pair() -> Pair {
    pair_with(Some(4096), Features::ALL, Timing::default())
}

fn call(pair: &mut Pair, reply: Reply, body: &[u8]) -> Result<u64, SessionError> {
    let call = Call { method: 9, reply, batch: None, timeout: None };
    let id = pair.client.connection.call(pair.now, &call, Body::Owned(body.to_vec()))?;
    pair.client.write(pair.now, &mut pair.up);
    Ok(id)
}

/// The server reads; the request that came.
fn request(pair: &mut Pair) -> Received {
    pair.server.read(pair.now, &mut pair.up);
    pair.server.message()
}

fn deliver(pair: &mut Pair) {
    pair.server.write(pair.now, &mut pair.down);
    pair.client.write(pair.now, &mut pair.up);
    pair.read_both();
}

fn respond(pair: &mut Pair, id: u64, body: &[u8]) {
    pair.server.connection.respond(pair.now, id, Body::Owned(body.to_vec())).unwrap();
}

fn head(message: &Received) -> Head {
    *message.head().unwrap()
}

#[test]
fn bodies_of_every_length_arrive_in_every_framing_with_their_deadline() {
    for packet in [Some(33), Some(40), Some(41), Some(128), Some(4096), None] {
        let mut pair = pair_with(packet, Features::ALL, Timing::default());
        pair.up.piece = 7;
        for len in (0..70).chain([500, 999, 1000]) {
            let timeout = (len % 2 == 0).then(|| Duration::from_millis(1 + len as u64));
            let asked = Call { method: 3, timeout, ..Call::default() };
            let sent = pattern(len, len);
            let id = pair.client.connection.call(pair.now, &asked, Body::Owned(sent.clone())).unwrap();
            pair.client.write(pair.now, &mut pair.up);
            let message = request(&mut pair);
            assert_eq!((message.payload(), head(&message).method, head(&message).id), (&sent[..], 3, id));
            assert_eq!(message.envelope.payload_len as usize, len);
            let due = timeout.map_or(Deadline::NEVER, |timeout| Deadline::from(pair.now, timeout));
            assert_eq!(message.deadline(), due);
            respond(&mut pair, id, &sent);
            deliver(&mut pair);
            let answer = pair.client.message();
            assert_eq!((answer.payload(), head(&answer).kind), (&sent[..], FrameKind::Response));
        }
        assert_eq!((pair.client.connection.in_flight(), pair.server.connection.in_flight()), (0, 0));
    }
}

#[test]
fn the_window_holds_at_the_client_and_a_client_that_exceeds_it_is_closed() {
    let mut pair = pair();
    let ids: Vec<_> = (0..WINDOW).map(|_| call(&mut pair, Reply::One, b"").unwrap()).collect();
    assert!(matches!(call(&mut pair, Reply::One, b""), Err(SessionError::Full { in_flight: 3, .. })));
    call(&mut pair, Reply::None, b"one-way counts not").unwrap();
    pair.read_both();
    assert_eq!(pair.server.told.len(), 4);
    pair.server.told.clear();
    // Answers in any order; each makes room at once.
    for id in ids.into_iter().rev() {
        respond(&mut pair, id, b"");
        deliver(&mut pair);
        pair.client.message();
        call(&mut pair, Reply::One, b"").unwrap();
    }
    pair.read_both();
    pair.server.told.clear();
    let head = Head::request(1, 100, Reply::One, 0).unwrap();
    pair.up.put(&head.encode_request(0));
    pair.read_both();
    assert_eq!(pair.server.end(), End::Protocol(ProtocolError::Window { id: 100, window: WINDOW }));
}

#[test]
fn an_id_that_is_not_above_those_before_it_ends_the_session() {
    for id in [1, 2] {
        let mut pair = pair();
        for _ in 0..2 {
            call(&mut pair, Reply::One, b"").unwrap();
        }
        pair.read_both();
        pair.server.told.clear();
        pair.up.put(&Head::request(1, id, Reply::One, 0).unwrap().encode_request(0));
        pair.read_both();
        assert_eq!(pair.server.end(), End::Protocol(ProtocolError::Id { id, last: 2 }));
    }
}

#[test]
fn an_answer_to_an_unknown_call_ends_the_session_and_so_does_a_second_one_or_the_wrong_one() {
    let said = |frames: &[Head]| {
        let mut pair = pair();
        call(&mut pair, Reply::One, b"").unwrap();
        call(&mut pair, Reply::None, b"").unwrap();
        frames.iter().for_each(|head| pair.down.put(&head.encode()));
        pair.client.read(pair.now, &mut pair.down);
        match pair.client.told.pop() {
            Some(Event::Ended(End::Protocol(error))) => error,
            other => panic!("{other:?}"),
        }
    };
    let to = |id, kind| Head { kind, method: 9, batch: false, items: 1, id, payload_len: 0 };
    assert_eq!(said(&[to(3, FrameKind::Response)]), ProtocolError::UnknownId { id: 3 });
    assert_eq!(said(&[to(2, FrameKind::Response)]), ProtocolError::UnknownId { id: 2 });
    assert_eq!(said(&[to(1, FrameKind::Response); 2]), ProtocolError::UnknownId { id: 1 });
    for kind in [FrameKind::Item, FrameKind::End] {
        assert_eq!(said(&[to(1, kind)]), ProtocolError::Answer { frame: kind.name(), id: 1 });
    }
    assert_eq!(said(&[to(1, FrameKind::Cancel)]), ProtocolError::Side { frame: "CANCEL" });
}

#[test]
fn a_cancel_that_crosses_the_answer_is_ignored_and_the_answer_is_dropped() {
    let mut pair = pair();
    let id = call(&mut pair, Reply::One, b"").unwrap();
    request(&mut pair);
    respond(&mut pair, id, b"late");
    pair.server.write(pair.now, &mut pair.down);
    assert!(pair.client.connection.cancel(pair.now, id));
    assert!(!pair.client.connection.cancel(pair.now, id), "only once");
    assert_eq!(pair.client.connection.in_flight(), 1, "in the window until its answer");
    deliver(&mut pair);
    assert!(pair.client.told.is_empty() && pair.server.told.is_empty(), "{:?}", pair.server.told);
    assert_eq!((pair.client.connection.in_flight(), pair.server.connection.in_flight()), (0, 0));
}

#[test]
fn a_cancel_before_the_answer_is_told_and_answered_once() {
    let mut pair = pair();
    let id = call(&mut pair, Reply::One, b"").unwrap();
    request(&mut pair);
    pair.client.connection.cancel(pair.now, id);
    deliver(&mut pair);
    assert!(matches!(pair.server.told.remove(0), Event::Cancelled { id: told } if told == id));
    pair.server.connection.fail(pair.now, id, Status::CANCELLED, None).unwrap();
    let again = pair.server.connection.respond(pair.now, id, Body::Owned(Vec::new()));
    assert!(matches!(again, Err(SessionError::NoCall { id: told }) if told == id));
    deliver(&mut pair);
    assert!(pair.client.told.is_empty());
    assert_eq!((pair.client.connection.in_flight(), pair.server.connection.in_flight()), (0, 0));
}

#[test]
fn a_server_that_never_answers_what_was_given_up_is_found_out_in_time() {
    let timing = Timing { unanswered: Some(Duration::from_secs(5)), ..Timing::default() };
    let mut pair = pair_with(None, Features::ALL, timing);
    let [first, second] = [(); 2].map(|()| call(&mut pair, Reply::One, b"").unwrap());
    pair.read_both();
    assert_eq!(pair.client.connection.poll_timeout(), Deadline::NEVER);
    pair.client.connection.give_up(pair.now, first);
    pair.pass(Duration::from_secs(4));
    respond(&mut pair, first, b"");
    deliver(&mut pair);
    assert_eq!(pair.client.connection.poll_timeout(), Deadline::NEVER);
    pair.client.connection.give_up(pair.now, second);
    pair.pass(Duration::from_secs(4));
    assert!(pair.client.told.is_empty());
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.client.end(), End::Silent(Silence::Unanswered));
}

#[test]
fn a_stream_never_has_more_items_in_flight_than_its_credit() {
    let mut pair = pair();
    let id = call(&mut pair, Reply::Stream, b"").unwrap();
    request(&mut pair);
    let item = |pair: &mut Pair| pair.server.connection.item(pair.now, id, None, Body::Owned(b"item".to_vec()));
    (0..CREDIT).for_each(|_| item(&mut pair).unwrap());
    assert!(matches!(item(&mut pair), Err(SessionError::NoCredit { credit: 0, .. })));
    deliver(&mut pair);
    (0..CREDIT).for_each(|_| assert_eq!(pair.client.message().payload(), b"item"));
    assert!(pair.client.connection.grant(pair.now, id, 1));
    deliver(&mut pair);
    assert!(matches!(pair.server.told.remove(0), Event::Credit { items: 1, .. }));
    assert_eq!(pair.server.connection.credit(id), 1);
    item(&mut pair).unwrap();
    pair.server.connection.end_stream(pair.now, id).unwrap();
    // Credit that crosses the end says nothing.
    pair.client.connection.grant(pair.now, id, 5);
    deliver(&mut pair);
    assert_eq!(head(&pair.client.message()).kind, FrameKind::Item);
    assert_eq!(head(&pair.client.message()).kind, FrameKind::End);
    assert!(pair.server.told.is_empty() && !pair.client.connection.grant(pair.now, id, 1));
}

#[test]
fn items_beyond_the_credit_and_credit_beyond_all_counting_end_the_session() {
    let mut pair = pair();
    let id = call(&mut pair, Reply::Stream, b"").unwrap();
    request(&mut pair);
    let item = Head { kind: FrameKind::Item, method: 9, batch: false, items: 1, id, payload_len: 0 };
    (0..=CREDIT).for_each(|_| pair.down.put(&item.encode()));
    pair.read_both();
    assert!(matches!(pair.client.told.pop(), Some(Event::Ended(End::Protocol(ProtocolError::Credit { .. })))));
    pair.up.put(&Frame::Credit { id, items: u32::MAX - CREDIT }.encode());
    pair.read_both();
    assert!(matches!(pair.server.told.remove(0), Event::Credit { .. }));
    pair.up.put(&Frame::Credit { id, items: 1 }.encode());
    pair.read_both();
    assert_eq!(pair.server.end(), End::Protocol(ProtocolError::Credit { id }));
}

#[test]
fn a_server_that_leaves_answers_what_it_took_and_drops_what_crosses() {
    let mut pair = pair();
    let taken = call(&mut pair, Reply::One, b"").unwrap();
    request(&mut pair);
    pair.server.connection.go_away(pair.now, Some(Duration::from_secs(2))).unwrap();
    let crossing = call(&mut pair, Reply::One, b"").unwrap();
    deliver(&mut pair);
    match pair.client.told.remove(0) {
        Event::GoAway { last_id, drain } => assert_eq!((last_id, drain), (taken, Some(Duration::from_secs(2)))),
        other => panic!("{other:?}"),
    }
    assert!(pair.server.told.is_empty() && crossing > taken);
    assert_eq!(pair.client.connection.in_flight(), 1, "the other was not begun");
    assert!(matches!(call(&mut pair, Reply::One, b""), Err(SessionError::Leaving)));
    respond(&mut pair, taken, b"last");
    deliver(&mut pair);
    assert_eq!(pair.client.message().payload(), b"last");
    pair.down.put(&Frame::GoAway { last_id: taken + 1, drain_ns: 0 }.encode());
    pair.client.read(pair.now, &mut pair.down);
    assert_eq!(pair.client.end(), End::Protocol(ProtocolError::GoAwayRaised { before: taken, last_id: taken + 1 }));
}

#[test]
fn a_client_that_leaves_sends_no_more() {
    let mut pair = pair();
    let id = call(&mut pair, Reply::One, b"").unwrap();
    pair.client.connection.go_away(pair.now, None).unwrap();
    assert!(matches!(call(&mut pair, Reply::One, b""), Err(SessionError::Leaving)));
    deliver(&mut pair);
    pair.server.message();
    assert!(matches!(pair.server.told.remove(0), Event::GoAway { last_id, drain: None } if last_id == id));
    pair.up.put(&Head::request(1, id + 1, Reply::One, 0).unwrap().encode_request(0));
    pair.read_both();
    assert_eq!(pair.server.end(), End::Protocol(ProtocolError::AfterGoAway { id: id + 1 }));
}

#[test]
fn errors_are_structured_and_as_large_as_they_may_be() {
    let mut pair = pair();
    let id = call(&mut pair, Reply::Stream, b"").unwrap();
    request(&mut pair);
    let text = "x".repeat(4000);
    let failure = Failure { code: 4, retryable: true, message: &text, details: b"d" };
    pair.server.connection.fail(pair.now, id, Status::APPLICATION, Some(&failure)).unwrap();
    deliver(&mut pair);
    let answer = pair.client.message();
    match Frame::decode(answer.head().unwrap(), answer.payload()).unwrap() {
        Frame::Error { status, failure: Some(found), .. } => {
            assert_eq!((status, found), (Status::APPLICATION, failure))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn methods_are_asked_for_and_told() {
    let mut pair = pair();
    let id = pair.client.connection.ask_methods(pair.now, &[5, 3]).unwrap();
    deliver(&mut pair);
    let asked = pair.server.message();
    assert!(matches!(Frame::decode(asked.head().unwrap(), asked.payload()),
        Ok(Frame::Methods { methods, .. }) if methods.iter().eq([3, 5])));
    let known = ginnel_wire::MethodHash { method: 3, reply: Reply::Stream, hash: 77 };
    pair.server.connection.tell_methods(pair.now, id, &[known]).unwrap();
    deliver(&mut pair);
    let told = pair.client.message();
    assert!(matches!(Frame::decode(told.head().unwrap(), told.payload()),
        Ok(Frame::MethodsAck { hashes, .. }) if hashes.get(3) == Some(known)));
}

#[test]
fn what_was_not_granted_is_neither_sent_nor_taken() {
    let mut pair = pair_with(None, Features::NONE, Timing::default());
    for reply in [Reply::None, Reply::Stream] {
        assert!(matches!(call(&mut pair, reply, b""), Err(SessionError::NotGranted { .. })));
    }
    assert!(matches!(pair.client.connection.ask_methods(pair.now, &[]), Err(SessionError::NotGranted { .. })));
    pair.up.put(&Head::request(1, 1, Reply::None, 0).unwrap().encode_request(0));
    pair.read_both();
    assert!(matches!(pair.server.end(), End::Protocol(ProtocolError::Feature { frame: "REQUEST", .. })));
}

#[test]
fn a_batch_is_answered_by_a_batch_of_as_many() {
    let mut pair = pair();
    let mut builder = BatchBuilder::new(2);
    builder.push(b"a").unwrap();
    builder.push(b"bc").unwrap();
    let batch = builder.finish();
    let asked = Call { batch: Some(2), ..Call::default() };
    let id = pair.client.connection.call(pair.now, &asked, Body::Owned(batch.clone())).unwrap();
    deliver(&mut pair);
    let message = pair.server.message();
    assert_eq!((message.payload(), message.envelope.item_count), (&batch[..], 2));
    respond(&mut pair, id, &batch);
    deliver(&mut pair);
    assert_eq!(head(&pair.client.message()).items, 2);
}

#[test]
fn a_server_of_layout_1_and_one_that_says_nothing_make_the_client_fall_back() {
    let now = Instant::now();
    for answer in [Some(HelloAck::rejection(Status::INCOMPATIBLE)), None] {
        let hello = hello_2(4096);
        let mut client = Side::new(Connection::client_2(hello, 0, true, Timing::default(), now));
        let (mut up, mut down) = (Wire::new(true), Wire::new(true));
        client.write(now, &mut up);
        // What a server of layout 1 makes of it.
        let mut server = Side::new(Connection::server(true, Timing::default(), now));
        server.read(now, &mut up);
        let verdict = server.connection.judge(&Offer::new(&config().1, 4096, 1));
        assert_eq!(verdict, Verdict::Refuse(crate::RefuseReason::Layout { found: 2 }));
        answer.iter().for_each(|packet| down.put(packet));
        down.closed = true;
        client.read(now, &mut down);
        assert_eq!(client.end(), End::FallBack);
    }
}

#[test]
fn a_steady_load_allocates_no_buffers_and_an_idle_end_is_small() {
    let mut pair = pair_with(None, Features::ALL, Timing::default());
    let mut made = 0;
    for round in 0..200 {
        let id = call(&mut pair, Reply::One, &[7; 300]).unwrap();
        let message = request(&mut pair);
        let body = message.payload().to_vec();
        pair.server.pool.put(message.into_buffer());
        respond(&mut pair, id, &body);
        deliver(&mut pair);
        let answer = pair.client.message();
        pair.client.pool.put(answer.into_buffer());
        if round == 100 {
            made = pair.server.pool.made() + pair.client.pool.made();
        }
    }
    assert_eq!(pair.server.pool.made() + pair.client.pool.made(), made);
    assert!(size_of::<Connection>() + size_of::<super::super::calls::Calls>() <= 4096, "{}", size_of::<Connection>());
}
