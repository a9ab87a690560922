use super::*;
use crate::SessionError;

#[test]
fn messages_of_any_size_pass_in_every_framing_and_in_any_pieces() {
    for framing in FRAMINGS {
        for piece in [1, 7, 31, 32, 33, 64, 1000, usize::MAX] {
            let mut pair = Pair::open(framing);
            (pair.up.piece, pair.down.piece) = (piece, piece);
            for (id, len) in (1..).zip([0, 1, 31, 32, 95, 96, 97, 192, 500, 1000]) {
                pair.ask(id, &pattern(len, 1));
                pair.read_both();
                let request = pair.server.message();
                assert_eq!((request.envelope.message_id, request.payload()), (id, &pattern(len, 1)[..]), "{framing:?}");
                assert_eq!(request.envelope.payload_len as usize, len);
                assert_eq!((pair.client.connection.in_flight(), pair.server.connection.in_flight()), (1, 1));
                pair.answer(id, &pattern(1000 - len, 2));
                pair.read_both();
                assert_eq!(pair.client.message().payload(), pattern(1000 - len, 2));
                assert_eq!((pair.client.connection.in_flight(), pair.server.connection.in_flight()), (0, 0));
            }
        }
    }
}

#[test]
fn many_requests_of_one_read_are_told_one_by_one_and_answered_in_any_order() {
    for framing in [Framing::Packets(128), Framing::Stream] {
        let mut pair = Pair::open(framing);
        (1..=100).for_each(|id| pair.ask(id, &pattern(id as usize * 9, 0)));
        let all = pair.up.drain();
        if framing == Framing::Stream {
            pair.up.put(&all.concat());
        } else {
            all.iter().for_each(|packet| pair.up.put(packet));
        }
        pair.read_both();
        let requests: Vec<Received> = (1..=100).map(|_| pair.server.message()).collect();
        assert!((1..).zip(&requests).all(|(id, request)| request.payload() == pattern(id * 9, 0)));
        requests.iter().rev().for_each(|request| pair.answer(request.envelope.message_id, b"x"));
        pair.read_both();
        assert!((1..=100).rev().all(|id| pair.client.message().envelope.message_id == id));
    }
}

#[test]
fn what_does_not_fit_the_session_is_refused_before_anything_is_sent() {
    let mut pair = Pair::open(Framing::Stream);
    let now = pair.now;
    let client = &mut pair.client.connection;
    let mut send = |envelope: Envelope, len: usize| client.send(now, &envelope, Body::Lent(len)).unwrap_err();
    let request = Envelope::request(1, 1, 0);
    let response = Envelope::response_to(&request, Status::OK, 0);
    assert!(matches!(send(response, 0), SessionError::WrongKind { kind: ginnel_wire::Kind::Response }));
    assert!(matches!(send(request, 1001), SessionError::PayloadTooLarge { len: 1001, limit: LIMIT }));
    assert!(matches!(send(request, 1 << 33), SessionError::PayloadTooLarge { limit: LIMIT, .. }));
    assert!(matches!(send(request.with_batch(5), 0), SessionError::TooManyItems { items: 5, limit: 4 }));
    assert_eq!(pair.client.connection.in_flight(), 0);
    assert!(pair.client.connection.poll_transmit(&[]).is_none());
    let server = pair.server.connection.send(pair.now, &request, Body::Lent(0)).unwrap_err();
    assert!(matches!(server, SessionError::WrongKind { kind: ginnel_wire::Kind::Request }));
    // An id is free again when its response is there, and not before.
    pair.ask(1, b"x");
    let twice = pair.client.connection.send(pair.now, &request, Body::Lent(0));
    assert!(matches!(twice, Err(SessionError::DuplicateId { id: 1 })));
    pair.read_both();
    pair.answer(1, b"y");
    pair.read_both();
    pair.ask(1, b"x");
}

