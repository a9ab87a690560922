//! A client against scripted servers: what it retries and how, what it learns and takes back, and what it makes of
//! servers that close or stay.

mod common;

use common::{CODE, Carrier, await_state, eventually, soon};
use ginnel_service::{BaselineClient, BaselineError, BaselineOptions, State};
use ginnel_session::{Endpoint, Listener, ServerConfig, Session, Wait};
use ginnel_wire::{Envelope, Hello, HelloAck, Profiles, Status};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::path::Path;
use std::time::{Duration, Instant};

fn endpoint(dir: &tempfile::TempDir) -> Endpoint {
    Endpoint::seqpacket(dir.path(), "svc").unwrap()
}

/// A server that does what its script says, packet by packet.
struct Script(OwnedFd);

impl Script {
    fn listen(path: &Path) -> Self {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        Self(socket)
    }

    /// Accepts a connection and reads its HELLO.
    fn accept(&self) -> (Self, Hello) {
        let one = Self(rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC).unwrap());
        let hello = Hello::decode(&one.recv()[32..]).unwrap();
        (one, hello)
    }

    /// The same, and grants what was proposed with responses of up to `response` bytes.
    fn session(&self, response: u32) -> (Self, Hello) {
        let (one, hello) = self.accept();
        let ack = HelloAck {
            supported: Profiles::BASELINE,
            intersection: Profiles::BASELINE,
            selected: Profiles::BASELINE,
            max_request_payload: hello.max_request_payload,
            max_request_items: hello.max_request_items,
            max_response_payload: response,
            max_response_items: hello.max_request_items,
            packet_size: hello.packet_size,
            session_id: 1,
        };
        one.send(&ack.packet());
        (one, hello)
    }

    fn recv(&self) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 20];
        let (_, len) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()).unwrap();
        buffer.truncate(len);
        buffer
    }

    fn send(&self, bytes: &[u8]) {
        rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    fn answer(&self, request: &[u8], status: Status, payload: &[u8]) {
        let request = Envelope::decode(request).unwrap();
        let envelope = Envelope::response_to(&request, status, payload.len() as u32);
        self.send(&[&envelope.encode()[..], payload].concat());
    }
}

/// Runs `script` beside `calls`, which get a client that is ready.
fn against<T: Send>(script: impl FnOnce(Script) -> T + Send, calls: impl FnOnce(&mut BaselineClient)) -> T {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = endpoint(&dir);
    let listening = Script::listen(endpoint.path().unwrap());
    std::thread::scope(|scope| {
        let script = scope.spawn(move || script(listening));
        let mut options = Carrier::Seqpacket.client();
        // Small enough that a script which has ended is noticed.
        options.call_timeout = Duration::from_secs(20);
        let mut client = BaselineClient::new(&endpoint, options).unwrap();
        assert_eq!(client.refresh(), State::Ready);
        calls(&mut client);
        drop(client);
        script.join().unwrap()
    })
}

#[test]
fn a_retry_sends_exactly_the_bytes_of_the_first_try_and_there_is_only_one() {
    let seen = against(
        |server| {
            let mut seen = Vec::new();
            for round in 0..4 {
                let (session, _) = server.session(1024);
                if round == 0 {
                    // The first call succeeds, so that ids move on.
                    let request = session.recv();
                    session.answer(&request, Status::OK, b"");
                }
                seen.push(session.recv());
                if round == 3 {
                    session.answer(&seen[3], Status::OK, b"at last");
                    session.recv();
                }
            }
            seen
        },
        |client| {
            client.call(CODE, b"first").unwrap();
            // Lost twice: once tried again, then told.
            let lost = client.call(CODE, b"twice lost");
            assert!(matches!(lost, Err(BaselineError::Session(_))), "{lost:?}");
            assert_eq!((client.state(), client.counters().retries), (State::Broken, 1));
            assert_eq!(client.refresh(), State::Ready);
            assert_eq!(client.call(CODE, b"once lost").unwrap(), b"at last");
        },
    );
    assert_eq!(seen[0], seen[1], "not a byte differs, the id included");
    assert_eq!(&seen[0][32..], b"twice lost");
    assert_eq!(seen[2], seen[3]);
    assert_eq!(&seen[2][32..], b"once lost");
}

#[test]
fn the_deadline_covers_connect_handshake_and_retry() {
    // The session is lost, and the next server takes the connection and says nothing.
    against(
        |server| {
            let (session, _) = server.session(1024);
            session.recv();
            drop(session);
            let (silent, _) = server.accept();
            // Until the client gives up.
            assert_eq!(silent.recv(), b"");
        },
        |client| {
            let begin = Instant::now();
            let late = client.call_until(CODE, b"x", begin + Duration::from_millis(60));
            assert!(matches!(late, Err(BaselineError::TimedOut)), "{late:?}");
            assert!(begin.elapsed() >= Duration::from_millis(60));
        },
    );
}

