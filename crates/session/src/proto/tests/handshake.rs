use super::*;
use crate::error::{CloseReason, Refusal, RefuseReason};
use ginnel_wire::HelloError;

/// A server to which `packet` was said.
fn told(packet: &[u8]) -> Side {
    let now = Instant::now();
    let mut server = Side::new(Connection::server(true, Timing::default(), now));
    let mut wire = Wire::new(true);
    wire.put(packet);
    server.read(now, &mut wire);
    assert!(matches!(server.told.remove(0), Event::Greeted));
    server
}

fn verdict(packet: &[u8]) -> Verdict {
    told(packet).connection.judge(&Offer::new(&config().1, 4096, 1))
}

fn with<const N: usize>(packet: &[u8], at: usize, value: [u8; N]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + N].copy_from_slice(&value);
    packet
}

#[test]
fn a_server_s_verdict_is_the_same_through_the_connection() {
    let good = hello().packet();
    assert_eq!(verdict(&good), Verdict::Accept(ack()));
    let refused: [(Vec<u8>, RefuseReason); 6] = [
        (with(&good, 4, 2u16.to_ne_bytes()), RefuseReason::Version { found: 2 }),
        (with(&good, 32, 2u16.to_ne_bytes()), RefuseReason::Layout { found: 2 }),
        (
            with(&good, 36, 2u32.to_ne_bytes()),
            RefuseReason::Profiles { client: Profiles(2), server: Profiles::BASELINE },
        ),
        (with(&good, 64, 8u64.to_ne_bytes()), RefuseReason::Token),
        (with(&good, 44, (LIMIT + 1).to_ne_bytes()), RefuseReason::RequestLimit { proposed: LIMIT + 1, limit: LIMIT }),
        (with(&good, 72, 32u32.to_ne_bytes()), RefuseReason::PacketSize { agreed: 32 }),
    ];
    for (packet, reason) in refused {
        assert_eq!(verdict(&packet), Verdict::Refuse(reason));
    }
    for packet in [&good[..31], &good[..75], &with(&good, 8, 1u16.to_ne_bytes()), &with(&good, 60, [1])] {
        assert!(matches!(verdict(packet), Verdict::Close(_)), "{packet:?}");
    }
    assert_eq!(verdict(&with(&good, 60, [1])), Verdict::Close(CloseReason::Hello(HelloError::Reserved { found: 1 })));
    let full = Offer { refuse: Some(RefuseReason::Full), ..Offer::new(&config().1, 4096, 1) };
    assert_eq!(told(&good).connection.judge(&full), Verdict::Refuse(RefuseReason::Full));
}

#[test]
fn a_refusal_is_sent_whole_and_is_the_last_word() {
    let now = Instant::now();
    let mut server = told(&hello().packet());
    server.connection.refuse(Status::AUTH_FAILED, now);
    let mut wire = Wire::new(false);
    wire.room = 50;
    server.write(now, &mut wire);
    server.take_events();
    assert!(server.told.is_empty(), "half of it is out");
    wire.room = usize::MAX;
    server.write(now, &mut wire);
    server.take_events();
    assert_eq!(server.end(), End::Dismissed);
    assert_eq!(wire.drain().concat(), HelloAck::rejection(Status::AUTH_FAILED));
    assert!(!server.connection.wants_input());
}

