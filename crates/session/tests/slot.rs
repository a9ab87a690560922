//! The shared-memory profile against a scripted peer, in both roles: offsets, counters and futex calls are written here
//! as the contract draws them, none of our layout code is used.

mod common;

use common::{Carrier, Raw, eventually, patience, sleeps, this_thread, until_asleep};
use ginnel_memory::ForeignFile;
use ginnel_session::{ConnectError, Endpoint, Listener, ProtocolError, Session, SessionError, Wait};
use ginnel_wire::{Envelope, Hello, HelloAck, Profiles, Status};
use rustix::io::Errno;
use std::path::Path;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::{Duration, Instant};

/// One direction of a region: where its counter, length, signal and bytes are.
#[derive(Clone, Copy)]
struct Lane {
    seq: usize,
    len: usize,
    signal: usize,
    area: usize,
}

/// Limits of 4096 and 65536, as in the contract's example.
const REQUEST: Lane = Lane { seq: 32, len: 48, signal: 56, area: 64 };
const RESPONSE: Lane = Lane { seq: 40, len: 52, signal: 60, area: 4224 };
const FILE: usize = 69824;
/// Lengths and signals are words of 32 bits.
const NARROW: std::ops::Range<usize> = 48..64;

/// Publishes as the contract says, step by step. Returns how many sleepers were woken.
fn publish(file: &ForeignFile, lane: Lane, message: &[u8]) -> usize {
    file.copy_in(lane.area, message);
    file.store_u32(lane.len, message.len() as u32, Release);
    file.add_u64(lane.seq, 1, AcqRel);
    file.add_u32(lane.signal, 1, AcqRel);
    file.futex_wake(lane.signal, 1).unwrap()
}

/// Sleeps until message `expected` is there, as a peer does that never spins: a publisher that wakes nobody, or only
/// its own process, leaves it asleep until the test's patience is over.
fn sleep_for(file: &ForeignFile, lane: Lane, expected: u64) -> Vec<u8> {
    let give_up = Instant::now() + common::PATIENCE;
    loop {
        let signal = file.load_u32(lane.signal, Acquire);
        if file.load_u64(lane.seq, Acquire) >= expected {
            let mut message = vec![0; file.load_u32(lane.len, Acquire) as usize];
            file.copy_out(lane.area, &mut message);
            return message;
        }
        let left = give_up.checked_duration_since(Instant::now()).expect("never woken");
        match file.futex_wait(lane.signal, signal, Some(left)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

fn counters(file: &ForeignFile, lane: Lane) -> (u64, u32) {
    (file.load_u64(lane.seq, Acquire), file.load_u32(lane.signal, Acquire))
}

fn message(envelope: &Envelope, payload: &[u8]) -> Vec<u8> {
    [&Envelope { payload_len: payload.len() as u32, ..*envelope }.encode()[..], payload].concat()
}

#[test]
fn a_scripted_client_is_served_and_woken_by_our_server() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let mut config = Carrier::Shm.server(4096);
    config.max_response_payload = 65536;
    let listener = Listener::bind(&endpoint, config).unwrap();
    let raw = Raw::connect(endpoint.path().unwrap());
    let hello = Hello {
        supported: Profiles(0x06 | 1),
        preferred: Profiles(0),
        max_request_payload: 4096,
        max_request_items: 1,
        max_response_payload: 0,
        max_response_items: 0,
        auth_token: 7,
        packet_size: 65536,
    };
    raw.send(&hello.packet());
    let mut session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    raw.recv();
    let path = dir.path().join("svc-0000000000000001.ipcshm");
    let file = ForeignFile::open(rustix::fs::CWD, &path, NARROW).unwrap();
    assert_eq!(file.len(), FILE);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let file = &file;
        let client = scope.spawn(move || {
            tell.send(this_thread()).unwrap();
            for id in 1..=50_u64 {
                let payload = common::pattern(id as usize * 80, 1);
                publish(file, REQUEST, &message(&Envelope::request(3, id, 0), &payload));
                let response = sleep_for(file, RESPONSE, id);
                let envelope = Envelope::decode(&response).unwrap();
                assert_eq!((envelope.message_id, envelope.payload_len as usize), (id, response.len() - 32));
                assert_eq!(response[32..], common::pattern(id as usize * 1000, 2));
            }
        });
        let sleeper = told.recv().unwrap();
        for id in 1..=50_u64 {
            let request = session.recv(&patience()).unwrap();
            assert_eq!((request.envelope.message_id, request.envelope.code), (id, 3));
            assert_eq!(request.payload, common::pattern(id as usize * 80, 1));
            let answer = Envelope::response_to(&request.envelope, Status::OK, 0);
            if id % 5 == 0 {
                // The scripted client must be woken by the kernel's hand.
                assert_eq!(until_asleep(sleeper), libc::SYS_futex);
            }
            session.send(&answer, &common::pattern(id as usize * 1000, 2), &patience()).unwrap();
        }
        client.join().unwrap();
    });
    // One count a message, on both words, and none more from our side: nothing was ever aborted here.
    assert_eq!(counters(&file, RESPONSE), (50, 50));
    assert_eq!(counters(&file, REQUEST), (50, 50));
}