#[test]
fn a_server_may_close_after_an_error_or_stay() {
    against(
        |server| {
            let (session, _) = server.session(1024);
            for _ in 0..2 {
                let request = session.recv();
                session.answer(&request, Status::INTERNAL_ERROR, b"");
            }
            // It stayed for two. After the third it closes.
            let request = session.recv();
            session.answer(&request, Status::BAD_ENVELOPE, b"");
            drop(session);
            let (session, _) = server.session(1024);
            let request = session.recv();
            session.answer(&request, Status::OK, b"fine");
        },
        |client| {
            for status in [Status::INTERNAL_ERROR, Status::INTERNAL_ERROR, Status::BAD_ENVELOPE] {
                let failed = client.call(CODE, b"x");
                assert!(matches!(failed, Err(BaselineError::Status(told)) if told == status), "{failed:?}");
                assert_eq!(client.state(), State::Ready);
            }
            assert_eq!(client.call(CODE, b"x").unwrap(), b"fine");
            assert_eq!(client.counters().reconnects, 1);
        },
    );
}

#[test]
fn a_request_that_the_server_takes_is_not_refused_because_a_power_of_two_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.session.max_request_payload = 52_096;
    options.session.max_response_payload = 60_000;
    let server = ginnel_service::Server::start(&endpoint(&dir), options, CODE, common::echo).unwrap();
    let mut client = common::ready(server.endpoint(), Carrier::Seqpacket.client());
    for len in [40_000, 52_096, 40_000] {
        assert_eq!(client.call(CODE, &vec![1; len]).unwrap().len(), len);
    }
    // What was refused once is remembered: no session is given up for it again.
    assert!(matches!(client.call(CODE, &[1; 52_097]), Err(BaselineError::RequestTooLarge { len: 52_097, .. })));
    let before = (client.counters().reconnects, server.counters().sessions);
    for len in [52_097, 52_100, 60_000, 500_000] {
        let refused = client.call(CODE, &vec![1; len]);
        assert!(matches!(refused, Err(BaselineError::RequestTooLarge { .. })), "{refused:?}");
    }
    assert_eq!((client.counters().reconnects, server.counters().sessions), before);
    assert_eq!(client.call(CODE, &[1; 52_096]).unwrap().len(), 52_096);
}

#[test]
fn a_refused_request_size_is_taken_back_and_the_service_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.session.max_request_payload = 2048;
    let server = ginnel_service::Server::start(&endpoint(&dir), options, CODE, common::echo).unwrap();
    let mut client = common::ready(server.endpoint(), Carrier::Seqpacket.client());
    for _ in 0..3 {
        // 1024 at first. 2048 is granted, 4096 is not.
        let refused = client.call(CODE, &[1; 3000]);
        assert!(matches!(refused, Err(BaselineError::RequestTooLarge { len: 3000, .. })), "{refused:?}");
        assert_eq!(client.state(), State::Ready, "one large request costs nothing but itself");
        assert_eq!(client.call(CODE, &[1; 1000]).unwrap(), [1; 1000]);
    }
    assert_eq!(client.call(CODE, &[1; 2000]).unwrap().len(), 2000);
    assert_eq!(client.agreement().unwrap().request.max_payload, 2048);
    // Beyond the ceiling nothing is tried.
    let before = client.counters().reconnects;
    assert!(matches!(client.call(CODE, &vec![1; (1 << 20) + 1]), Err(BaselineError::RequestTooLarge { .. })));
    assert_eq!((client.counters().reconnects, client.state()), (before, State::Ready));
}

#[test]
fn a_response_that_never_fits_ends_after_three_hellos_and_two_requests() {
    let (hellos, requests) = against(
        |server| {
            let (mut hellos, mut requests) = (Vec::new(), 0);
            loop {
                let (session, hello) = server.session(1024);
                hellos.push(hello.max_response_payload);
                let request = session.recv();
                if request.is_empty() {
                    return (hellos, requests);
                }
                requests += 1;
                session.answer(&request, Status::LIMIT_EXCEEDED, b"");
            }
        },
        |client| {
            let refused = client.call(CODE, b"too much");
            assert!(matches!(refused, Err(BaselineError::ResponseTooLarge { limit: 1024 })), "{refused:?}");
            assert_eq!(client.state(), State::Ready);
        },
    );
    assert_eq!((hellos, requests), (vec![65536, 131_072, 262_144], 2));
}

