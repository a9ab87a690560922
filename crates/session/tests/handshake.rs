//! The handshake, field by field, in both roles, against a scripted peer: every byte that it sends is written here, and
//! every byte that we send is compared with what is written here. Nothing of our encoders is used.

mod common;

use common::{Raw, patience};
use ginnel_session::{
    ClientConfig, CloseReason, ConnectError, Endpoint, HandshakeError, Limits, Listener, Refusal, RefuseReason,
    ServerConfig, Session, SessionError, UidPolicy,
};
use ginnel_wire::{Profiles, Status};

/// Bytes put together by hand.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }
}

/// An envelope as the contract draws it.
fn envelope(kind: u16, code: u16, status: u16, payload_len: u32) -> Bytes {
    Bytes(Vec::new())
        .u32(0x4e49_5043)
        .u16(1)
        .u16(32)
        .u16(kind)
        .u16(0)
        .u16(code)
        .u16(status)
        .u32(payload_len)
        .u32(1)
        .u64(0)
}

const TOKEN: u64 = 0xDEAD_BEEF_CAFE_BABE;

/// The HELLO of a modest client. Byte offsets of its fields within the packet are those of the contract plus 32.
fn hello() -> Vec<u8> {
    envelope(3, 1, 0, 44)
        .u16(1) // 32 layout
        .u16(0) // 34 flags
        .u32(0x01) // 36 supported
        .u32(0) // 40 preferred
        .u32(1024) // 44 max request payload
        .u32(1) // 48 max request items
        .u32(65536) // 52 max response payload
        .u32(1) // 56 max response items
        .u32(0) // 60 reserved
        .u64(TOKEN) // 64 token
        .u32(65536) // 72 packet size
        .0
}

/// The acceptance of a server with limits 4096 / 8192 and packets of 32768.
fn ack() -> Vec<u8> {
    envelope(3, 2, 0, 48)
        .u16(1) // 32 layout
        .u16(0) // 34 flags
        .u32(0x01) // 36 server supported
        .u32(0x01) // 40 intersection
        .u32(0x01) // 44 selected
        .u32(1024) // 48 max request payload
        .u32(1) // 52 max request items
        .u32(8192) // 56 max response payload
        .u32(1) // 60 max response items
        .u32(32768) // 64 packet size
        .u32(0) // 68 reserved
        .u64(1) // 72 session id
        .0
}

/// A rejection: the status, a layout of 1 and nothing else.
fn rejection(status: u16) -> Vec<u8> {
    let mut bytes = envelope(3, 2, status, 48).u16(1).0;
    bytes.resize(80, 0);
    bytes
}

fn with<const N: usize>(mut packet: Vec<u8>, at: usize, value: [u8; N]) -> Vec<u8> {
    packet[at..at + N].copy_from_slice(&value);
    packet
}

fn server_config() -> ServerConfig {
    ServerConfig {
        max_request_payload: 4096,
        max_response_payload: 8192,
        token: TOKEN,
        packet_size: Some(32768),
        ..Default::default()
    }
}

/// Sends `packet` to a server with `config`: what it answered (empty: closed without a word), and what it thought.
fn serve(config: ServerConfig, packet: &[u8]) -> (Vec<u8>, Result<Session, HandshakeError>) {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Listener::bind(&endpoint, config).unwrap();
    let raw = Raw::connect(endpoint.path().unwrap());
    raw.send(packet);
    let outcome = listener.accept(&patience()).unwrap().handshake(&patience());
    let answer = raw.recv();
    if outcome.is_err() && !answer.is_empty() {
        assert_eq!(raw.recv(), b"", "a rejection is the last word");
    }
    (answer, outcome)
}

fn accepts(config: ServerConfig, packet: &[u8], expected: Vec<u8>) {
    let (answer, outcome) = serve(config, packet);
    outcome.unwrap();
    assert_eq!(answer, expected);
}

