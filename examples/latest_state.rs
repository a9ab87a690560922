//! State that many processes share: each sees the newest complete value whenever it looks, and the writer never waits.
//!
//! Run it: `cargo run -p ginnel --example latest_state`

use ginnel::channel::{Mode, Reader, Writer};
use std::error::Error;
use std::process::Command;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where something is. `check` is what a torn value would betray itself by.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Pose {
    version: u64,
    position: [i64; 3],
    check: i64,
}

const VERSIONS: u64 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var("LOOK_EVERY_MICROS") {
        Ok(pause) => observe(Duration::from_micros(pause.parse()?)),
        Err(_) => move_about(),
    }
}

fn move_about() -> Result<(), Box<dyn Error>> {
    let name = format!("pose-{}", std::process::id());
    let mut writer: Writer<Pose> = Writer::builder().mode(Mode::Latest).create(&name)?;
    let mut children = Vec::new();
    for pause in ["0", "100", "5000"] {
        let mut command = Command::new(std::env::current_exe()?);
        writer.export(command.env("LOOK_EVERY_MICROS", pause), "POSE")?;
        children.push(command.spawn()?);
    }
    if !writer.wait_for_readers(children.len(), Duration::from_secs(10))? {
        return Err("the observers did not come".into());
    }
    for version in 1..=VERSIONS {
        let step = version as i64;
        let position = [step, -2 * step, 3 * step];
        writer.publish(&Pose { version, position, check: position.iter().sum() })?;
    }
    writer.close();
    for mut child in children {
        if !child.wait()?.success() {
            return Err("an observer saw what it must not see".into());
        }
    }
    println!("{VERSIONS} versions were published; each observer saw those that were newest when it looked");
    Ok(())
}

fn observe(pause: Duration) -> Result<(), Box<dyn Error>> {
    let mut reader: Reader<Pose> = Reader::from_env("POSE")?;
    let (mut seen, mut newest) = (0, 0);
    for pose in reader.iter() {
        let pose = pose?;
        assert!(pose.version > newest, "never an older value, never the same one twice");
        assert_eq!(pose.position.iter().sum::<i64>(), pose.check, "never a torn one");
        newest = pose.version;
        seen += 1;
        std::thread::sleep(pause);
    }
    println!("looking every {pause:?}: {seen} versions seen, the last is {newest}");
    assert_eq!(newest, VERSIONS, "the last value is always seen");
    Ok(())
}