#[test]
fn a_response_to_another_method_ends_the_session() {
    against(
        |server| {
            let (session, _) = server.session(1024);
            let request = Envelope::decode(&session.recv()).unwrap();
            let other = Envelope { code: CODE + 1, ..request };
            session.send(&Envelope::response_to(&other, Status::OK, 0).encode());
            assert_eq!(session.recv(), b"");
        },
        |client| {
            assert!(matches!(client.call(CODE, b"x"), Err(BaselineError::Mismatch)));
            assert_eq!(client.state(), State::Broken);
        },
    );
}

#[test]
fn a_response_to_another_method_in_a_pipeline_is_handed_to_nobody() {
    against(
        |server| {
            let (session, _) = server.session(1024);
            let request = session.recv();
            session.answer(&request, Status::OK, b"right");
            let request = Envelope::decode(&session.recv()).unwrap();
            let other = Envelope { code: CODE + 1, ..request };
            session.send(&[&Envelope::response_to(&other, Status::OK, 5).encode()[..], b"wrong"].concat());
            assert_eq!(session.recv(), b"");
        },
        |client| {
            let mut answers = Vec::new();
            let payloads: [&[u8]; 2] = [b"x", b"y"];
            let said = client.pipeline(CODE, &payloads, 1, soon(), |_, answer| answers.push(answer.unwrap().to_vec()));
            assert!(matches!(said, Err(BaselineError::Mismatch)), "{said:?}");
            assert_eq!(answers, [b"right"]);
            assert_eq!((client.state(), client.counters().calls, client.counters().errors), (State::Broken, 1, 1));
        },
    );
}

#[test]
fn a_region_that_cannot_be_attached_leads_to_a_fresh_session_without() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = endpoint(&dir);
    let listening = Script::listen(endpoint.path().unwrap());
    std::thread::scope(|scope| {
        let script = scope.spawn(|| {
            let (one, hello) = listening.accept();
            assert_eq!(hello.supported, Profiles(3));
            let ack = HelloAck {
                supported: Profiles(3),
                intersection: Profiles(3),
                selected: Profiles(2),
                max_request_payload: hello.max_request_payload,
                max_request_items: 1,
                max_response_payload: 1024,
                max_response_items: 1,
                packet_size: 65536,
                session_id: 77,
            };
            one.send(&ack.packet());
            // Closed, not used: a session's profile does not change.
            assert_eq!(one.recv(), b"");
            // Not for good: after a while it is proposed again.
            let mut without = 0;
            loop {
                let (session, hello) = listening.session(1024);
                let proposed = hello.supported == Profiles(3);
                assert!(proposed || hello.supported == Profiles::BASELINE);
                let request = session.recv();
                session.answer(&request, Status::OK, if proposed { b"again" } else { b"by socket" });
                if proposed {
                    return without;
                }
                without += 1;
            }
        });
        let mut client = BaselineClient::new(&endpoint, Carrier::Shm.client()).unwrap();
        let mut proposed = false;
        eventually("shared memory is proposed again", || {
            assert_eq!(client.refresh(), State::Ready);
            proposed = client.call(CODE, b"x").unwrap() == b"again";
            client.close();
            proposed
        });
        drop(client);
        assert!(script.join().unwrap() >= 1, "the failed session was followed by one without");
    });
}

#[test]
fn clients_that_say_nothing_delay_nobody_however_many_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.session.handshake_timeout = Duration::from_secs(600);
    let server = ginnel_service::Server::start(&endpoint(&dir), options, CODE, common::echo).unwrap();
    let path = server.endpoint().path().unwrap().to_owned();
    let mut silent = Vec::new();
    // More than the server keeps: the first of them are dropped, never the newcomer.
    for _ in 0..200 {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        silent.push(socket);
    }
    let mut client = common::ready(server.endpoint(), Carrier::Seqpacket.client());
    assert_eq!(client.call(CODE, b"heard").unwrap(), b"heard");
    eventually("the oldest are dropped", || server.counters().silent >= 72);
    drop(silent);
    eventually("the others leave", || server.counters().silent == 200);
}