#[test]
fn a_client_names_the_refusal_and_every_answer_that_is_none() {
    let said = |packet: &[u8]| {
        let now = Instant::now();
        let mut client = Side::new(Connection::client(hello(), true, Timing::default(), now));
        let (mut up, mut down) = (Wire::new(true), Wire::new(true));
        client.write(now, &mut up);
        assert_eq!(up.drain(), [hello().packet()]);
        down.put(packet);
        client.read(now, &mut down);
        match client.end() {
            End::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let good = ack().packet();
    let statuses = [
        (Status::AUTH_FAILED, Refusal::AuthFailed),
        (Status::UNSUPPORTED, Refusal::NoCommonProfile),
        (Status::INCOMPATIBLE, Refusal::Incompatible),
        (Status::LIMIT_EXCEEDED, Refusal::LimitExceeded { proposed: LIMIT }),
        (Status::INTERNAL_ERROR, Refusal::Unavailable { status: Status::INTERNAL_ERROR }),
    ];
    for (status, refusal) in statuses {
        assert_eq!(said(&HelloAck::rejection(status)), refusal);
    }
    assert_eq!(said(&with(&good, 4, [2])), Refusal::Incompatible);
    assert!(matches!(said(&good[..31]), Refusal::Envelope(_)));
    assert!(matches!(said(&with(&good, 12, [1])), Refusal::NotAnAck { .. }));
    assert!(matches!(said(&good[..79]), Refusal::Ack(_)));
    assert!(matches!(said(&with(&good, 44, [3])), Refusal::Selected { .. }));
    assert!(matches!(said(&with(&good, 44, [2])), Refusal::Selected { .. }));
    assert_eq!(said(&with(&good, 64, 4097u32.to_ne_bytes())), Refusal::PacketSize { agreed: 4097, proposed: 4096 });
}

#[test]
fn on_a_stream_the_greetings_come_in_bytes_and_what_follows_them_is_left_alone() {
    let mut pair = Pair::fresh(false, 4096, Timing::default());
    (pair.up.piece, pair.down.piece) = (1, 1);
    pair.client.write(pair.now, &mut pair.up);
    // A request that a hasty client has sent behind its HELLO.
    let hasty = Envelope { payload_len: 3, ..Envelope::request(1, 9, 3) };
    pair.up.put(&[&hasty.encode()[..], b"abc"].concat());
    pair.server.read(pair.now, &mut pair.up);
    assert!(matches!(pair.server.told.remove(0), Event::Greeted));
    assert!(!pair.server.connection.wants_input(), "the verdict is due");
    pair.server.connection.accept(&ack(), pair.now);
    pair.server.write(pair.now, &mut pair.down);
    pair.read_both();
    assert!(matches!(pair.server.told.remove(0), Event::Established(_)));
    assert_eq!(pair.server.message().payload(), b"abc");
    assert!(matches!(pair.client.told.remove(0), Event::Established(_)));
}

#[test]
fn a_hello_that_is_too_long_is_read_as_far_as_it_matters() {
    let mut long = hello().packet().to_vec();
    long.extend([0xff; 500]);
    assert_eq!(verdict(&long), Verdict::Accept(ack()));
    let server = told(&long);
    assert_eq!(server.connection.greeting().unwrap().len(), 128);
    assert_eq!(server.connection.hello(), Some(hello()));
}

#[test]
fn the_descriptors_travel_with_the_first_bytes_of_the_acceptance_and_no_others() {
    let now = Instant::now();
    let mut server = told(&hello().packet());
    server.connection.accept(&ack(), now);
    assert!(server.connection.poll_transmit(&[]).unwrap().with_descriptors);
    server.connection.transmitted(now, 10, &mut server.pool);
    assert!(!server.connection.poll_transmit(&[]).unwrap().with_descriptors);
    let rest = 70;
    server.connection.transmitted(now, rest, &mut server.pool);
    server.take_events();
    assert!(matches!(server.told.remove(0), Event::Established(_)));
    let request = Envelope::request(1, 1, 0);
    server.connection.send(now, &Envelope::response_to(&request, Status::OK, 0), Body::Owned(vec![])).unwrap();
    assert!(!server.connection.poll_transmit(&[]).unwrap().with_descriptors);
    assert!(!Pair::fresh(true, 4096, Timing::default()).client.connection.poll_transmit(&[]).unwrap().with_descriptors);
}

#[test]
fn nothing_is_sent_before_the_handshake_is_over_and_a_hang_up_in_it_is_told() {
    let mut pair = Pair::fresh(true, 4096, Timing::default());
    let early = pair.client.connection.send(pair.now, &Envelope::request(1, 1, 0), Body::Owned(vec![]));
    assert!(matches!(early, Err(crate::SessionError::NotEstablished)));
    (pair.up.closed, pair.down.closed) = (true, true);
    pair.read_both();
    assert_eq!((pair.client.end(), pair.server.end()), (End::HungUp, End::HungUp));
}