#[test]
fn a_count_that_jumps_ends_the_session_and_brings_no_message_twice() {
    for jump in [2, 1 << 62, u64::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
        let listener = Listener::bind(&endpoint, Carrier::Shm.server(4096)).unwrap();
        let raw = Raw::connect(endpoint.path().unwrap());
        let hello = Hello {
            supported: Profiles(0x03),
            preferred: Profiles(0),
            max_request_payload: 4096,
            max_request_items: 1,
            max_response_payload: 0,
            max_response_items: 0,
            auth_token: 7,
            packet_size: 65536,
        };
        raw.send(&hello.packet());
        let mut session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
        raw.recv();
        let file = ForeignFile::open(rustix::fs::CWD, dir.path().join("svc-0000000000000001.ipcshm"), NARROW).unwrap();
        publish(&file, REQUEST, &message(&Envelope::request(3, 1, 0), b"once"));
        let request = session.recv(&patience()).unwrap();
        let answer = Envelope::response_to(&request.envelope, Status::OK, 0);
        session.send(&answer, b"", &patience()).unwrap();
        file.add_u64(REQUEST.seq, jump, AcqRel);
        file.add_u32(REQUEST.signal, 1, AcqRel);
        file.futex_wake(REQUEST.signal, 1).unwrap();
        let said = session.recv(&patience()).map(|message| message.envelope).unwrap_err();
        let expected = ProtocolError::SlotSequence { seq: 1u64.wrapping_add(jump), expected: 2 };
        assert!(matches!(&said, SessionError::Protocol(error) if *error == expected), "{said:?}");
    }
}

/// A region as a server of the field makes it.
fn make_region(path: &Path) -> ForeignFile {
    let file = ForeignFile::create(rustix::fs::CWD, path, FILE, NARROW).unwrap();
    let mut header = Vec::new();
    header.extend(0x4e53_484d_u32.to_ne_bytes());
    header.extend(3u16.to_ne_bytes());
    header.extend(64u16.to_ne_bytes());
    for word in [std::process::id(), 12345, 64, 4160, 4224, 65600] {
        header.extend(word.to_ne_bytes());
    }
    file.copy_in(0, &header);
    file
}

#[test]
fn a_scripted_server_serves_and_wakes_our_client() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listening = Raw::listen(endpoint.path().unwrap());
    let path = dir.path().join("svc-00000000000000ab.ipcshm");
    let file = make_region(&path);
    // It need not begin at zero: clients remember where it stood.
    for _ in 0..7 {
        file.add_u64(RESPONSE.seq, 1, AcqRel);
    }
    let ack = HelloAck {
        supported: Profiles(0x07),
        intersection: Profiles(0x03),
        selected: Profiles(0x02),
        max_request_payload: 4096,
        max_request_items: 1,
        max_response_payload: 65536,
        max_response_items: 1,
        packet_size: 65536,
        session_id: 0xab,
    };
    let our_client = this_thread();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let raw = listening.accept();
            raw.recv();
            raw.send(&ack.packet());
            let mut woken = 0;
            for id in 1..=50_u64 {
                let request = sleep_for(&file, REQUEST, id);
                let envelope = Envelope::decode(&request).unwrap();
                assert_eq!((envelope.message_id, envelope.payload_len as usize), (id, request.len() - 32));
                if id % 5 == 0 {
                    assert_eq!(until_asleep(our_client), common::two_words());
                }
                let answer = Envelope::response_to(&envelope, Status::OK, 0);
                woken += publish(&file, RESPONSE, &message(&answer, &request[32..]));
            }
            assert_eq!(raw.recv(), b"", "nothing travels on the socket, which the client closes in the end");
            woken
        });
        let mut client = Session::connect(&endpoint, &Carrier::Shm.client(4096, 1), &patience()).unwrap();
        for id in 1..=50_u64 {
            let payload = common::pattern(id as usize * 80, 3);
            client.send(&Envelope::request(3, id, 0), &payload, &patience()).unwrap();
            assert_eq!(client.recv(&patience()).unwrap().payload, payload);
        }
        drop(client);
        assert!(server.join().unwrap() > 0, "a client that waits long is asleep, and costs no processor");
    });
    assert_eq!(counters(&file, REQUEST), (50, 50));
    assert!(path.exists(), "a client only unmaps");
}