#[test]
fn a_silent_client_is_dropped_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.session.handshake_timeout = Duration::from_millis(40);
    let server = ginnel_service::Server::start(&endpoint(&dir), options, CODE, common::echo).unwrap();
    let begin = Instant::now();
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(server.endpoint().path().unwrap()).unwrap()).unwrap();
    // Blocks until the server hangs up.
    let (_, len) = rustix::net::recv(&socket, &mut [0; 8][..], RecvFlags::empty()).unwrap();
    assert_eq!(len, 0);
    assert!(begin.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_client_that_takes_no_responses_is_dropped_after_the_send_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.session.max_response_payload = 1 << 20;
    options.send_timeout = Duration::from_millis(50);
    let server = ginnel_service::Server::start(&endpoint(&dir), options, CODE, common::echo).unwrap();
    let wait = Wait::until(soon());
    let mut slow = Session::connect(server.endpoint(), &Carrier::Seqpacket.client().session, &wait).unwrap();
    for id in 0..3 {
        slow.send(&Envelope::request(CODE, id, 0), b"!size 1000000", &wait).unwrap();
    }
    eventually("it is dropped", || server.counters().requests > 0 && server.counters().active == 0);
}

#[test]
fn a_request_above_the_session_s_limit_is_answered_and_dismissed() {
    // A client that does not check: C's raw sessions may be told 0 for unlimited.
    let dir = tempfile::tempdir().unwrap();
    let server =
        ginnel_service::Server::start(&endpoint(&dir), Carrier::Seqpacket.server(), CODE, common::echo).unwrap();
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(server.endpoint().path().unwrap()).unwrap()).unwrap();
    let raw = Script(socket);
    let hello = Hello {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: 64,
        max_request_items: 1,
        max_response_payload: 64,
        max_response_items: 1,
        auth_token: 7,
        packet_size: 65536,
    };
    raw.send(&hello.packet());
    assert_eq!(raw.recv().len(), 80);
    raw.send(&[&Envelope::request(CODE, 5, 65).encode()[..], &[1; 65]].concat());
    let answer = Envelope::decode(&raw.recv()).unwrap();
    assert_eq!((answer.status, answer.message_id, answer.payload_len), (Status::LIMIT_EXCEEDED, 5, 0));
    assert_eq!(raw.recv(), b"", "and that was its last word");
}

#[test]
fn a_slot_taken_by_a_client_that_left_is_free_at_once() {
    for carrier in common::CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let mut options = carrier.server();
        options.max_sessions = 1;
        let server =
            ginnel_service::Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, common::echo).unwrap();
        for _ in 0..20 {
            let mut client = BaselineClient::new(server.endpoint(), carrier.client()).unwrap();
            await_state(&mut client, State::Ready);
            assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        }
    }
}

#[test]
fn an_endpoint_in_use_stays_its_server_s() {
    let dir = tempfile::tempdir().unwrap();
    let first = Listener::bind(&endpoint(&dir), ServerConfig::default()).unwrap();
    let second = ginnel_service::Server::start(&endpoint(&dir), Carrier::Seqpacket.server(), CODE, common::echo);
    assert!(second.is_err());
    // The probe looked like a client that comes and goes.
    drop(first.accept(&Wait::until(soon())).unwrap());
}

#[test]
fn a_broken_pipeline_sends_what_has_no_answer_once_more() {
    let (first, second) = against(
        |server| {
            let (session, _) = server.session(1024);
            let first: Vec<_> = (0..5).map(|_| session.recv()).collect();
            for request in [&first[3], &first[0], &first[2]] {
                session.answer(request, Status::OK, &request[32..]);
            }
            // It leaves; what it has said is read all the same.
            drop(session);
            let (session, _) = server.session(1024);
            let second: Vec<_> = (0..2).map(|_| session.recv()).collect();
            for request in &second {
                session.answer(request, Status::INTERNAL_ERROR, b"");
            }
            session.recv();
            (first, second)
        },
        |client| {
            let payloads: [&[u8]; 5] = [b"zero", b"one", b"two", b"three", b"four"];
            let mut answers = Vec::new();
            client
                .pipeline(CODE, &payloads, 8, soon(), |index, answer| {
                    if let Ok(answer) = answer {
                        assert_eq!(answer, payloads[index]);
                    }
                    answers.push((index, answer.err()));
                })
                .unwrap();
            let failed = Some(Status::INTERNAL_ERROR);
            assert_eq!(answers, [(3, None), (0, None), (2, None), (1, failed), (4, failed)]);
            assert_eq!(client.counters().retries, 2);
        },
    );
    assert_eq!(second, [first[1].clone(), first[4].clone()], "not a byte differs");
}

