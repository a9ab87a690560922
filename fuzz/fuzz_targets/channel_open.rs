//! A live channel whose data file takes any changes, before and after a reader opens it: typed errors, never a crash or
//! a hang.
#![no_main]

use ginnel_channel::{Mode, Reader, RecvError, Spin, Writer, inspect, list};
use ginnel_fuzz::Choices;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

struct Place {
    run: PathBuf,
    _temp: tempfile::TempDir,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        Place { run: temp.path().join("run"), _temp: temp }
    })
}

/// Writes some words: mostly to the header, the ring's words and the first records.
fn change(file: &File, choices: &mut Choices<'_>) {
    for _ in 0..choices.byte() % 8 {
        let index = u64::from(choices.short());
        let at = match index >> 14 {
            0 => index % 40,
            1 => 32 + index % 17,
            _ => 512 + index % 64,
        };
        file.write_all_at(&choices.word(1).to_ne_bytes(), at * 8).unwrap();
    }
}

fuzz_target!(|bytes: &[u8]| {
    let run = &place().run;
    let mut choices = Choices::new(bytes);
    let mode = [Mode::Lossy, Mode::Lossless, Mode::Latest][usize::from(choices.byte()) % 3];
    let mut writer: Writer<[u8]> =
        Writer::builder().run_dir(run).mode(mode).capacity(64 << 10).max_readers(4).create("any").unwrap();
    for n in 0..choices.byte() % 32 {
        writer.publish(&vec![n; usize::from(n) * 9]).unwrap();
    }
    let file = File::options().read(true).write(true).open(run.join("any.channel")).unwrap();
    change(&file, &mut choices);
    if let Ok(mut reader) = Reader::<[u8]>::builder().run_dir(run).spin(Spin::new(0)).open("any") {
        while !choices.is_empty() {
            match reader.recv_timeout(Duration::ZERO) {
                Ok(_) | Err(RecvError::Lagged { .. }) => {}
                Err(_) => break,
            }
            change(&file, &mut choices);
        }
    }
    let _ = (list(Some(run)).unwrap(), inspect(Some(run), "any").unwrap());
    // From here on the file is not the writer's any more: it goes as a killed writer does, and what it leaves can be
    // cleaned.
    writer.abandon();
    ginnel_channel::clean(Some(run)).unwrap();
    assert_eq!(std::fs::read_dir(run).unwrap().count(), 0);
});