fn rejects(packet: &[u8], status: u16, expected: RefuseReason) {
    let (answer, outcome) = serve(server_config(), packet);
    assert_eq!(answer, rejection(status), "{expected:?}");
    let Err(HandshakeError::Refused { status: told, reason }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((told.0, reason), (status, expected));
}

fn closes(packet: &[u8]) -> String {
    let (answer, outcome) = serve(server_config(), packet);
    assert_eq!(answer, b"", "no answer");
    let Err(HandshakeError::Closed(reason)) = outcome else { panic!("{outcome:?}") };
    reason.to_string()
}

// ---- the server's side ----

#[test]
fn a_hello_that_fits_is_answered_with_exactly_these_bytes() {
    accepts(server_config(), &hello(), ack());
}

#[test]
fn what_is_no_envelope_gets_no_answer() {
    assert_eq!(closes(&hello()[..31]), "envelope is truncated: 31 of 32 bytes");
    assert_eq!(closes(&with(hello(), 0, [0; 4])), "envelope magic is 0x00000000, not 0x4e495043");
    assert_eq!(closes(&with(hello(), 6, 33u16.to_ne_bytes())), "envelope header length is 33, not 32");
    assert_eq!(closes(&with(hello(), 8, 4u16.to_ne_bytes())), "envelope kind is 4, not 1, 2 or 3");
}

#[test]
fn another_version_of_a_valid_hello_is_told_that_it_is_incompatible() {
    let other = with(hello(), 4, 2u16.to_ne_bytes());
    rejects(&other, 3, RefuseReason::Version { found: 2 });
    // Unless anything else is wrong with it as well.
    assert_eq!(closes(&with(other.clone(), 6, 33u16.to_ne_bytes())), "envelope version is 2, not 1");
    assert_eq!(closes(&with(other.clone(), 8, 4u16.to_ne_bytes())), "envelope version is 2, not 1");
    assert_eq!(closes(&with(other.clone(), 8, 1u16.to_ne_bytes())), "envelope version is 2, not 1");
    assert_eq!(closes(&with(other, 12, 2u16.to_ne_bytes())), "envelope version is 2, not 1");
}

#[test]
fn what_is_not_hello_gets_no_answer() {
    assert_eq!(closes(&with(hello(), 8, 1u16.to_ne_bytes())), "kind Request code 1 is not HELLO");
    assert_eq!(closes(&with(hello(), 8, 2u16.to_ne_bytes())), "kind Response code 1 is not HELLO");
    assert_eq!(closes(&with(hello(), 12, 2u16.to_ne_bytes())), "kind Control code 2 is not HELLO");
}

#[test]
fn a_short_payload_gets_no_answer_and_a_long_one_is_read_as_far_as_it_matters() {
    assert_eq!(closes(&hello()[..75]), "HELLO is truncated: 43 of 44 bytes");
    assert_eq!(closes(&hello()[..32]), "HELLO is truncated: 0 of 44 bytes");
    let mut long = hello();
    long.extend([0xff; 200]);
    accepts(server_config(), &long, ack());
}

#[test]
fn the_envelope_s_other_fields_are_not_looked_at() {
    for at in [10, 14, 16, 20, 24] {
        accepts(server_config(), &with(hello(), at, [0xee, 0xee]), ack());
    }
}

#[test]
fn another_layout_is_incompatible() {
    for found in [0_u16, 2, 0xffff] {
        rejects(&with(hello(), 32, found.to_ne_bytes()), 3, RefuseReason::Layout { found });
    }
}

#[test]
fn hello_flags_are_not_looked_at() {
    accepts(server_config(), &with(hello(), 34, 0xffff_u16.to_ne_bytes()), ack());
}

#[test]
fn a_reserved_field_that_is_not_zero_gets_no_answer() {
    assert_eq!(closes(&with(hello(), 60, 1u32.to_ne_bytes())), "HELLO reserved field is 0x1, not 0");
    // Layout comes first.
    let both = with(with(hello(), 60, 1u32.to_ne_bytes()), 32, 2u16.to_ne_bytes());
    rejects(&both, 3, RefuseReason::Layout { found: 2 });
}

#[test]
fn no_common_profile_is_unsupported() {
    for client in [0_u32, 0x02, 0x08, 0xf0] {
        let reason = RefuseReason::Profiles { client: Profiles(client), server: Profiles(1) };
        rejects(&with(hello(), 36, client.to_ne_bytes()), 4, reason);
    }
}

#[test]
fn the_highest_profile_that_both_prefer_is_selected_else_the_highest_of_both() {
    // (client supports, client prefers, server supports, server prefers) -> (intersection, selected). Bits from 0x10 up
    // are free: with them every choice is a socket's.
    let rows = [
        (0x01, 0x00, 0x01, 0x00, 0x01, 0x01),
        (0x31, 0x00, 0x31, 0x00, 0x31, 0x20),
        (0x31, 0x10, 0x31, 0x10, 0x31, 0x10),
        (0x31, 0x30, 0x31, 0x10, 0x31, 0x10),
        (0x31, 0x10, 0x31, 0x20, 0x31, 0x20),
        (0x31, 0x01, 0x31, 0x01, 0x31, 0x01),
        (0x11, 0x20, 0x31, 0x20, 0x11, 0x10),
        (0x31, 0x31, 0x01, 0x31, 0x01, 0x01),
    ];
    for (client, client_prefers, server, server_prefers, common, selected) in rows {
        let config =
            ServerConfig { supported: Profiles(server), preferred: Profiles(server_prefers), ..server_config() };
        let packet = with(with(hello(), 36, u32::to_ne_bytes(client)), 40, u32::to_ne_bytes(client_prefers));
        let expected = with(ack(), 36, u32::to_ne_bytes(server));
        let expected = with(with(expected, 40, u32::to_ne_bytes(common)), 44, u32::to_ne_bytes(selected));
        accepts(config, &packet, expected);
    }
}

#[test]
fn shared_memory_is_selected_even_if_nobody_prefers_it() {
    for (offered, selected) in [(0x03_u32, 0x02_u32), (0x05, 0x04), (0x07, 0x04)] {
        let config = ServerConfig { supported: Profiles(0x07), ..server_config() };
        let expected = with(with(with(ack(), 36, [7, 0, 0, 0]), 40, offered.to_ne_bytes()), 44, selected.to_ne_bytes());
        accepts(config, &with(hello(), 36, offered.to_ne_bytes()), expected);
    }
}

#[test]
fn the_region_is_there_before_the_ack_and_has_the_contract_s_header() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let config = ServerConfig { supported: Profiles(0x03), max_response_payload: 65536, ..server_config() };
    let listener = Listener::bind(&endpoint, config).unwrap();
    let raw = Raw::connect(endpoint.path().unwrap());
    raw.send(&with(hello(), 36, 3u32.to_ne_bytes()));
    let session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    assert_eq!(raw.recv()[44..48], 2u32.to_ne_bytes());
    let path = dir.path().join("svc-0000000000000001.ipcshm");
    let region = std::fs::read(&path).unwrap();
    // Sized by the server's limits, 4096 and 65536, not by what was agreed.
    assert_eq!(region.len(), 69824);
    let word = |at: usize| u32::from_ne_bytes(region[at..at + 4].try_into().unwrap());
    assert_eq!(region[..8], [0x4d, 0x48, 0x53, 0x4e, 3, 0, 64, 0]);
    assert_eq!(word(8), std::process::id());
    assert_ne!(word(12), 0, "generation");
    assert_eq!([word(16), word(20), word(24), word(28)], [64, 4160, 4224, 65600]);
    assert!(region[32..].iter().all(|byte| *byte == 0));
    drop(session);
    assert!(!path.exists(), "it goes with its session");
}

