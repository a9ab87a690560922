//! Who has nothing to do does nothing.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, soak, tell, until};
use ginnel_channel::{Mode, Reader, Writer, inspect};
use std::time::Duration;

/// Role: waits for a record that never comes.
pub(crate) fn reader() {
    let mut reader: Reader<u64> =
        Reader::builder().run_dir(argument("dir")).wait(PATIENCE).open("quiet").expect("open");
    tell("joined");
    assert_eq!(reader.recv().expect("a record"), 1);
    tell("woken");
    listen();
}

/// Role: has a channel and does not use it, but once.
pub(crate) fn writer() {
    let mut writer: Writer<u64> =
        Writer::builder().run_dir(argument("dir")).mode(Mode::Lossless).create("quiet").expect("create");
    tell("created");
    listen();
    writer.publish(&1).expect("publish");
    tell("published");
    listen();
}

/// What a process has used so far: clock ticks in user and kernel mode, and how often its threads gave a processor up.
fn used(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let after = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    // Fields 14 and 15 of proc_pid_stat(5); the first one here is field 3.
    let ticks = number(fields[11]) + number(fields[12]);
    let mut switches = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks") {
        let status = std::fs::read_to_string(task.expect("a task").path().join("status")).unwrap_or_default();
        let lines = status.lines().filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += lines.map(|line| number(line.trim())).sum::<u64>();
    }
    (ticks, switches)
}

#[test]
fn a_parked_reader_and_an_idle_writer_use_no_processor() {
    let dir = Dir::new();
    let mut writer = Actor::start("idle_writer", &[("dir", dir.text())]);
    assert_eq!(writer.hear(), "created");
    let mut reader = Actor::start("idle_reader", &[("dir", dir.text())]);
    assert_eq!(reader.hear(), "joined");
    until("the reader sleeps", || {
        inspect(Some(dir.path()), "quiet").expect("inspect").expect("it exists").readers.iter().any(|each| each.asleep)
    });
    // Armed is not yet asleep, and the writer's fence may still be registered by a short-lived thread.
    let mut before = [used(writer.pid()), used(reader.pid())];
    until("both are quiet", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = [used(writer.pid()), used(reader.pid())];
        std::mem::replace(&mut before, now) == now
    });
    std::thread::sleep(Duration::from_secs(if soak() { 10 } else { 2 }));
    assert_eq!([used(writer.pid()), used(reader.pid())], before, "(ticks, switches) of writer and reader");
    writer.say("publish");
    assert_eq!(writer.hear(), "published");
    assert_eq!(reader.hear(), "woken", "it was not dead, only asleep");
}