#[test]
fn a_pipeline_learns_a_response_limit_and_counts_what_it_sent_twice() {
    let (first, second) = against(
        |server| {
            let (session, _) = server.session(1024);
            let mut first: Vec<_> = (0..4).map(|_| session.recv()).collect();
            session.answer(&first[0], Status::OK, b"0");
            first.push(session.recv());
            session.answer(&first[1], Status::LIMIT_EXCEEDED, b"");
            drop(session);
            let (session, _) = server.session(1024);
            let mut second = Vec::new();
            for number in b"12345" {
                second.push(session.recv());
                session.answer(second.last().unwrap(), Status::OK, &[*number]);
            }
            session.recv();
            (first, second)
        },
        |client| {
            let payloads: [&[u8]; 6] = [b"0", b"1", b"2", b"3", b"4", b"5"];
            let mut answers = 0;
            let check = |index: usize, answer: Result<&[u8], Status>| {
                assert_eq!(answer.unwrap(), payloads[index]);
                answers += 1;
            };
            client.pipeline(CODE, &payloads, 4, soon(), check).unwrap();
            assert_eq!(answers, 6);
            let counters = client.counters();
            // 2, 3 and 4 were on their way behind the one that did not fit.
            assert_eq!((counters.calls, counters.errors, counters.overflows, counters.retries), (6, 0, 1, 3));
        },
    );
    assert_eq!(second[..4], first[1..], "not a byte differs");
}

#[test]
fn a_pipeline_meets_a_limit_as_a_single_call_does_at_any_depth() {
    for carrier in common::CARRIERS {
        for depth in [1, 8, 64, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let server =
                ginnel_service::Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, common::echo)
                    .unwrap();
            let mut client = common::ready(server.endpoint(), carrier.client());
            let mut payloads: Vec<&[u8]> = vec![&[7; 200]; 1000];
            // One that can be learned, one that never can: the server's ceiling is 1 MiB.
            payloads[3] = b"!size 5000";
            payloads[500] = b"!size 2000000";
            let mut answers = vec![0; payloads.len()];
            client
                .pipeline(CODE, &payloads, depth, soon(), |index, answer| {
                    match index {
                        500 => assert_eq!(answer.unwrap_err(), Status::LIMIT_EXCEEDED),
                        3 => assert_eq!(answer.unwrap().len(), 5000),
                        _ => assert_eq!(answer.unwrap(), payloads[index]),
                    }
                    answers[index] += 1;
                })
                .unwrap();
            assert!(answers.iter().all(|times| *times == 1), "{carrier:?} {depth}");
            let counters = client.counters();
            assert_eq!((counters.calls, counters.errors), (999, 1), "{carrier:?} {depth} {counters:?}");
            // Whatever was on its way when a session ended may be sent again, and nothing else.
            let ended = counters.reconnects as usize;
            assert!(counters.retries as usize <= ended * depth.min(999), "{carrier:?} {depth} {counters:?}");
            if depth == 1 || carrier == Carrier::Shm {
                assert!(counters.retries as usize <= ended, "{carrier:?} {depth} {counters:?}");
            }
            server.stop();
        }
    }
}

#[test]
fn a_client_without_a_session_says_why() {
    use ginnel_session::{ConnectError, Refusal, SessionError};
    let dir = tempfile::tempdir().unwrap();
    let endpoint = endpoint(&dir);
    let mut client = BaselineClient::new(&endpoint, Carrier::Seqpacket.client()).unwrap();
    assert!(client.last_error().is_none(), "not tried yet");
    client.refresh();
    assert!(matches!(client.last_error(), Some(ConnectError::NotFound { .. })), "{:?}", client.last_error());

    let mut options = Carrier::Seqpacket.server();
    options.max_sessions = 1;
    let server = ginnel_service::Server::start(&endpoint, options, CODE, common::echo).unwrap();
    let first = common::ready(&endpoint, Carrier::Seqpacket.client());
    assert_eq!(client.refresh(), State::Disconnected);
    let full = client.last_error().unwrap();
    assert!(matches!(full, ConnectError::Refused(Refusal::Unavailable { .. })), "{full:?}");
    drop(first);
    common::await_state(&mut client, State::Ready);
    assert!(client.last_error().is_none(), "it is connected");
    server.stop();

    let _silent = Script::listen(endpoint.path().unwrap());
    for (timeout, abort) in [(Duration::ZERO, false), (Duration::from_millis(30), false), (Duration::MAX, true)] {
        let options = BaselineOptions { connect_timeout: timeout, ..Carrier::Seqpacket.client() };
        let mut client = BaselineClient::new(&endpoint, options).unwrap();
        if abort {
            client.abort_handle().raise();
        }
        assert_eq!(client.refresh(), State::Disconnected);
        let said = client.last_error().unwrap();
        match said {
            ConnectError::Session(SessionError::Aborted) if abort => {}
            ConnectError::Session(SessionError::TimedOut) if !abort => {}
            other => panic!("{timeout:?}: {other:?}"),
        }
    }
}