#[test]
fn without_room_for_a_region_the_session_is_a_socket_s() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    // More than the offsets of a region can say.
    let config = ServerConfig { supported: Profiles(0x03), max_response_payload: u32::MAX, ..server_config() };
    let listener = Listener::bind(&endpoint, config).unwrap();
    let raw = Raw::connect(endpoint.path().unwrap());
    raw.send(&with(hello(), 36, 3u32.to_ne_bytes()));
    listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    assert_eq!(raw.recv(), with(ack(), 56, u32::MAX.to_ne_bytes()), "the mask without shared memory");
}

#[test]
fn a_number_whose_region_lives_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let config = ServerConfig { supported: Profiles(0x03), ..server_config() };
    let listener = Listener::bind(&endpoint, config).unwrap();
    // A live region of that name: its owner is this very process.
    let path = dir.path().join("svc-0000000000000001.ipcshm");
    let live = Bytes(Vec::new()).u32(0x4e53_484d).u16(3).u16(64).u32(std::process::id()).u32(7);
    let live = [live.0, vec![0; 48]].concat();
    std::fs::write(&path, &live).unwrap();
    let raw = Raw::connect(endpoint.path().unwrap());
    raw.send(&with(hello(), 36, 3u32.to_ne_bytes()));
    let session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    assert_eq!(session.agreement().session_id, 2);
    assert_eq!(raw.recv()[72..], 2u64.to_ne_bytes());
    assert_eq!(std::fs::read(&path).unwrap(), live, "the live region is untouched");
}

