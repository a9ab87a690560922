//! Who may open what: modes under any umask, foreign users, descriptors that programs started from here never see,
//! links.

mod common;

use common::{CARRIERS, Carrier, Raw, connect_to, patience};
use ginnel_session::{
    ClientConfig, ConnectError, Endpoint, HandshakeError, ListenError, Listener, Refusal, RefuseReason, ServerConfig,
    Session,
};
use ginnel_wire::{HelloAck, Profiles};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const FOREIGN: u32 = 54321;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs in a process of its own, since a umask is a process's. Does nothing when it is not told to.
#[test]
fn child() {
    let Ok(umask) = std::env::var("GINNEL_TEST_UMASK") else { return };
    let umask = rustix::fs::Mode::from_raw_mode(u32::from_str_radix(&umask, 8).unwrap());
    let dir = tempfile::tempdir().unwrap();
    rustix::process::umask(umask);
    let (stop, looks) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        // Setting it and setting it back would be seen by another thread, and would give its files the wrong mode.
        let watch = scope.spawn(|| {
            let expected = format!("{:04o}", umask.bits());
            while !stop.load(Ordering::Relaxed) {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let found = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim();
                assert_eq!(found, expected, "the umask was touched");
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        common::eventually("the watch looks", || looks.load(Ordering::Relaxed) > 0);
        for _ in 0..200 {
            drop(Listener::bind(&Carrier::Seqpacket.endpoint(dir.path()), Carrier::Seqpacket.server(64)).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    assert!(looks.into_inner() > 10);
    for carrier in [Carrier::Shm, Carrier::Stream] {
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(64)).unwrap();
        let _session = connect_to(&listener, &carrier.client(64, 1));
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), if carrier == Carrier::Shm { 2 } else { 1 }, "socket and region");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{} under umask {umask:?}", file.display());
        }
    }
    assert_eq!(rustix::process::umask(umask), umask, "the umask was not touched");
    println!("checked");
}

#[test]
fn sockets_and_regions_are_owner_only_under_any_umask() {
    for umask in ["000", "022", "077", "177", "277"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env("GINNEL_TEST_UMASK", umask)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("checked"), "umask {umask}: {output:?}");
    }
}

/// Runs `as_foreigner` in a thread with another user id: on Linux credentials are a thread's. Root only.
fn as_foreigner<T: Send>(as_foreigner: impl FnOnce() -> T + Send) -> Option<T> {
    if !ginnel_testing::is_root("to become another user") {
        return None;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let uid = rustix::process::Uid::from_raw(FOREIGN);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            as_foreigner()
        });
        Some(thread.join().unwrap())
    })
}

/// A run directory that a foreign user can look into.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_foreign_user_cannot_open_the_socket() {
    let dir = open_dir();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let _listener = Listener::bind(&endpoint, ServerConfig::default()).unwrap();
    let Some(refused) = as_foreigner(|| Session::connect(&endpoint, &ClientConfig::default(), &patience())) else {
        return;
    };
    let Err(ConnectError::Denied { source, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn a_foreign_user_is_refused_even_if_somebody_opened_the_socket_to_all() {
    let dir = open_dir();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Listener::bind(&endpoint, ServerConfig::default()).unwrap();
    std::fs::set_permissions(endpoint.path().unwrap(), std::fs::Permissions::from_mode(0o666)).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            for _ in 0..2 {
                let incoming = listener.accept(&patience()).unwrap();
                if incoming.peer().unwrap().uid == FOREIGN {
                    let refused = incoming.handshake(&patience());
                    let reason = RefuseReason::User { uid: FOREIGN };
                    assert!(
                        matches!(refused, Err(HandshakeError::Refused { reason: why, .. }) if why == reason),
                        "{refused:?}"
                    );
                } else {
                    incoming.handshake(&patience()).unwrap();
                }
            }
        });
        let refused = as_foreigner(|| Session::connect(&endpoint, &ClientConfig::default(), &patience()));
        if let Some(refused) = refused {
            assert!(matches!(refused, Err(ConnectError::Refused(Refusal::AuthFailed))), "{refused:?}");
        } else {
            Session::connect(&endpoint, &ClientConfig::default(), &patience()).unwrap();
        }
        // The server's own user is let in.
        Session::connect(&endpoint, &ClientConfig::default(), &patience()).unwrap();
        server.join().unwrap();
    });
}

