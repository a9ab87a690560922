//! Limits of the system: a full file system, a limited file size, a full fd table, and ten thousand segments.
#![cfg(not(loom))]

mod common;

use common::{EXPECT, Place, alone, child, is_child, run, spec};
use ginnel_memory::{Access, HEADER_BYTES, RunDir, Segment, SegmentError};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::unix::process::CommandExt;
use std::path::Path;

#[test]
fn a_full_file_system_is_an_error_that_names_the_bytes_and_leaves_nothing() {
    const NAME: &str = "a_full_file_system_is_an_error_that_names_the_bytes_and_leaves_nothing";
    const MOUNT: &str = "GINNEL_TEST_MOUNT";
    if is_child(NAME) {
        let dir = RunDir::at(&Path::new(&std::env::var(MOUNT).unwrap()).join("run")).unwrap();
        let bytes = HEADER_BYTES + (1 << 20);
        let error = Segment::file(&dir, "big", &spec(1 << 20), 0o600, None).unwrap_err();
        assert!(
            matches!(&error, SegmentError::NoSpace { name, bytes: named, source: Errno::NOSPC } if name == "big" && *named == bytes),
            "{error:?}"
        );
        let said = error.to_string();
        assert!(said.contains(&bytes.to_string()) && said.contains("free some"), "{said}");
        assert!(!dir.path().join("big").exists(), "the failed file is gone");
        Segment::file(&dir, "small", &spec(16 << 10), 0o600, None).expect("there is room for a small one");
        return;
    }
    let root = rustix::process::geteuid().is_root();
    if !ginnel_testing::has_namespaces(if root { "-m" } else { "-Urm" }) {
        return;
    }
    // A file system of 128 KiB that only the child sees, and that goes with it.
    let temp = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(temp.path().to_str().unwrap()).unwrap();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let maps = [
        ("/proc/self/setgroups", "deny".into()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    let mut command = child(NAME);
    command.env(MOUNT, temp.path());
    // SAFETY: between fork and exec the closure makes system calls and opens three files; it takes no lock of ours.
    unsafe {
        command.pre_exec(move || {
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                // Without root's rights: in a user namespace of its own.
                if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                for (file, map) in &maps {
                    std::fs::write(file, map)?;
                }
            }
            let private = libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            );
            let mounted = libc::mount(
                c"tmpfs".as_ptr(),
                path.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                c"size=128k,mode=700".as_ptr().cast(),
            );
            if private != 0 || mounted != 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let (status, said) = run(command);
    assert!(status.success() && said.contains("1 passed"), "{status}: {said}");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nothing outside the child's own file system");
}

#[test]
fn a_limited_file_size_is_an_error_and_not_the_end_of_the_process() {
    alone("a_limited_file_size_is_an_error_and_not_the_end_of_the_process", || {
        let place = Place::new();
        let before = getrlimit(Resource::Fsize);
        // A header is a page of the largest kind, which some machines have.
        let limit = (HEADER_BYTES + (64 << 10)) as u64;
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..before }).unwrap();
        let file = Segment::file(&place.dir, "big", &spec(1 << 20), 0o600, None).map(drop);
        let memfd = Segment::memfd("big", &spec(1 << 20), true).map(drop);
        let small = Segment::memfd("small", &spec(16 << 10), true).map(drop);
        setrlimit(Resource::Fsize, before).unwrap();
        for error in [file.unwrap_err(), memfd.unwrap_err()] {
            assert!(matches!(error, SegmentError::NoSpace { source: Errno::FBIG, .. }), "{error:?}");
        }
        small.unwrap();
        assert!(!place.path("big").exists());
    });
}

#[test]
fn a_full_fd_table_is_an_error_with_advice() {
    alone("a_full_fd_table_is_an_error_with_advice", || {
        let place = Place::new();
        Segment::file(&place.dir, "there", &spec(1), 0o600, None).unwrap();
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..before }).unwrap();
        let mut fill = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            fill.push(file);
        }
        let errors = [
            Segment::memfd("one", &spec(1), true).unwrap_err(),
            Segment::file(&place.dir, "one", &spec(1), 0o600, None).unwrap_err(),
            Segment::open(&place.dir, "there", Access::Read, &EXPECT).unwrap_err(),
        ];
        drop(fill);
        for error in errors {
            assert!(matches!(error, SegmentError::System { source: Errno::MFILE, .. }), "{error:?}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
        Segment::open(&place.dir, "there", Access::Read, &EXPECT).expect("with room again it works");
    });
}

#[test]
fn ten_thousand_segments_leave_no_mapping_no_fd_and_no_file() {
    alone("ten_thousand_segments_leave_no_mapping_no_fd_and_no_file", || {
        let place = Place::new();
        let mirrored = ginnel_memory::Spec { mirror: true, ..spec(4096) };
        let mut round = |n: usize| {
            let spec = if n.is_multiple_of(2) { &mirrored } else { &spec(4096) };
            if n % 4 < 2 {
                let made = Segment::memfd("many", spec, true).unwrap();
                let fd = made.fd().try_clone_to_owned().unwrap();
                Segment::inherit("many", fd, Access::Read, &EXPECT).unwrap();
            } else {
                let made = Segment::file(&place.dir, "many", spec, 0o600, None).unwrap();
                let words = Segment::open(&place.dir, "many", Access::ReadWrite, &EXPECT).unwrap().data_mut();
                drop(made);
                words.store(0, 1, std::sync::atomic::Ordering::Relaxed); // keeps its mapping
                place.dir.remove("many").unwrap();
            }
        };
        (0..8).for_each(&mut round);
        let count = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let shared = maps.lines().filter(|line| line.contains("many")).count();
            (
                shared,
                std::fs::read_dir("/proc/self/fd").unwrap().count(),
                std::fs::read_dir(place.dir.path()).unwrap().count(),
            )
        };
        let lines = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let (before, mappings) = (count(), lines());
        (0..10_000).for_each(&mut round);
        assert_eq!(count(), before, "mappings of segments, fds, files");
        assert!(lines() < mappings + 20, "{} mappings, {mappings} before", lines());
    });
}
