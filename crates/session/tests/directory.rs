//! The run directory: who may keep a server from starting, who may take its name, and who talks to whom in whose
//! directory.

mod common;

use common::{Raw, patience};
use ginnel_session::{
    ClientConfig, ConnectError, Endpoint, HandshakeError, ListenError, Listener, RefuseReason, ServerConfig, Session,
    WritableDir,
};
use rustix::fs::{FlockOperation, flock};
use rustix::net::RecvFlags;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

const MONITOR: u32 = 54321;
const STRANGER: u32 = 54322;
const USER: u32 = 54323;

/// Runs `act` in a thread with another user id and group: on Linux credentials are a thread's. Root only.
fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (user, group) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(group, group, group).unwrap();
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

fn is_root() -> bool {
    ginnel_testing::is_root("to become another user")
}

fn dir(owner: u32, mode: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(owner), Some(owner)).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    dir
}

fn endpoint(dir: &tempfile::TempDir) -> Endpoint {
    Endpoint::seqpacket(dir.path(), "svc").unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn whoever_may_only_read_the_directory_cannot_keep_a_server_from_starting() {
    if !is_root() {
        return;
    }
    for owner in [0, MONITOR] {
        let dir = dir(owner, 0o755);
        let held = as_user(STRANGER, || {
            let held = std::fs::File::open(dir.path()).unwrap();
            flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
            held
        });
        as_user(owner, || drop(Listener::bind(&endpoint(&dir), ServerConfig::default()).unwrap()));
        assert_eq!(names(dir.path()), [""; 0]);
        drop(held);
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_on_both_sides_unless_it_is_allowed() {
    for mode in [0o770, 0o775, 0o707, 0o777, 0o1777] {
        let dir = dir(rustix::process::geteuid().as_raw(), mode);
        let endpoint = endpoint(&dir);
        let expected = WritableDir { path: dir.path().to_owned(), mode };
        let refused = Listener::bind(&endpoint, ServerConfig::default());
        assert!(matches!(&refused, Err(ListenError::WritableDir(error)) if *error == expected), "{refused:?}");
        assert_eq!(names(dir.path()), [""; 0], "it has touched nothing");

        let allowed = ServerConfig { allow_writable_dir: true, ..ServerConfig::default() };
        let listener = Listener::bind(&endpoint, allowed).unwrap();
        let refused = Session::connect(&endpoint, &ClientConfig::default(), &patience());
        assert!(matches!(&refused, Err(ConnectError::WritableDir(error)) if *error == expected), "{refused:?}");
        assert!(listener.try_accept().unwrap().is_none(), "it has not even connected");
        let allowed = ClientConfig { allow_writable_dir: true, ..ClientConfig::default() };
        common::connect_to(&listener, &allowed);
    }
}

/// What a stranger leaves in a sticky directory stays there. It may be in nobody's way.
#[test]
fn a_stranger_s_files_in_a_sticky_directory_hold_nobody_up() {
    if !is_root() {
        return;
    }
    let allowed = ServerConfig { allow_writable_dir: true, ..ServerConfig::default() };
    for server in [USER, 0] {
        let dir = dir(0, 0o1777);
        let strange = [".ginnel-bind", ".ginnel-bind-0000000000000001", ".directory"];
        let held = as_user(STRANGER, || {
            strange.map(|name| {
                let file = std::fs::File::create(dir.path().join(name)).unwrap();
                file.set_permissions(std::fs::Permissions::from_mode(0o666)).unwrap();
                flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
                file
            })
        });
        as_user(server, || {
            let listener = Listener::bind(&endpoint(&dir), allowed.clone()).unwrap();
            let client = ClientConfig { allow_writable_dir: true, ..ClientConfig::default() };
            common::connect_to(&listener, &client);
        });
        drop(held);
    }
}

#[test]
fn root_and_the_owner_of_the_directory_meet_in_it_and_nobody_else_is_let_in() {
    if !is_root() {
        return;
    }
    let dir = dir(MONITOR, 0o755);
    let endpoint = endpoint(&dir);
    for (server, open) in [(MONITOR, false), (0, true)] {
        let listener = as_user(server, || Listener::bind(&endpoint, ServerConfig::default()).unwrap());
        let socket = endpoint.path().unwrap();
        assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
        if open {
            // The kernel lets only root through the mode of root's socket: an administrator has opened it.
            std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        for client in [MONITOR, 0] {
            std::thread::scope(|scope| {
                let listener = &listener;
                let serving = scope.spawn(move || {
                    as_user(server, || listener.accept(&patience()).unwrap().handshake(&patience()).unwrap())
                });
                as_user(client, || Session::connect(&endpoint, &ClientConfig::default(), &patience()).unwrap());
                serving.join().unwrap();
            });
        }
        // Neither here nor there is a third user somebody, whatever the mode of the socket.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::thread::scope(|scope| {
            let listener = &listener;
            let serving = scope.spawn(move || {
                as_user(server, || listener.accept(&patience()).unwrap().handshake(&patience()).map(drop))
            });
            as_user(STRANGER, || Session::connect(&endpoint, &ClientConfig::default(), &patience()).unwrap_err());
            let refused = serving.join().unwrap().unwrap_err();
            let reason = RefuseReason::User { uid: STRANGER };
            assert!(matches!(refused, HandshakeError::Refused { reason: why, .. } if why == reason), "{refused:?}");
        });
    }
}

#[test]
fn a_stranger_that_took_the_name_first_is_told_no_token() {
    if !is_root() {
        return;
    }
    let dir = dir(0, 0o1777);
    let endpoint = endpoint(&dir);
    let listening = as_user(STRANGER, || {
        let listening = Raw::listen(endpoint.path().unwrap());
        std::fs::set_permissions(endpoint.path().unwrap(), std::fs::Permissions::from_mode(0o666)).unwrap();
        listening
    });
    for user in [USER, 0] {
        let config = ClientConfig { token: 7, allow_writable_dir: true, ..ClientConfig::default() };
        let refused = as_user(user, || Session::connect(&endpoint, &config, &patience()));
        assert!(matches!(refused, Err(ConnectError::ForeignServer { uid: STRANGER })), "{refused:?}");
        let connection = listening.accept();
        let (_, len) = rustix::net::recv(&connection.0, &mut [0; 128][..], RecvFlags::empty()).unwrap();
        assert_eq!(len, 0, "it was told something");
    }
    let refused = as_user(USER, || {
        Listener::bind(&endpoint, ServerConfig { allow_writable_dir: true, ..ServerConfig::default() })
    });
    assert!(matches!(refused, Err(ListenError::InUse { .. })), "{refused:?}");
}

#[test]
fn many_servers_that_start_at_once_leave_one_and_no_file() {
    let dir = dir(rustix::process::geteuid().as_raw(), 0o700);
    for round in 0..common::size(20, 500) {
        if round % 2 == 0 {
            // A stale socket.
            drop(Raw::listen(endpoint(&dir).path().unwrap()));
        }
        let all = std::sync::Barrier::new(4);
        let winners: Vec<Listener> = std::thread::scope(|scope| {
            let start = || {
                all.wait();
                Listener::bind(&endpoint(&dir), ServerConfig::default()).ok()
            };
            let starting: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            starting.into_iter().filter_map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(names(dir.path()), ["svc.sock"]);
        // The others have knocked to see whether it lives.
        while winners[0].try_accept().unwrap().is_some() {}
        common::connect_to(&winners[0], &ClientConfig::default());
        drop(winners);
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