#[test]
fn a_wrong_token_fails_authentication() {
    for token in [0, 1, TOKEN ^ 1, TOKEN ^ (1 << 63)] {
        rejects(&with(hello(), 64, token.to_ne_bytes()), 2, RefuseReason::Token);
    }
}

#[test]
fn a_user_that_is_not_accepted_fails_authentication() {
    let config = ServerConfig { clients: UidPolicy::Only(vec![12345]), ..server_config() };
    let (answer, outcome) = serve(config, &hello());
    assert_eq!(answer, rejection(2));
    let own = rustix::process::getuid().as_raw();
    assert!(
        matches!(outcome, Err(HandshakeError::Refused { reason: RefuseReason::User { uid }, .. }) if uid == own),
        "{outcome:?}"
    );
}

#[test]
fn a_request_limit_above_the_server_s_is_refused_and_any_other_echoed() {
    for proposed in [4097, u32::MAX] {
        rejects(&with(hello(), 44, proposed.to_ne_bytes()), 5, RefuseReason::RequestLimit { proposed, limit: 4096 });
    }
    for proposed in [0, 1, 1025, 4096_u32] {
        let expected = with(ack(), 48, proposed.to_ne_bytes());
        accepts(server_config(), &with(hello(), 44, proposed.to_ne_bytes()), expected);
    }
}

#[test]
fn a_server_without_limits_has_the_field_s() {
    let config = ServerConfig { max_request_payload: 0, max_response_payload: 0, ..server_config() };
    accepts(config.clone(), &hello(), with(ack(), 56, 1024u32.to_ne_bytes()));
    let (answer, _) = serve(config, &with(hello(), 44, 1025u32.to_ne_bytes()));
    assert_eq!(answer, rejection(5));
}

#[test]
fn batch_items_are_echoed_for_both_directions() {
    for items in [0, 2, u32::MAX] {
        let expected = with(with(ack(), 52, items.to_ne_bytes()), 60, items.to_ne_bytes());
        accepts(server_config(), &with(hello(), 48, items.to_ne_bytes()), expected);
    }
}

#[test]
fn response_hints_are_not_looked_at() {
    for at in [52, 56] {
        accepts(server_config(), &with(hello(), at, u32::MAX.to_ne_bytes()), ack());
        accepts(server_config(), &with(hello(), at, 0u32.to_ne_bytes()), ack());
    }
}

#[test]
fn the_smaller_packet_size_is_agreed_if_it_holds_more_than_a_header() {
    for (proposed, agreed) in [(33_u32, 33_u32), (32767, 32767), (32768, 32768), (u32::MAX, 32768)] {
        accepts(server_config(), &with(hello(), 72, proposed.to_ne_bytes()), with(ack(), 64, agreed.to_ne_bytes()));
    }
    for agreed in [0_u32, 1, 32] {
        rejects(&with(hello(), 72, agreed.to_ne_bytes()), 3, RefuseReason::PacketSize { agreed });
    }
}

#[test]
fn of_several_faults_the_first_in_the_contract_s_order_is_told() {
    let all = with(hello(), 36, 2u32.to_ne_bytes()); // no profile
    let all = with(all, 64, 0u64.to_ne_bytes()); // wrong token
    let all = with(all, 44, u32::MAX.to_ne_bytes()); // request limit
    let all = with(all, 72, 1u32.to_ne_bytes()); // packet size
    let profiles = RefuseReason::Profiles { client: Profiles(2), server: Profiles(1) };
    rejects(&all, 4, profiles);
    let all = with(all, 36, 1u32.to_ne_bytes());
    rejects(&all, 2, RefuseReason::Token);
    let all = with(all, 64, TOKEN.to_ne_bytes());
    rejects(&all, 5, RefuseReason::RequestLimit { proposed: u32::MAX, limit: 4096 });
    let all = with(all, 44, 1024u32.to_ne_bytes());
    rejects(&all, 3, RefuseReason::PacketSize { agreed: 1 });
}