#[test]
fn a_lent_payload_is_never_copied_and_is_taken_back_when_its_driver_gives_up() {
    let mut pair = Pair::open(Framing::Stream);
    let payload = pattern(500, 1);
    let send = |client: &mut Connection, now, id| client.send(now, &Envelope::request(1, id, 0), Body::Lent(500));
    send(&mut pair.client.connection, pair.now, 1).unwrap();
    let transmit = pair.client.connection.poll_transmit(&payload).unwrap();
    assert_eq!((transmit.head.len(), transmit.body.as_ptr()), (32, payload.as_ptr()));
    // Nothing of it was written: another takes its place, and its id is free.
    send(&mut pair.client.connection, pair.now, 1).unwrap();
    assert_eq!(pair.client.connection.in_flight(), 1);
    pair.client.connection.take_back();
    assert_eq!(pair.client.connection.in_flight(), 0);
    // A part of it was written: nothing can follow.
    send(&mut pair.client.connection, pair.now, 2).unwrap();
    pair.client.connection.transmitted(pair.now, 40, &mut pair.client.pool);
    assert_eq!(pair.client.connection.poll_transmit(&payload).unwrap().body, &payload[8..]);
    assert!(matches!(send(&mut pair.client.connection, pair.now, 3), Err(SessionError::Broken)));
    assert!(matches!(send(&mut pair.client.connection, pair.now, 3), Err(SessionError::Broken)));
    assert!(pair.client.connection.poll_transmit(&[]).is_none());
    assert_eq!(pair.client.connection.in_flight(), 1, "the peer may answer what it has half read");
}

#[test]
fn queued_messages_leave_in_order_and_never_interleaved() {
    for framing in [Framing::Packets(64), Framing::Stream] {
        let mut pair = Pair::open(framing);
        for id in 1..=3 {
            let body = Body::Owned(pattern(100, id as usize));
            pair.client.connection.send(pair.now, &Envelope::request(1, id, 0), body).unwrap();
        }
        assert_eq!(pair.client.connection.queued(), 300);
        while pair.client.connection.queued() > 0 {
            pair.up.room = if framing == Framing::Stream { 29 } else { 1 };
            pair.client.write(pair.now, &mut pair.up);
            pair.server.read(pair.now, &mut pair.up);
        }
        assert!((1..=3).all(|id| pair.server.message().payload() == pattern(100, id)));
    }
}

#[test]
fn a_full_window_leaves_requests_where_they_are_until_an_answer_is_written() {
    for framing in [Framing::Packets(128), Framing::Stream] {
        let mut pair = Pair::open(framing);
        pair.server.connection.set_window(2);
        (1..=5).for_each(|id| pair.ask(id, &[id as u8]));
        pair.read_both();
        assert_eq!(pair.server.told.len(), 2);
        assert!(!pair.server.connection.wants_input());
        assert!(pair.server.connection.space(0, &mut pair.server.pool).is_empty());
        // Queued is not written.
        pair.down.room = 0;
        pair.answer(1, b"");
        pair.read_both();
        assert_eq!(pair.server.told.len(), 2);
        pair.down.room = usize::MAX;
        pair.server.write(pair.now, &mut pair.down);
        pair.read_both();
        assert_eq!(pair.server.told.len(), 3);
        (2..=5).for_each(|id| {
            pair.answer(id, b"");
            pair.read_both();
        });
        assert!((1..=5).all(|id| pair.server.message().envelope.message_id == id));
    }
}

#[test]
fn a_client_stops_at_its_window_and_at_what_it_may_queue() {
    let mut pair = Pair::open(Framing::Stream);
    pair.client.connection.set_window(1);
    assert_eq!(pair.client.connection.window(), 1);
    pair.ask(1, b"");
    let second = pair.client.connection.send(pair.now, &Envelope::request(1, 2, 0), Body::Owned(vec![]));
    assert!(matches!(second, Err(SessionError::Full { in_flight: 1, queued: 0 })));
    pair.client.connection.set_window(usize::MAX);
    let mut sent = 0;
    while pair.client.connection.can_send() {
        sent += 1;
        let body = Body::Owned(vec![0; 1000]);
        pair.client.connection.send(pair.now, &Envelope::request(1, sent + 1, 0), body).unwrap();
    }
    assert_eq!(sent, (4 << 20) / 1000 + 1);
    let more = pair.client.connection.send(pair.now, &Envelope::request(1, 1 << 40, 0), Body::Owned(vec![]));
    assert!(matches!(more, Err(SessionError::Full { .. })));
}

