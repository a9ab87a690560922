//! The handshake of layout 2, field by field, in both roles: one field is changed at a time, and the verdict is written
//! here.

use ginnel_session::proto::{Answer2, BadAnswer, Offer2, Refuse2, Verdict2, judge_ack_2, judge_hello_2};
use ginnel_session::{Refusal, RefuseReason};
use ginnel_wire::{Features, Hello2, Hello2Error, HelloAck, HelloAck2, HelloAck2Error, Profiles, ServerFacts, Status};

fn hello() -> Hello2 {
    Hello2 {
        supported: Profiles::BASELINE | Profiles::SHM_HYBRID | Profiles::RING,
        preferred: Profiles::RING,
        max_request_payload: 1000,
        max_request_items: 5,
        max_response_payload: 2000,
        max_response_items: 6,
        auth_token: 77,
        packet_size: 200_000,
        features: Features::ALL,
        required: Features::NONE,
        interface_id: 11,
        schema_hash: 22,
        request_window: 10,
        stream_window: 8,
        request_ring: 65536,
        response_ring: 131_072,
    }
}

fn offer() -> Offer2 {
    Offer2 {
        supported: Profiles::BASELINE | Profiles::SHM_HYBRID | Profiles::RING,
        preferred: Profiles::RING,
        max_request_payload: 4000,
        max_response_payload: 1500,
        max_response_items: 9,
        token: 77,
        packet_size: 100_000,
        features: Features::ONE_WAY | Features::STREAMS,
        interface_id: 11,
        schema_hash: 33,
        request_window: 20,
        stream_window: 4,
        ring: 32768,
        min_ring: 4096,
        max_ring: 1 << 20,
        session_id: 3,
        refuse: None,
    }
}

fn granted(hello: Hello2, offer: Offer2) -> HelloAck2 {
    match judge_hello_2(&hello.encode(), &offer) {
        Verdict2::Accept(ack) => ack,
        other => panic!("{other:?}"),
    }
}

