use super::*;

/// A round trip whose buffers go back to where they came from.
fn round_trip(pair: &mut Pair, id: u64, request: usize, response: usize) {
    let mut body = pair.client.pool.take(request);
    body.truncate(request);
    pair.client.connection.send(pair.now, &Envelope::request(1, id, 0), Body::Owned(body)).unwrap();
    pair.client.write(pair.now, &mut pair.up);
    pair.server.read(pair.now, &mut pair.up);
    let received = pair.server.message();
    pair.server.pool.put(received.into_buffer());
    let mut body = pair.server.pool.take(response);
    body.truncate(response);
    let envelope = Envelope::response_to(&Envelope::request(1, id, 0), Status::OK, 0);
    pair.server.connection.send(pair.now, &envelope, Body::Owned(body)).unwrap();
    pair.server.write(pair.now, &mut pair.down);
    pair.client.read(pair.now, &mut pair.down);
    let received = pair.client.message();
    pair.client.pool.put(received.into_buffer());
}

#[test]
fn after_the_first_messages_nothing_is_allocated_any_more() {
    for framing in FRAMINGS {
        let mut pair = Pair::open(framing);
        let sizes = [(0, 1000), (1000, 0), (64, 64), (500, 300)];
        let rounds = |pair: &mut Pair, first: u64| {
            for (id, (request, response)) in (first..).zip(sizes) {
                round_trip(pair, id, request, response);
            }
            pair.client.pool.made() + pair.server.pool.made()
        };
        rounds(&mut pair, 10);
        let warm = rounds(&mut pair, 20);
        for round in 3..50 {
            assert_eq!(rounds(&mut pair, round * 10), warm, "{framing:?}");
        }
    }
}

#[test]
fn an_idle_connection_holds_no_buffer_and_little_else() {
    assert!(size_of::<Connection>() <= 1024, "{} bytes", size_of::<Connection>());
    for framing in FRAMINGS {
        let mut pair = Pair::open(framing);
        let kept = |side: &mut Side| {
            side.connection.relax(&mut side.pool);
            side.pool.kept()
        };
        // Without a request body of their own, all buffers come from the pools: what is lent is what is missing.
        round_trip(&mut pair, 1, 0, 0);
        let (client, server) = (kept(&mut pair.client), kept(&mut pair.server));
        for id in 2..20 {
            round_trip(&mut pair, id, 0, 0);
            assert_eq!((kept(&mut pair.client), kept(&mut pair.server)), (client, server), "{framing:?}");
        }
        // Lent to a carrier that had nothing, and back.
        if let Framing::Slot(_) = framing {
            assert!(pair.server.connection.space(0, &mut pair.server.pool).is_empty());
            continue;
        }
        assert!(!pair.server.connection.space(0, &mut pair.server.pool).is_empty());
        assert!(pair.server.pool.kept() < server);
        assert_eq!(kept(&mut pair.server), server);
    }
}

#[test]
fn a_small_request_in_flight_holds_little_and_a_large_one_is_not_copied() {
    let mut inbound = Pair::open(Framing::Packets(4096));
    inbound.ask(1, &[1; 50]);
    inbound.ask(2, &[2; 1000]);
    inbound.read_both();
    assert_eq!(inbound.server.message().held(), 256);
    assert_eq!(inbound.server.message().held(), 2048, "packet and message are about as large");

    // Half of a large message is there: the rest is received right behind it, and all of it leaves with the buffer.
    let mut pair = Pair::fresh(false, 4096, Timing::default());
    let large = 1 << 20;
    let mut offer = Offer::new(&config().1, 4096, 1);
    offer.max_request_payload = large;
    let mut proposed = hello();
    proposed.max_request_payload = large;
    pair.client = Side::new(Connection::client(proposed, false, Timing::default(), pair.now));
    pair.greet(&offer);
    let payload = pattern(large as usize, 0);
    pair.ask(1, &payload);
    pair.up.piece = 50_000;
    let address = loop {
        let space = pair.server.connection.space(0, &mut pair.server.pool);
        let (address, len) = (space.as_ptr_range(), space.len());
        assert!(len > 0);
        pair.server.read_once(pair.now, &mut pair.up);
        pair.server.take_events();
        if !pair.server.told.is_empty() {
            break address;
        }
    };
    let message = pair.server.message();
    assert!(message.payload() == payload);
    assert!(address.contains(&message.payload().last_chunk::<1>().unwrap().as_ptr()), "not moved after it arrived");
}

#[test]
fn what_a_peer_announces_costs_nothing_before_it_arrives() {
    let mut pair = Pair::fresh(false, 4096, Timing::default());
    let huge = 1 << 30;
    let mut proposed = hello();
    proposed.max_request_payload = huge;
    let mut offer = Offer::new(&config().1, 4096, 1);
    offer.max_request_payload = huge;
    pair.client = Side::new(Connection::client(proposed, false, Timing::default(), pair.now));
    pair.greet(&offer);
    pair.up.put(&Envelope::request(1, 1, huge).encode());
    pair.up.put(&[1; 1000]);
    pair.read_both();
    assert!(pair.server.connection.space(0, &mut pair.server.pool).len() <= 64 << 10);
}

#[test]
fn a_stream_that_stays_full_is_read_in_place_and_never_grows_its_buffer() {
    let mut pair = Pair::open(Framing::Stream);
    pair.server.connection.set_window(1);
    let mut next = 1;
    for _ in 0..2000 {
        while pair.client.connection.in_flight() < 50 {
            pair.ask(next, &pattern(700, next as usize));
            next += 1;
        }
        let all = pair.up.drain().concat();
        pair.up.put(&all);
        pair.server.read(pair.now, &mut pair.up);
        let request = pair.server.message();
        let id = request.envelope.message_id;
        assert!(request.payload() == pattern(700, id as usize));
        pair.server.pool.put(request.into_buffer());
        pair.answer(id, b"");
        pair.client.read(pair.now, &mut pair.down);
        pair.client.message();
    }
    assert!(pair.server.pool.made() < 10, "{} buffers", pair.server.pool.made());
}