#[test]
fn a_server_that_lies_about_the_length_of_its_response_is_named() {
    for len in [0, 65601, u32::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
        let listening = Raw::listen(endpoint.path().unwrap());
        let file = make_region(&dir.path().join("svc-0000000000000001.ipcshm"));
        let ack = HelloAck {
            supported: Profiles(3),
            intersection: Profiles(3),
            selected: Profiles(2),
            max_request_payload: 4096,
            max_request_items: 1,
            max_response_payload: 65536,
            max_response_items: 1,
            packet_size: 65536,
            session_id: 1,
        };
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let raw = listening.accept();
                raw.recv();
                raw.send(&ack.packet());
                let request = Envelope::decode(&sleep_for(&file, REQUEST, 1)).unwrap();
                file.copy_in(RESPONSE.area, &message(&Envelope::response_to(&request, Status::OK, 0), b"x"));
                file.store_u32(RESPONSE.len, len, Release);
                file.add_u64(RESPONSE.seq, 1, AcqRel);
                file.add_u32(RESPONSE.signal, 1, AcqRel);
                file.futex_wake(RESPONSE.signal, 1).unwrap();
                raw
            });
            let mut client = Session::connect(&endpoint, &Carrier::Shm.client(4096, 1), &patience()).unwrap();
            client.send(&Envelope::request(3, 1, 0), b"x", &patience()).unwrap();
            let said = client.recv(&patience()).map(|_| ()).unwrap_err();
            let expected = ProtocolError::SlotLength { len, capacity: 65600 };
            assert!(matches!(&said, SessionError::Protocol(error) if *error == expected), "{said:?}");
            server.join().unwrap();
        });
    }
}

#[test]
fn a_region_that_is_not_ready_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listening = Raw::listen(endpoint.path().unwrap());
    let path = dir.path().join("svc-0000000000000001.ipcshm");
    // There, but empty: its server has not come further yet.
    std::fs::write(&path, "").unwrap();
    let ack = HelloAck {
        supported: Profiles(3),
        intersection: Profiles(3),
        selected: Profiles(2),
        max_request_payload: 4096,
        max_request_items: 1,
        max_response_payload: 65536,
        max_response_items: 1,
        packet_size: 65536,
        session_id: 1,
    };
    let connect = |wait: &Wait<'_>| Session::connect(&endpoint, &Carrier::Shm.client(4096, 1), wait);
    let client = this_thread();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for ready in [false, true] {
                let raw = listening.accept();
                raw.recv();
                let before = sleeps(client);
                raw.send(&ack.packet());
                if ready {
                    // Once for the ack, and then between looks at the region.
                    eventually("the client has looked several times", || sleeps(client) > before + 3);
                    std::fs::remove_file(dir.path().join("made")).ok();
                    make_region(&dir.path().join("made"));
                    std::fs::rename(dir.path().join("made"), &path).unwrap();
                }
                raw.recv();
            }
        });
        // Long enough to reach the server also under an emulator: else the second connection meets its first turn.
        let late = connect(&Wait::at_most(Duration::from_millis(500)));
        // Not the region's fault: the client must not give shared memory up for good.
        assert!(matches!(late, Err(ConnectError::Session(SessionError::TimedOut))), "{late:?}");
        drop(connect(&patience()).unwrap());
    });
}

#[test]
fn a_region_that_a_client_of_a_dead_server_still_holds_costs_its_number_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let region = |id: u64| dir.path().join(format!("svc-{id:016x}.ipcshm"));
    // Of another program, whose pid is nobody's: as long as somebody holds it open for writing, it may live.
    let held = [1, 2].map(|id| {
        let file = make_region(&region(id));
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::File::options().write(true).open(region(id)).unwrap(),
            &i32::MAX.to_ne_bytes(),
            8,
        )
        .unwrap();
        file
    });
    let listener = Listener::bind(&endpoint, Carrier::Shm.server(64)).unwrap();
    for id in [3, 4] {
        let (client, server) = common::connect_to(&listener, &Carrier::Shm.client(64, 1));
        let agreed = (client.agreement().session_id, server.agreement().session_id);
        assert!(client.agreement().profile.is_shared_memory());
        assert_eq!(agreed, (id, id));
    }
    assert!(region(1).exists() && region(2).exists());
    drop(held);
}