fn refused(hello: Hello2, offer: Offer2) -> (Refuse2, Status, bool) {
    match judge_hello_2(&hello.encode(), &offer) {
        Verdict2::Refuse(reason, facts) => (reason, reason.status(), facts != ServerFacts::default()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_both_want_is_granted_field_by_field() {
    let ack = granted(hello(), offer());
    let expected = HelloAck2 {
        supported: offer().supported,
        intersection: Profiles::BASELINE | Profiles::RING,
        selected: Profiles::RING,
        max_request_payload: 1000,
        max_request_items: 5,
        max_response_payload: 1500,
        max_response_items: 6,
        packet_size: 16384,
        features: Features::ONE_WAY | Features::STREAMS,
        session_id: 3,
        interface_id: 11,
        schema_hash: 33,
        request_window: 10,
        stream_window: 4,
        request_ring: 65536,
        response_ring: 131_072,
        descriptors: 4,
    };
    assert_eq!(ack, expected);
    assert_eq!(judge_ack_2(&ack.packet(), &hello(), 1 << 20), Answer2::Accepted(ack));

    // Zeros leave it to the server; sizes are brought within its bounds.
    let ack = granted(
        Hello2 { max_response_payload: 0, max_response_items: 0, request_ring: 0, response_ring: 1 << 30, ..hello() },
        offer(),
    );
    assert_eq!((ack.max_response_payload, ack.max_response_items), (1500, 9));
    assert_eq!((ack.request_ring, ack.response_ring, ack.packet_size), (32768, 1 << 20, 8192));
    assert_eq!(
        granted(Hello2 { request_ring: 4096, ..hello() }, Offer2 { min_ring: 65536, ..offer() }).request_ring,
        65536
    );
    // A stream needs credit for one item at least; without streams there is none.
    assert_eq!(granted(Hello2 { stream_window: 0, ..hello() }, offer()).stream_window, 1);
    let none = Hello2 { stream_window: 0, features: Features::NONE, ..hello() };
    assert_eq!(granted(none, offer()).stream_window, 0);
    // On the socket: no rings, no descriptors, packets of the socket.
    let ack = granted(Hello2 { supported: Profiles::BASELINE | Profiles::SHM_HYBRID, ..hello() }, offer());
    assert_eq!((ack.selected, ack.request_ring, ack.response_ring, ack.descriptors), (Profiles::BASELINE, 0, 0, 0));
    assert_eq!(ack.packet_size, 100_000);
    // Tools take any interface; a schema that differs is no reason to refuse.
    assert_eq!(granted(Hello2 { interface_id: 0, schema_hash: 0, ..hello() }, offer()).interface_id, 11);
}

#[test]
fn what_does_not_fit_is_refused_in_the_order_of_the_specification() {
    let everything = Hello2 {
        interface_id: 12,
        supported: Profiles::SHM_HYBRID,
        auth_token: 78,
        features: Features::ALL,
        required: Features::METHOD_HASHES,
        max_request_payload: 4001,
        packet_size: 32,
        ..hello()
    };
    let full = Offer2 { refuse: Some(RefuseReason::Full), ..offer() };
    assert_eq!(refused(everything, full), (Refuse2::Common(RefuseReason::Token), Status::AUTH_FAILED, false));
    let next = Hello2 { auth_token: 77, ..everything };
    let stranger = Offer2 { refuse: Some(RefuseReason::User { uid: 5 }), ..offer() };
    let user = Refuse2::Common(RefuseReason::User { uid: 5 });
    assert_eq!(refused(next, stranger), (user, Status::AUTH_FAILED, false));
    assert_eq!(refused(next, full), (Refuse2::Common(RefuseReason::Full), Status::INTERNAL_ERROR, true));
    let interface = Refuse2::Interface { client: 12, server: 11 };
    assert_eq!(refused(next, offer()), (interface, Status::UNSUPPORTED, true));
    let next = Hello2 { interface_id: 11, ..next };
    let profiles = RefuseReason::Profiles { client: Profiles::SHM_HYBRID, server: offer().supported };
    assert_eq!(refused(next, offer()), (Refuse2::Common(profiles), Status::UNSUPPORTED, true));
    let next = Hello2 { supported: Profiles::BASELINE, ..next };
    let features = Refuse2::Features { required: Features::METHOD_HASHES, features: offer().features };
    assert_eq!(refused(next, offer()), (features, Status::INCOMPATIBLE, true));
    let next = Hello2 { required: Features::NONE, ..next };
    let limit = RefuseReason::RequestLimit { proposed: 4001, limit: 4000 };
    assert_eq!(refused(next, offer()), (Refuse2::Common(limit), Status::LIMIT_EXCEEDED, true));
    let next = Hello2 { max_request_payload: 4000, ..next };
    let packet = RefuseReason::PacketSize { agreed: 32 };
    assert_eq!(refused(next, offer()), (Refuse2::Common(packet), Status::INCOMPATIBLE, true));
    assert_eq!(granted(Hello2 { packet_size: 33, ..next }, offer()).packet_size, 33);

    let mut bad = hello().encode();
    bad[2] = 1;
    assert_eq!(judge_hello_2(&bad, &offer()), Verdict2::Close(Hello2Error::Flags { found: 1 }));
}

#[test]
fn a_client_takes_nothing_that_it_did_not_propose() {
    let good = granted(hello(), offer());
    let cases: [(&str, HelloAck2); 12] = [
        ("profile", HelloAck2 { selected: Profiles(0x20), request_ring: 0, response_ring: 0, descriptors: 0, ..good }),
        ("max_response_payload_bytes", HelloAck2 { max_response_payload: 2001, ..good }),
        ("max_response_batch_items", HelloAck2 { max_response_items: 7, ..good }),
        ("packet_size", HelloAck2 { packet_size: 32, ..good }),
        ("packet_size", HelloAck2 { packet_size: 200_001, ..good }),
        ("features", HelloAck2 { features: Features(0x10), ..good }),
        ("features", HelloAck2 { features: Features::ONE_WAY, ..good }),
        ("interface_id", HelloAck2 { interface_id: 12, ..good }),
        ("request_window", HelloAck2 { request_window: 11, ..good }),
        ("stream_window", HelloAck2 { stream_window: 9, ..good }),
        ("request_ring_bytes", HelloAck2 { request_ring: 1 << 21, ..good }),
        ("response_ring_bytes", HelloAck2 { response_ring: 1 << 21, ..good }),
    ];
    let hello = Hello2 { required: Features::STREAMS, ..hello() };
    for (expected, ack) in cases {
        match judge_ack_2(&ack.packet(), &hello, 1 << 20) {
            Answer2::Bad(BadAnswer::Granted { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let answer = judge_ack_2(&HelloAck2 { request_window: 0, ..good }.packet(), &hello, 1 << 20);
    assert_eq!(answer, Answer2::Bad(BadAnswer::Ack(HelloAck2Error::RequestWindow)));
}

#[test]
fn a_layout_1_server_is_told_from_one_that_refuses() {
    let judge = |packet: &[u8]| judge_ack_2(packet, &hello(), 1 << 20);
    assert_eq!(judge(&HelloAck::rejection(Status::INCOMPATIBLE)), Answer2::FallBack);
    let facts = ServerFacts { max_request_payload: 500, interface_id: 9, ..ServerFacts::default() };
    let refusals = [
        (Status::INCOMPATIBLE, Refusal::Incompatible),
        (Status::UNSUPPORTED, Refusal::NoCommonProfile),
        (Status::AUTH_FAILED, Refusal::AuthFailed),
        (Status::LIMIT_EXCEEDED, Refusal::LimitExceeded { proposed: 1000 }),
        (Status::INTERNAL_ERROR, Refusal::Unavailable { status: Status::INTERNAL_ERROR }),
    ];
    for (status, refusal) in refusals {
        assert_eq!(judge(&HelloAck2::rejection(status, &facts)), Answer2::Refused(refusal, facts));
        // A layout-1 server that says anything but INCOMPATIBLE says it in its own layout.
        if status != Status::INCOMPATIBLE {
            assert_eq!(judge(&HelloAck::rejection(status)), Answer2::Refused(refusal, ServerFacts::default()));
        }
    }
    assert!(matches!(judge(b"no envelope"), Answer2::Bad(BadAnswer::Refusal(Refusal::Envelope(_)))));
    assert!(matches!(judge(&hello().packet()), Answer2::Bad(BadAnswer::Refusal(Refusal::NotAnAck { .. }))));
    let mut cut = granted(hello(), offer()).packet().to_vec();
    cut.truncate(100);
    assert!(matches!(judge(&cut), Answer2::Bad(BadAnswer::Ack(HelloAck2Error::Truncated { len: 68 }))));
}
