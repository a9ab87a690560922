//! A channel's files are cut off by somebody who may write them: whoever uses the channel is told, in whatever it
//! sleeps.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, tell, until};
use crate::sys;
use ginnel_channel::{Mode, PublishError, Reader, RecvError, Spin, Watch, Writer, inspect};
use std::time::{Duration, Instant};

const NAME: &str = "cut";
const MODES: [(&str, Mode); 3] = [("lossy", Mode::Lossy), ("lossless", Mode::Lossless), ("latest", Mode::Latest)];

/// Role: reads in the way that it is told until there is an error.
pub(crate) fn reader() {
    let how = argument("how");
    let spin = if how == "spin" { Spin::forever() } else { Spin::new(0) };
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(argument("dir")).spin(spin).open(NAME).expect("open");
    tell("joined");
    if how == "late" {
        listen();
    }
    let error = loop {
        let received = match how.as_str() {
            "poll" => reader.try_recv(),
            _ => reader.recv().map(Some),
        };
        match received {
            Ok(Some(_)) | Err(RecvError::Lagged { .. }) => {}
            Ok(None) if how == "poll" => match reader.watch() {
                Ok(Watch::Armed) => assert!(sys::readable(&reader, Instant::now() + PATIENCE), "left asleep"),
                Ok(Watch::Ready) => {}
                Err(error) => break error,
            },
            Ok(None) => {}
            Err(error) => break error,
        }
    };
    tell(error);
}

/// Role: publishes until there is an error; a lossless one falls asleep on its way, because of a reader that does not
/// read.
pub(crate) fn writer() {
    let (_, mode) = *MODES.iter().find(|(name, _)| *name == argument("mode")).expect("a mode");
    let builder = Writer::<[u8]>::builder().run_dir(argument("dir")).mode(mode).spin(Spin::new(0));
    let mut writer = builder.capacity(64 << 10).create(NAME).expect("create");
    tell("created");
    listen();
    assert!(writer.wait_for_readers(1, PATIENCE).expect("join"));
    let error = loop {
        match writer.publish(&[7; 1000]) {
            Ok(()) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PublishError::Truncated), "{error}");
    tell(error);
}

fn cut(dir: &Dir, suffix: &str, to: u64) {
    let name = dir.files().into_iter().find(|file| file.ends_with(suffix)).expect("the channel's file");
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(name)).expect("the owner may");
    let len = file.metadata().expect("a file").len();
    file.set_len(if to == 0 { 0 } else { len - to }).expect("cut");
}

fn asleep(dir: &Dir) -> usize {
    let channel = inspect(Some(dir.path()), NAME).expect("inspect").expect("it exists");
    channel.readers.iter().filter(|reader| reader.asleep).count()
}

/// Cuts under readers of each kind whose writer does nothing at all.
fn cut_under_readers(suffix: &str, to: u64) {
    for (_, mode) in MODES {
        let dir = Dir::new();
        let builder = Writer::<[u8]>::builder().run_dir(dir.path()).mode(mode).capacity(64 << 10);
        let mut writer = builder.create(NAME).expect("create");
        let mut readers: Vec<Actor> =
            ["recv", "poll", "spin"].map(|how| Actor::start("cut_reader", &[("dir", dir.text()), ("how", how)])).into();
        readers.iter_mut().for_each(|reader| assert_eq!(reader.hear(), "joined"));
        writer.publish(b"whole").expect("publish");
        until("two readers sleep", || asleep(&dir) == 2);
        cut(&dir, suffix, to);
        for mut reader in readers {
            let told = reader.hear();
            assert!(told.contains("corrupt") && told.contains("truncated"), "{suffix} {mode:?}: {told}");
            reader.finish();
        }
        until("the writer is told", || matches!(writer.publish(b"on"), Err(PublishError::Truncated)));
    }
}

#[test]
fn readers_are_told_that_the_data_was_cut_off_whether_they_sleep_or_not() {
    cut_under_readers(".channel", 0);
    cut_under_readers(".channel", 4096);
}

#[test]
fn readers_are_told_that_the_control_file_was_cut_off_whether_they_sleep_or_not() {
    cut_under_readers(".control", 0);
    cut_under_readers(".control", 4096);
}

#[test]
fn a_writer_is_told_that_a_file_was_cut_off_whether_it_waits_for_a_reader_or_not() {
    for (mode, _) in MODES {
        for (suffix, to) in [(".channel", 0), (".control", 0), (".channel", 4096), (".control", 4096)] {
            let dir = Dir::new();
            let mut writer = Actor::start("cut_writer", &[("dir", dir.text()), ("mode", mode)]);
            assert_eq!(writer.hear(), "created");
            let how = if mode == "lossless" { "late" } else { "recv" };
            let mut reader = Actor::start("cut_reader", &[("dir", dir.text()), ("how", how)]);
            assert_eq!(reader.hear(), "joined");
            writer.say("go");
            until("it publishes", || {
                let channel = inspect(Some(dir.path()), NAME).expect("inspect").expect("it exists");
                channel.position > if mode == "lossless" { 50_000 } else { 5_000 }
            });
            cut(&dir, suffix, to);
            assert!(writer.hear().contains("truncated"));
            writer.finish();
            if mode == "lossless" {
                reader.say("look");
            }
            let told = reader.hear();
            assert!(told.contains("truncated"), "{told}");
            reader.finish();
        }
    }
}
