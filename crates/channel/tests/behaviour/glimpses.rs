//! A state channel is looked at from outside, by processes that its writer never learns of.

use crate::actor::{Actor, Dir, argument, listen, namespaced, tell};
use ginnel_channel::{Mode, OpenError, Reader, RecvError, Writer, clean_prefix, inspect};
use std::os::unix::fs::PermissionsExt;

/// Two words that belong together: a torn copy shows.
type State = [u64; 250];

fn state(dir: &std::path::Path, name: &str) -> Writer<State> {
    Writer::builder().mode(Mode::Latest).run_dir(dir).create(name).expect("create")
}

/// Role: publishes states as fast as it can, each of 250 equal numbers, until it is killed.
pub(crate) fn hasty_writer() {
    let mut writer = state(std::path::Path::new(&argument("dir")), "hasty");
    for number in 1.. {
        writer.publish(&[number; 250]).expect("publish");
        if number == 1 {
            tell("published");
        }
    }
}

/// Role: publishes one state, and waits.
pub(crate) fn one_state() {
    let mut writer = state(std::path::Path::new(&argument("dir")), &argument("name"));
    writer.publish(&[7; 250]).expect("publish");
    tell("published");
    listen();
}

#[test]
fn a_look_gets_a_whole_state_of_a_writer_that_never_rests_and_the_last_one_of_a_killed_writer() {
    let dir = Dir::new();
    let mut writer = Actor::start("hasty_writer", &[("dir", dir.text())]);
    assert_eq!(writer.hear(), "published");
    let glimpse = Reader::<State>::builder().run_dir(dir.path()).glimpse("hasty").expect("look");
    let mut last = 0;
    for _ in 0..10_000 {
        let found = glimpse.newest().expect("a state").expect("a state");
        assert_eq!(found, [found[0]; 250], "torn");
        assert!(found[0] >= last);
        last = found[0];
    }
    assert!(inspect(Some(dir.path()), "hasty").expect("look").expect("there").readers.is_empty());
    writer.kill();
    let after = glimpse.newest().expect("a state").expect("a state");
    assert!(after[0] >= last && after == [after[0]; 250]);
    let again =
        Reader::<State>::builder().run_dir(dir.path()).glimpse("hasty").expect("a dead writer's state is there");
    assert_eq!(again.newest().expect("a state"), Some(after));
    assert_eq!(clean_prefix(Some(dir.path()), "has").expect("clean"), ["hasty"]);
    assert_eq!(dir.files(), [""; 0]);
}

#[test]
fn what_is_no_such_state_is_refused_by_name() {
    let dir = Dir::new();
    let builder = || Reader::<State>::builder().run_dir(dir.path());
    assert!(matches!(builder().glimpse("nobody"), Err(OpenError::Absent { .. })));
    let _numbers = Writer::<u64>::builder().mode(Mode::Latest).run_dir(dir.path()).create("numbers").expect("create");
    assert!(matches!(builder().glimpse("numbers"), Err(OpenError::WrongType { .. })));
    let _lossy = Writer::<State>::builder().run_dir(dir.path()).create("lossy").expect("create");
    assert!(matches!(builder().glimpse("lossy"), Err(OpenError::Mode { found: Mode::Lossy, .. })));

    let mut cut = state(dir.path(), "cut");
    cut.publish(&[1; 250]).expect("publish");
    let glimpse = builder().glimpse("cut").expect("look");
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("cut.channel")).expect("open");
    file.set_len(4096).expect("cut");
    assert!(matches!(glimpse.newest(), Err(RecvError::Corrupt(_))), "a cut file is an error and no crash");
    assert!(builder().glimpse("cut").is_err());
}

#[test]
fn a_word_that_a_hostile_writer_has_set_is_an_error_and_no_crash() {
    use std::os::unix::fs::FileExt;
    let dir = Dir::new();
    let mut writer = state(dir.path(), "hostile");
    writer.publish(&[1; 250]).expect("publish");
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("hostile.channel")).expect("open");
    let honest = std::fs::read(dir.path().join("hostile.channel")).expect("read");
    let glimpse = Reader::<State>::builder().run_dir(dir.path()).glimpse("hostile").expect("look");
    // Every word of the header, one after the other, and all of them.
    for word in 0..512_u64 {
        for value in [0, 1, 12_345, u64::MAX - 1, u64::MAX, 1 << 60, 1 << 63] {
            file.write_all_at(&value.to_le_bytes(), word * 8).expect("scribble");
            let _ = glimpse.newest();
            if let Ok(other) = Reader::<State>::builder().run_dir(dir.path()).glimpse("hostile") {
                let _ = other.newest();
            }
            let at = word as usize * 8;
            file.write_all_at(&honest[at..at + 8], word * 8).expect("mend");
        }
    }
    assert_eq!(glimpse.newest().expect("mended"), Some([1; 250]));
}

#[test]
fn only_dead_names_of_the_prefix_are_cleaned_whatever_namespace_their_writers_are_in() {
    let dir = Dir::new();
    let start = |name: &str| Actor::start("one_state", &[("dir", dir.text()), ("name", name)]);
    let (mut dead, mut other, mut alive) = (start("mine.1"), start("other.1"), start("mine.2"));
    let mut inside = Actor::spawn(&mut namespaced("one_state", &[("dir", dir.text()), ("name", "mine.3")]));
    for actor in [&mut dead, &mut other, &mut alive, &mut inside] {
        assert_eq!(actor.hear(), "published");
    }
    assert_eq!(clean_prefix(Some(dir.path()), "mine.").expect("clean"), [""; 0]);
    dead.kill();
    other.kill();
    assert_eq!(clean_prefix(Some(dir.path()), "mine.").expect("clean"), ["mine.1"]);
    assert!(dir.files().iter().any(|file| file == "other.1.channel"), "of another prefix");
    for name in ["mine.2", "mine.3"] {
        let glimpse = Reader::<State>::builder().run_dir(dir.path()).glimpse(name).expect("look");
        assert_eq!(glimpse.newest().expect("a state"), Some([7; 250]));
        let mode = std::fs::metadata(dir.path().join(format!("{name}.channel"))).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    for mut actor in [alive, inside] {
        actor.say("enough");
        actor.finish();
    }
}
