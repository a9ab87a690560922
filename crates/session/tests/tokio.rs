//! The async face: the same messages over the same carriers, with futures that may be dropped.
#![cfg(feature = "tokio")]

mod common;

use common::{CARRIERS, Carrier, PATIENCE, Raw, pattern};
use ginnel_session::tokio::{Listener, Session};
use ginnel_session::{HandshakeError, SessionError};
use ginnel_wire::{Envelope, Status};
use std::time::Duration;

async fn pair(carrier: Carrier, dir: &std::path::Path, limit: u32) -> (Session, Session) {
    let listener = Listener::bind(&carrier.endpoint(dir), carrier.server(limit)).await.unwrap();
    let endpoint = listener.endpoint().clone();
    let server = tokio::spawn(async move { listener.accept().await.unwrap().handshake().await.unwrap() });
    let client = Session::connect(&endpoint, &carrier.client(limit, 1)).await.unwrap();
    assert_eq!(client.agreement().profile.is_shared_memory(), carrier == Carrier::Shm);
    (client, server.await.unwrap())
}

async fn echo(mut session: Session) {
    loop {
        let (envelope, payload) = match session.recv().await {
            Ok(request) => (request.envelope, request.payload.to_vec()),
            Err(SessionError::Closed) => return,
            Err(error) => panic!("{error}"),
        };
        session.send(&Envelope::response_to(&envelope, Status::OK, 0), &payload).await.unwrap();
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("a hang")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_sizes_come_back_over_every_carrier() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = pair(carrier, dir.path(), 4 << 20).await;
        let server = tokio::spawn(echo(server));
        for len in [0, 1, 1000, 212_928, 212_929, 1 << 20, 4 << 20] {
            let payload = pattern(len, len);
            in_time(client.send(&Envelope::request(1, len as u64, 0), &payload)).await.unwrap();
            assert!(in_time(client.recv()).await.unwrap().payload == payload, "{carrier:?}: {len} bytes changed");
        }
        drop(client);
        in_time(server).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_only_sends_until_both_sockets_are_full_does_not_deadlock() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = pair(carrier, dir.path(), 100_000).await;
        let server = tokio::spawn(echo(server));
        for id in 0..50 {
            in_time(client.send(&Envelope::request(1, id, 0), &pattern(100_000, id as usize))).await.unwrap();
        }
        assert_eq!(client.in_flight(), 50);
        for id in 0..50 {
            let response = in_time(client.recv()).await.unwrap();
            assert_eq!(response.envelope.message_id, id);
            assert!(response.payload == pattern(100_000, id as usize));
        }
        drop(client);
        in_time(server).await.unwrap();
    }
}

#[tokio::test]
async fn a_receive_that_is_dropped_loses_nothing() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, mut server) = pair(carrier, dir.path(), 4096).await;
        for id in 0..20 {
            client.send(&Envelope::request(1, id, 0), b"question").await.unwrap();
            let dropped = tokio::time::timeout(Duration::from_millis(1), client.recv()).await;
            assert!(dropped.is_err(), "nobody has answered");
            let request = in_time(server.recv()).await.unwrap().envelope;
            server.send(&Envelope::response_to(&request, Status::OK, 0), b"answer").await.unwrap();
            assert_eq!(in_time(client.recv()).await.unwrap().payload, b"answer");
        }
    }
}

#[tokio::test]
async fn a_peer_that_leaves_ends_a_wait_at_once() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = pair(carrier, dir.path(), 4096).await;
        let waiting = tokio::spawn(async move { client.recv().await.map(|_| ()).unwrap_err() });
        tokio::task::yield_now().await;
        drop(server);
        assert!(matches!(in_time(waiting).await.unwrap(), SessionError::Closed), "{carrier:?}");
    }
}

#[tokio::test]
async fn a_silent_client_is_dropped_at_its_deadline_and_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(dir.path());
    let mut config = Carrier::Seqpacket.server(4096);
    config.handshake_timeout = Duration::from_millis(50);
    let listener = Listener::bind(&endpoint, config).await.unwrap();
    let silent = Raw::connect(endpoint.path().unwrap());
    let silenced = tokio::spawn(listener.accept().await.unwrap().handshake());
    let server = tokio::spawn(async move { listener.accept().await.unwrap().handshake().await.unwrap() });
    let mut client = in_time(Session::connect(&endpoint, &Carrier::Seqpacket.client(4096, 1))).await.unwrap();
    client.send(&Envelope::request(1, 1, 0), b"x").await.unwrap();
    assert_eq!(in_time(in_time(server).await.unwrap().recv()).await.unwrap().payload, b"x");
    let refused = in_time(silenced).await.unwrap();
    assert!(matches!(refused, Err(HandshakeError::NoHello(SessionError::TimedOut))), "{refused:?}");
    drop(silent);
}

/// On a runtime of one thread: whoever keeps that thread while it waits for the lock keeps the one who has it, too.
#[tokio::test]
async fn binding_waits_for_the_directory_and_blocks_no_runtime_thread() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(dir.path());
    let lock = ginnel_memory::RunDir::at(dir.path()).unwrap().lock().unwrap();
    let ((), bound) = in_time(async {
        tokio::join!(biased; async {
            tokio::task::yield_now().await;
            drop(lock);
        }, Listener::bind(&endpoint, Carrier::Seqpacket.server(64)))
    })
    .await;
    bound.unwrap();
}

#[tokio::test]
async fn half_a_request_ends_its_session_after_the_message_timeout() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut config = Carrier::Stream.server(64);
    config.message_timeout = Duration::from_millis(20);
    let listener = Listener::bind(&Carrier::Stream.endpoint(dir.path()), config).await.unwrap();
    let mut raw = std::os::unix::net::UnixStream::connect(listener.endpoint().path().unwrap()).unwrap();
    raw.write_all(&ginnel_session::proto::propose(&Carrier::Stream.client(64, 1), 1024).packet()).unwrap();
    let mut session = in_time(async { listener.accept().await.unwrap().handshake().await.unwrap() }).await;
    raw.write_all(&Envelope::request(1, 1, 8).encode()[..20]).unwrap();
    let said = in_time(session.recv()).await.map(drop);
    assert!(matches!(said, Err(SessionError::Stalled)), "{said:?}");
}