#[test]
fn sessions_are_numbered_from_one_by_accept() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Listener::bind(&endpoint, server_config()).unwrap();
    for number in 1..=3_u64 {
        let raw = Raw::connect(endpoint.path().unwrap());
        let silent = number == 2;
        if !silent {
            raw.send(&hello());
        }
        drop(if silent { Some(raw) } else { Some(check(raw, &listener, number)) });
        if silent {
            let gone = listener.accept(&patience()).unwrap().handshake(&patience());
            assert!(matches!(gone, Err(HandshakeError::NoHello(SessionError::Closed))), "{gone:?}");
        }
    }
    fn check(raw: Raw, listener: &Listener, number: u64) -> Raw {
        listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
        assert_eq!(raw.recv(), with(ack(), 72, number.to_ne_bytes()));
        raw
    }
}

// ---- the client's side ----

fn client_config() -> ClientConfig {
    ClientConfig {
        request: Limits { max_payload: 1024, max_items: 1 },
        response: Limits { max_payload: 65536, max_items: 1 },
        token: TOKEN,
        packet_size: Some(65536),
        ..Default::default()
    }
}

/// Connects to a server that answers with `packet` (empty: closes): what the client sent, and what came of it.
fn ask(config: &ClientConfig, packet: &[u8]) -> (Vec<u8>, Result<Session, ConnectError>) {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Raw::listen(endpoint.path().unwrap());
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let raw = listener.accept();
            let hello = raw.recv();
            if !packet.is_empty() {
                raw.send(packet);
            }
            hello
        });
        let outcome = Session::connect(&endpoint, config, &patience());
        (server.join().unwrap(), outcome)
    })
}