#[test]
fn responses_that_come_while_a_send_is_blocked_are_put_aside_and_told_in_order() {
    for framing in [Framing::Packets(128), Framing::Stream] {
        let mut pair = Pair::open(framing);
        (1..=3).for_each(|id| pair.ask(id, b""));
        pair.read_both();
        (1..=3).for_each(|id| pair.answer(id, &pattern(300, id as usize)));
        assert!(pair.client.connection.expects_responses());
        while pair.client.read_once(pair.now, &mut pair.down) {
            pair.client.connection.gather(&mut pair.client.pool);
        }
        assert_eq!(pair.client.connection.in_flight(), 3, "not told yet");
        assert!(!pair.client.connection.expects_responses());
        pair.client.take_events();
        assert!((1..=3).all(|id| pair.client.message().payload() == pattern(300, id)));
        assert_eq!(pair.client.connection.in_flight(), 0);
    }
}

#[test]
fn a_hang_up_is_told_after_all_that_came_before_it_also_if_it_is_noticed_first() {
    for framing in FRAMINGS {
        let mut pair = Pair::open(framing);
        pair.ask(1, &pattern(700, 1));
        while pair.server.read_once(pair.now, &mut pair.up) {}
        pair.server.connection.handle(pair.now, Input::HungUp);
        pair.server.connection.handle(pair.now, Input::HungUp);
        assert!(pair.server.connection.is_hung_up() && !pair.server.connection.wants_input());
        pair.server.take_events();
        assert_eq!(pair.server.message().payload(), pattern(700, 1));
        assert_eq!((pair.server.end(), pair.server.connection.end()), (End::HungUp, Some(End::HungUp)));
        pair.server.take_events();
        assert!(pair.server.told.is_empty(), "told once");
    }
    // In the middle of a message there is nothing to tell but the end.
    let mut pair = Pair::open(Framing::Stream);
    pair.ask(1, &pattern(700, 1));
    pair.up.piece = 300;
    pair.server.read_once(pair.now, &mut pair.up);
    pair.server.connection.handle(pair.now, Input::HungUp);
    pair.server.take_events();
    assert_eq!(pair.server.end(), End::HungUp);
}

#[test]
fn a_last_word_is_written_before_the_end_and_what_still_arrives_is_dropped() {
    for framing in FRAMINGS {
        let mut pair = Pair::open(framing);
        pair.ask(1, b"too much");
        pair.read_both();
        pair.down.room = 0;
        pair.answer(1, b"go");
        pair.server.connection.conclude(pair.now, Duration::from_secs(1), &mut pair.server.pool);
        pair.ask(2, &pattern(900, 0));
        pair.server.told.clear();
        pair.read_both();
        assert!(pair.server.told.is_empty() && pair.up.is_empty(), "{framing:?}: dropped");
        pair.down.room = usize::MAX;
        pair.server.write(pair.now, &mut pair.down);
        pair.read_both();
        assert!(matches!(pair.server.told.remove(0), Event::Flushed));
        assert_eq!(pair.client.message().payload(), b"go");
        pair.server.connection.handle(pair.now, Input::HungUp);
        pair.server.take_events();
        assert_eq!(pair.server.end(), End::HungUp);
    }
    let mut pair = Pair::open(Framing::Stream);
    pair.server.connection.conclude(pair.now, Duration::from_secs(1), &mut pair.server.pool);
    let late = pair.server.connection.send(pair.now, &Envelope::request(1, 1, 0), Body::Lent(0));
    assert!(matches!(late, Err(SessionError::Closed)));
    pair.server.take_events();
    assert!(matches!(pair.server.told.remove(0), Event::Flushed));
    assert_eq!(pair.server.connection.poll_timeout().instant(), Some(pair.now + Duration::from_secs(1)));
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.server.end(), End::Concluded);
}

#[test]
fn what_may_go_out_together_ends_with_the_first_message_that_has_more_packets() {
    let mut pair = Pair::open(Framing::Packets(128));
    let now = pair.now;
    let client = &mut pair.client.connection;
    for (id, len) in [(1, 10), (2, 20), (3, 250), (4, 30)] {
        client.send(now, &Envelope::request(1, id, 0), Body::Owned(pattern(len, 0))).unwrap();
    }
    let together = |client: &Connection| -> Vec<usize> {
        client.poll_transmits(&[]).map(|packet| packet.head.len() + packet.body.len()).collect()
    };
    // The third is cut into packets of 96, 96 and 58 bytes beside their headers.
    let mut pool = Pool::new(1 << 20);
    for expected in [&[42, 52, 128][..], &[128], &[90, 62], &[]] {
        let packets = together(client);
        assert_eq!(packets, expected);
        packets.into_iter().for_each(|len| client.transmitted(now, len, &mut pool));
    }
    assert_eq!(client.queued_messages(), 0);
}
