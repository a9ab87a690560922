//! What is dropped is gone: descriptors, mappings, files.

use crate::actor::{Actor, Dir, argument, soak};
use ginnel_channel::{Mode, Reader, Writer};
use std::path::Path;

fn count(path: &str) -> usize {
    std::fs::read_dir(path).expect("list").count()
}

/// Role: makes ten thousand channels of every kind, and counts what is left. A process of its own, so that nothing else counts.
pub(crate) fn hoarder() {
    let dir = argument("dir");
    let dir = Path::new(&dir);
    let channels = argument("channels").parse::<usize>().expect("a number");
    let maps =
        || std::fs::read_to_string("/proc/self/maps").expect("maps").lines().filter(|line| line.contains("/")).count();
    let once = |n: usize| {
        let builder = Writer::<[u8]>::builder().capacity(64 << 10);
        let builder = builder.mode([Mode::Lossy, Mode::Lossless, Mode::Latest][n % 3]);
        if n.is_multiple_of(4) {
            let mut writer = builder.anonymous().expect("create");
            let mut command = std::process::Command::new("true");
            if n.is_multiple_of(8) {
                writer.export(&mut command, "NUMBERS").expect("export");
                drop(Reader::<u64>::builder().export_writer(&mut command, "BACK").expect("export"));
            }
            writer.publish(b"into the void").expect("publish");
        } else {
            let mut writer = builder.run_dir(dir).create(&format!("channel-{n}")).expect("create");
            let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir).open(&format!("channel-{n}")).expect("open");
            writer.publish(b"something").expect("publish");
            assert_eq!(reader.recv().expect("receive"), b"something");
            if n.is_multiple_of(2) {
                drop(writer);
            } else {
                drop(reader);
            }
        }
    };
    (0..16).for_each(once);
    let before = (count("/proc/self/fd"), maps(), 0);
    (0..channels).for_each(once);
    assert_eq!((count("/proc/self/fd"), maps(), count(dir.to_str().expect("a path of ours"))), before);
}

#[test]
fn ten_thousand_channels_leave_no_descriptor_no_mapping_and_no_file() {
    let dir = Dir::new();
    let channels = if soak() { "10000" } else { "500" };
    Actor::start("hoarder", &[("dir", dir.text()), ("channels", channels)]).finish();
    assert_eq!(dir.files(), [""; 0]);
}