fn refusal(packet: &[u8]) -> Refusal {
    match ask(&client_config(), packet).1 {
        Err(ConnectError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_client_s_hello_is_exactly_these_bytes() {
    assert_eq!(ask(&client_config(), &ack()).0, hello());
    let shm = ClientConfig { supported: Profiles(0x07), preferred: Profiles(0x04), ..client_config() };
    let expected = with(with(hello(), 36, 7u32.to_ne_bytes()), 40, 4u32.to_ne_bytes());
    assert_eq!(ask(&shm, &rejection(4)).0, expected);
    // No profile at all stands for the baseline.
    let none = ClientConfig { supported: Profiles::NONE, ..client_config() };
    assert_eq!(ask(&none, &rejection(4)).0, hello());
}

#[test]
fn a_session_uses_the_values_of_the_ack_and_no_others() {
    let packet = with(ack(), 48, 77u32.to_ne_bytes());
    let packet = with(packet, 52, 5u32.to_ne_bytes());
    let packet = with(packet, 60, 6u32.to_ne_bytes());
    let packet = with(packet, 72, 0x1122_3344_5566_7788_u64.to_ne_bytes());
    let session = ask(&client_config(), &packet).1.unwrap();
    let agreement = session.agreement();
    assert_eq!(agreement.request, Limits { max_payload: 77, max_items: 5 });
    assert_eq!(agreement.response, Limits { max_payload: 8192, max_items: 6 });
    assert_eq!((agreement.packet_size, agreement.session_id), (32768, 0x1122_3344_5566_7788));
    assert_eq!(agreement.peer.unwrap().pid.cast_unsigned(), std::process::id());
}

#[test]
fn each_rejection_is_told_apart() {
    assert_eq!(refusal(&rejection(2)), Refusal::AuthFailed);
    assert_eq!(refusal(&rejection(3)), Refusal::Incompatible);
    assert_eq!(refusal(&rejection(4)), Refusal::NoCommonProfile);
    assert_eq!(refusal(&rejection(5)), Refusal::LimitExceeded { proposed: 1024 });
    for status in [1, 6, 7, 0xffff] {
        assert_eq!(refusal(&rejection(status)), Refusal::Unavailable { status: Status(status) });
    }
    // A rejection needs no payload.
    assert_eq!(refusal(&rejection(2)[..32]), Refusal::AuthFailed);
}

#[test]
fn a_server_of_another_version_is_incompatible() {
    assert_eq!(refusal(&with(ack(), 4, 2u16.to_ne_bytes())), Refusal::Incompatible);
}

#[test]
fn an_answer_that_is_no_ack_is_named() {
    let text = |packet: &[u8]| refusal(packet).to_string();
    assert_eq!(text(&ack()[..31]), "the answer to HELLO is no envelope: envelope is truncated: 31 of 32 bytes");
    let magic = "the answer to HELLO is no envelope: envelope magic is 0x00000000, not 0x4e495043";
    assert_eq!(text(&with(ack(), 0, [0; 4])), magic);
    assert_eq!(text(&with(ack(), 8, 2u16.to_ne_bytes())), "the answer to HELLO is kind Response code 2, not HELLO_ACK");
    assert_eq!(text(&with(ack(), 12, 1u16.to_ne_bytes())), "the answer to HELLO is kind Control code 1, not HELLO_ACK");
    assert_eq!(text(&ack()[..79]), "HELLO_ACK is truncated: 47 of 48 bytes");
    assert_eq!(text(&with(ack(), 32, 2u16.to_ne_bytes())), "HELLO_ACK layout is 2, not 1");
    assert_eq!(text(&with(ack(), 34, 1u16.to_ne_bytes())), "HELLO_ACK flags are 0x1, not 0");
}

#[test]
fn a_selected_profile_that_was_not_proposed_or_is_not_one_is_refused() {
    for selected in [0_u32, 2, 3, 0x10] {
        let expected = Refusal::Selected { selected: Profiles(selected), supported: Profiles(1) };
        assert_eq!(refusal(&with(ack(), 44, selected.to_ne_bytes())), expected);
    }
}

#[test]
fn a_packet_size_without_room_or_above_the_proposal_is_refused() {
    for agreed in [0, 32, 65537, u32::MAX] {
        let expected = Refusal::PacketSize { agreed, proposed: 65536 };
        assert_eq!(refusal(&with(ack(), 64, agreed.to_ne_bytes())), expected);
    }
    ask(&client_config(), &with(ack(), 64, 33u32.to_ne_bytes())).1.unwrap();
}

#[test]
fn what_a_client_need_not_look_at_it_does_not() {
    let packet = with(ack(), 36, 0xffff_u32.to_ne_bytes()); // the server's mask
    let packet = with(packet, 40, 0xffff_u32.to_ne_bytes()); // the intersection
    let packet = with(packet, 68, 0xffff_u32.to_ne_bytes()); // reserved
    let mut packet = with(packet, 10, 0xffff_u16.to_ne_bytes()); // envelope flags
    packet.extend([9; 8]);
    ask(&client_config(), &packet).1.unwrap();
}

#[test]
fn a_server_that_hangs_up_instead_of_answering_is_no_server() {
    let outcome = ask(&client_config(), &[]).1;
    assert!(matches!(outcome, Err(ConnectError::Session(SessionError::Closed))), "{outcome:?}");
}

#[test]
fn a_region_that_is_not_there_is_a_failure_of_its_own() {
    let shm = ClientConfig { supported: Profiles(0x03), ..client_config() };
    let outcome = ask(&shm, &with(ack(), 44, 2u32.to_ne_bytes())).1;
    let Err(ConnectError::SharedMemory { path, reason }) = outcome else { panic!("{outcome:?}") };
    assert!(path.ends_with("svc-0000000000000001.ipcshm") && reason.contains("No such file"), "{path:?} {reason}");
}

#[test]
fn a_server_of_a_user_that_is_not_accepted_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Raw::listen(endpoint.path().unwrap());
    let config = ClientConfig { server: UidPolicy::Only(vec![12345]), ..client_config() };
    let outcome = Session::connect(&endpoint, &config, &patience());
    assert!(matches!(outcome, Err(ConnectError::ForeignServer { .. })), "{outcome:?}");
    assert_eq!(listener.accept().recv(), b"", "not even the token");
}

#[test]
fn close_reasons_say_what_came_instead() {
    let (_, outcome) = serve(server_config(), &with(hello(), 60, 5u32.to_ne_bytes()));
    assert!(matches!(outcome, Err(HandshakeError::Closed(CloseReason::Hello(_)))), "{outcome:?}");
}