#[test]
fn no_descriptor_outlives_an_exec() {
    let dir = tempfile::tempdir().unwrap();
    let mut alive = Vec::new();
    for carrier in CARRIERS {
        let dir = dir.path().join(format!("{carrier:?}"));
        std::fs::create_dir(&dir).unwrap();
        let listener = Listener::bind(&carrier.endpoint(&dir), carrier.server(64)).unwrap();
        let sessions = connect_to(&listener, &carrier.client(64, 1));
        alive.push((listener, sessions, ginnel_session::Abort::new().unwrap()));
    }
    // Seen from a program that was started: only what it was given.
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    assert!(!listing.contains("socket:") && !listing.contains("ipcshm"), "{listing}");
    assert!(!listing.contains("eventfd") && !listing.contains("eventpoll"), "{listing}");
    assert!(!listing.contains(dir.path().to_str().unwrap()), "{listing}");
    drop(alive);
}

#[test]
fn attaching_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Raw::listen(endpoint.path().unwrap());
    let precious = dir.path().join("precious");
    std::fs::write(&precious, [0; 8192]).unwrap();
    std::os::unix::fs::symlink(&precious, dir.path().join("svc-0000000000000001.ipcshm")).unwrap();
    let ack = HelloAck {
        supported: Profiles(3),
        intersection: Profiles(3),
        selected: Profiles(2),
        max_request_payload: 1024,
        max_request_items: 1,
        max_response_payload: 1024,
        max_response_items: 1,
        packet_size: 1024,
        session_id: 1,
    };
    let config = ClientConfig { supported: Profiles(3), ..ClientConfig::default() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let raw = listener.accept();
            raw.recv();
            raw.send(&ack.packet());
        });
        let refused = Session::connect(&endpoint, &config, &patience());
        let Err(ConnectError::SharedMemory { reason, .. }) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("symbolic links"), "{reason}");
    });
    assert_eq!(std::fs::read(&precious).unwrap(), [0; 8192]);
}

#[test]
fn tcp_needs_a_token_and_stays_on_loopback() {
    assert!(Endpoint::tcp("0.0.0.0:0".parse().unwrap()).is_err());
    assert!(Endpoint::tcp("192.0.2.1:1".parse().unwrap()).is_err());
    let endpoint = Endpoint::tcp("[::1]:0".parse().unwrap());
    assert!(endpoint.is_ok(), "{endpoint:?}");
    let refused = Listener::bind(&Endpoint::tcp("127.0.0.1:0".parse().unwrap()).unwrap(), ServerConfig::default());
    assert!(matches!(refused, Err(ListenError::TokenRequired { .. })), "{refused:?}");
}

#[test]
fn names_and_paths_that_cannot_be_services_are_refused() {
    for name in ["", ".", "..", "a/b", "a b", "ä", "a\0", "a\n"] {
        assert!(Endpoint::seqpacket("/run", name).is_err(), "{name:?}");
    }
    for name in ["a", "cgroups-lookup", "A.b_c-9", "...", ".a"] {
        assert!(Endpoint::seqpacket("/run", name).is_ok(), "{name:?}");
    }
    // 107 bytes is the longest path that fits with its NUL.
    let service = "x".repeat(107 - "/run/.sock".len());
    assert_eq!(Endpoint::seqpacket("/run", &service).unwrap().path().unwrap().as_os_str().len(), 107);
    assert!(Endpoint::seqpacket("/run", &format!("{service}x")).is_err());
    assert!(Endpoint::stream("/run", &service).is_err());
}
