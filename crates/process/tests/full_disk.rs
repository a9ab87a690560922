//! Files that rotate on a disk that is full: nothing ends, nothing older is lost for it, and it goes on when there is
//! room.

mod common;

use common::{LONG, Mark, inherited_mark, wait_until};
use ginnel_process::{Command, Daemon, RotatingFile, RunError, Sink};
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

roles!(rotates_on_a_full_disk, rotates_without_inodes, keeps_a_daemon_on_a_full_disk, tees_to_a_full_disk);

/// Plays a role with a file system of its own, of 1 MiB and so many files, mounted where it works.
fn on_a_small_disk(role: &str, inodes: u32) {
    let possible = std::process::Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|s| s.success());
    if !ginnel_testing::has(possible, "needs user and mount namespaces") {
        return;
    }
    let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
    let script = format!("mount -t tmpfs -o size=1m,nr_inodes={inodes} tmpfs . && cd \"$PWD\" && exec \"$0\"");
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]).arg(common::own_program()).current_dir(dir.path());
    command.env(common::sys::ROLE, role).env(common::MARK, mark.value());
    let mut child = command.spawn().unwrap();
    mark.parent(child.id());
    let status = child.wait().unwrap();
    assert!(status.success(), "{role}: {status}");
    mark.assert_gone();
}

/// Takes all the room that is left.
fn fill() -> PathBuf {
    let path = PathBuf::from("filler");
    let mut filler = fs::File::create(&path).unwrap();
    while filler.write(&[0; 512]).is_ok() {}
    path
}

fn line(number: u32) -> String {
    format!("{number:063}\n")
}

/// The lines of all files, from the oldest, each whole or a torn one that ends as a line.
fn lines(keep: u32) -> Vec<String> {
    let names = (1..=keep).rev().map(|number| format!("log.{number}")).chain(["log".to_owned()]);
    names
        .flat_map(|name| fs::read_to_string(name).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn rotates_on_a_full_disk() {
    let mut log = RotatingFile::open("log", 200 << 10, 2).unwrap();
    let mut number = 0;
    let mut next = |log: &mut RotatingFile| {
        number += 1;
        log.write_all(line(number).as_bytes()).map(|()| number)
    };
    // A file and a half.
    for _ in 0..4800 {
        next(&mut log).unwrap();
    }
    let filler = fill();
    let error = (0..100_000).find_map(|_| next(&mut log).err()).expect("there is no room");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let before = lines(2);
    for _ in 0..1000 {
        assert_eq!(next(&mut log).unwrap_err().kind(), ErrorKind::StorageFull);
    }
    let unchanged = lines(2);
    assert!(unchanged.starts_with(&before) && unchanged.len() <= before.len() + 1, "what is older stays");
    fs::remove_file(filler).unwrap();
    let after = next(&mut log).unwrap();
    let all = lines(2);
    assert_eq!(all.last().unwrap(), line(after).trim_end());
    let torn = all.iter().filter(|line| line.len() != 63).count();
    assert!(torn <= 1, "{torn} lines are torn or grown together");
}

fn rotates_without_inodes() {
    // The root, the log and its older one; none for the new log.
    let mut log = RotatingFile::open("log", 640, 1).unwrap();
    fs::write("filler", "").unwrap();
    for number in 0..10 {
        log.write_all(line(number).as_bytes()).unwrap();
    }
    for number in 10..20 {
        let error = log.write_all(line(number).as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert_eq!(lines(1).len(), 10, "nothing is lost by another attempt");
    }
    fs::remove_file("filler").unwrap();
    log.write_all(line(20).as_bytes()).unwrap();
    assert_eq!((lines(1).len(), fs::read_to_string("log").unwrap()), (11, line(20)));
}

fn keeps_a_daemon_on_a_full_disk() {
    let mark = inherited_mark();
    let filler = fill();
    let mut command = mark.shell("n=0; while :; do n=$((n+1)); echo \"line $n of many\"; sleep 0.001; done");
    command.env("PATH", "/usr/bin:/bin");
    let sink = Sink::Writer(Box::new(RotatingFile::open("log", 100 << 10, 2).unwrap()));
    let daemon = Daemon::new("talker", command).output(sink).start().unwrap();
    assert!(wait_until(LONG, || daemon.id().is_some()));
    let leader = daemon.id();
    // Lost lines are all that a full disk costs.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(daemon.id(), leader);
    fs::remove_file(filler).unwrap();
    assert!(wait_until(LONG, || fs::read_to_string("log").is_ok_and(|text| text.lines().count() > 10)));
    assert_eq!((daemon.id(), daemon.restarts()), (leader, 0));
    daemon.stop();
}

fn tees_to_a_full_disk() {
    let mark = inherited_mark();
    let log = RotatingFile::open("log", 4 << 20, 2).unwrap();
    let error = mark.command("yes").tee_stdout(log).run().unwrap_err();
    assert!(matches!(&error, RunError::Stream(error) if error.kind() == ErrorKind::StorageFull), "{error}");
    // And a file that rotates in time never fills it.
    fs::remove_file("log").unwrap();
    let log = RotatingFile::open("log", 100 << 10, 3).unwrap();
    let mut command = Command::new("seq");
    assert!(command.arg("500000").tee_stdout(log).run().unwrap().report.success());
    assert_eq!(lines(3).last().unwrap(), "500000");
}

#[test]
fn a_full_disk_fails_writes_only_as_long_as_it_is_full() {
    on_a_small_disk("rotates_on_a_full_disk", 100);
}

#[test]
fn a_rotation_that_finds_no_room_for_a_new_file_loses_no_older_one() {
    on_a_small_disk("rotates_without_inodes", 3);
}

#[test]
fn a_daemon_goes_on_when_the_disk_of_its_log_is_full() {
    on_a_small_disk("keeps_a_daemon_on_a_full_disk", 100);
}

#[test]
fn a_run_whose_tee_has_no_room_ends_with_its_tree() {
    on_a_small_disk("tees_to_a_full_disk", 100);
}
