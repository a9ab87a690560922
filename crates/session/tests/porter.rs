//! Many quiet asynchronous sessions in shared memory: they share a few threads of their own and take none of the
//! runtime's.
#![cfg(feature = "tokio")]

mod common;

use common::{Carrier, PATIENCE, eventually};
use ginnel_session::SessionError;
use ginnel_session::tokio::{Listener, Session};
use ginnel_wire::{Envelope, Status};
use std::path::Path;

const SESSIONS: usize = 130;

fn runtime() -> tokio::runtime::Runtime {
    // Fewer threads than there are sessions, by far.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("a hang")
}

async fn pairs(dir: &Path, count: usize) -> Vec<(Session, Session)> {
    let listener = Listener::bind(&Carrier::Shm.endpoint(dir), Carrier::Shm.server(64)).await.unwrap();
    let config = Carrier::Shm.client(64, 1);
    let mut pairs = Vec::new();
    for _ in 0..count {
        let server = async { in_time(listener.accept()).await.unwrap().handshake().await.unwrap() };
        let (client, server) = tokio::join!(Session::connect(listener.endpoint(), &config), server);
        pairs.push((client.unwrap(), server));
    }
    pairs
}

/// Threads of this process of that name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

async fn echo(mut session: Session) -> SessionError {
    loop {
        let request = match session.recv().await {
            Ok(request) => request.envelope,
            Err(error) => return error,
        };
        session.send(&Envelope::response_to(&request, Status::OK, 0), b"here").await.unwrap();
    }
}

#[test]
fn hundreds_of_quiet_sessions_leave_the_runtime_its_threads_and_each_is_woken() {
    // Where the kernel cannot wait for many words, each session has a porter of its own.
    if !ginnel_testing::is_native("futex_waitv") {
        return;
    }
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (mut clients, servers): (Vec<_>, Vec<_>) = pairs(dir.path(), SESSIONS).await.into_iter().unzip();
        let servers: Vec<_> = servers.into_iter().map(|server| tokio::spawn(echo(server))).collect();
        let needed = SESSIONS.div_ceil(63);
        eventually("all sleep", || threads("ginnel-porter") >= needed);
        // The blocking pool is free.
        in_time(tokio::task::spawn_blocking(|| ())).await.unwrap();
        for round in 0..3 {
            for client in &mut clients {
                in_time(client.send(&Envelope::request(1, round, 0), b"there?")).await.unwrap();
                assert_eq!(in_time(client.recv()).await.unwrap().payload, b"here");
            }
        }
        assert!(threads("ginnel-porter") <= needed + 2, "{} porters", threads("ginnel-porter"));
        drop(clients);
        for server in servers {
            assert!(matches!(in_time(server).await.unwrap(), SessionError::Closed));
        }
        eventually("those that nobody needs go", || threads("ginnel-porter") <= 1);
    });
}

#[test]
fn a_region_that_is_cut_short_wakes_its_own_session_and_leaves_its_neighbours_asleep() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut pairs = pairs(dir.path(), 3).await;
        let (_cut_client, cut_server) = pairs.remove(1);
        let path = dir.path().join("svc-0000000000000002.ipcshm");
        let servers: Vec<_> = pairs.into_iter().map(|(client, server)| (client, tokio::spawn(echo(server)))).collect();
        let cut = tokio::spawn(echo(cut_server));
        eventually("they sleep", || threads("ginnel-porter") >= 1);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        let said = in_time(cut).await.unwrap();
        assert!(matches!(said, SessionError::Protocol(ginnel_session::ProtocolError::RegionTruncated)), "{said:?}");
        for (mut client, server) in servers {
            in_time(client.send(&Envelope::request(1, 1, 0), b"there?")).await.unwrap();
            assert_eq!(in_time(client.recv()).await.unwrap().payload, b"here");
            drop(client);
            in_time(server).await.unwrap();
        }
    });
}
