//! Channels that a child inherits: no name, no file, and the kernel tells of either's death.

use crate::actor::{Actor, PATIENCE, argument, command, listen, tell, until};
use crate::sys;
use ginnel_channel::{
    CloseCause, CreateError, EnvError, Link, LinkError, Mode, OpenError, PublishError, Reader, RecvError, Writer,
};
use std::process::Command;
use std::time::{Duration, Instant};

const PREFIX: &str = "overlay";

/// Role: the child of a link. Answers each number with its double, until told to stop or left alone.
pub(crate) fn child() {
    let mut link: Link<[u8], u64> = Link::from_env(PREFIX).expect("take over");
    tell(format!("{} {}", link.id, sys::inherited_descriptors().len()));
    loop {
        match link.incoming.recv() {
            Ok(number) => link.outgoing.publish(&(2 * number).to_le_bytes()).expect("publish"),
            Err(RecvError::Closed { cause }) => return tell(cause),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Role: a parent of its own child; tells the child's first word and stays until it is killed.
pub(crate) fn parent() {
    let mut command = command("link_child", &[("outlives", "its parent")]);
    let mut link: Link<u64, [u8]> = Link::export(PREFIX, "9", &mut command).expect("export");
    // The grandchild speaks to the test itself, through the stream that it inherits from here.
    command.stdout(std::process::Stdio::inherit());
    let mut child = command.spawn().expect("start the child");
    link.outgoing.publish(&21).expect("publish");
    assert_eq!(link.incoming.recv_timeout(PATIENCE).expect("receive"), Some(42_u64.to_le_bytes().to_vec()));
    tell("linked");
    listen();
    child.wait().expect("reap the child"); // not reached: the test kills this process
}

fn double(link: &mut Link<u64, [u8]>, number: u64) {
    link.outgoing.publish(&number).unwrap();
    let answer = link.incoming.recv_timeout(PATIENCE).unwrap();
    assert_eq!(answer, Some((2 * number).to_le_bytes().to_vec()));
}

#[test]
fn a_link_carries_both_directions_and_a_second_child_gets_a_new_one() {
    let before = sys::inherited_descriptors();
    for id in ["7", "8"] {
        let mut command = command("link_child", &[]);
        let mut link: Link<u64, [u8]> = Link::export(PREFIX, id, &mut command).unwrap();
        let mut actor = Actor::spawn(&mut command);
        assert_eq!(
            actor.hear(),
            format!("{id} {}", before.len()),
            "its id, and no descriptor of ours that an exec would leak"
        );
        for number in 0..1000 {
            double(&mut link, number);
        }
        drop(link.outgoing);
        assert_eq!(actor.hear(), "its writer closed it");
        actor.finish();
        assert!(matches!(link.incoming.recv(), Err(RecvError::Closed { cause: CloseCause::Closed })));
    }
    assert_eq!(sys::inherited_descriptors(), before);
}

#[test]
fn a_parent_learns_of_its_childs_death_in_both_directions_although_the_command_lives() {
    let mut command = command("link_child", &[]);
    let mut link: Link<u64, [u8]> = Link::export(PREFIX, "7", &mut command).unwrap();
    let mut actor = Actor::spawn(&mut command);
    actor.hear();
    double(&mut link, 1);
    actor.kill();
    assert!(matches!(link.incoming.recv(), Err(RecvError::Closed { cause: CloseCause::Died })));
    // Nobody reads any more, so nothing holds the lossless writer up.
    for number in 0..100_000 {
        link.outgoing.publish_timeout(&number, PATIENCE).unwrap();
    }
    assert_eq!(link.outgoing.readers().unwrap(), 0);
    drop(command);
}

#[test]
fn a_child_learns_of_its_parents_death() {
    let mut parent = Actor::start("link_parent", &[]);
    let mut heard = [parent.hear(), parent.hear()];
    heard.sort();
    assert!(heard[0].starts_with("9 ") && heard[1] == "linked", "{heard:?}");
    parent.kill();
    assert_eq!(parent.hear_or_end().as_deref(), Some("its writer died"));
    assert_eq!(parent.hear_or_end(), None, "the child ends");
}

#[test]
fn a_child_that_never_starts_holds_the_writer_up_only_as_long_as_its_command_lives() {
    let mut writer: Writer<u64> = Writer::builder().mode(Mode::Lossless).anonymous().unwrap();
    let mut command = Command::new("/nonexistent/program");
    writer.export(&mut command, "NUMBERS").unwrap();
    command.spawn().unwrap_err();
    let full = (0..).find_map(|n| writer.try_publish(&n).err()).unwrap();
    assert!(matches!(full, PublishError::Full { .. }), "{full}");
    let late = writer.publish_timeout(&0, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(late, PublishError::Timeout { .. }), "{late}");
    drop(command);
    writer.publish_timeout(&0, PATIENCE).unwrap();
    assert_eq!(writer.readers().unwrap(), 0);

    let mut command = Command::new("/nonexistent/program");
    let mut reader: Reader<u64> = Reader::builder().export_writer(&mut command, "NUMBERS").unwrap();
    assert_eq!(reader.recv_timeout(Duration::from_millis(5)).unwrap(), None);
    drop(command);
    assert!(matches!(reader.recv(), Err(RecvError::Closed { cause: CloseCause::Died })));
}

#[test]
fn a_waiting_writer_goes_on_when_the_command_of_its_unborn_child_is_dropped() {
    let mut writer: Writer<u64> = Writer::builder().mode(Mode::Lossless).capacity(4096).anonymous().unwrap();
    let mut command = Command::new("/nonexistent/program");
    writer.export(&mut command, "NUMBERS").unwrap();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let publisher = scope.spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            for n in 0..10_000 {
                writer.publish_timeout(&n, PATIENCE).unwrap();
            }
            writer.counters().waits
        });
        let thread = told.recv().unwrap().as_raw_nonzero();
        until("the writer waits", || {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
        });
        drop(command);
        assert_eq!(publisher.join().unwrap(), 1);
    });
}

/// Role: finds out what `from_env` says to wrong variables.
pub(crate) fn env_errors() {
    let opened = |variable: &str| Reader::<u64>::from_env(variable).map(drop).unwrap_err();
    let created = |variable: &str| Writer::<u64>::from_env(variable).map(drop).unwrap_err();
    let env = |error: OpenError| match error {
        OpenError::Env(error) => error,
        other => panic!("{other}"),
    };
    let unset = env(opened("GINNEL_TEST_UNSET"));
    assert!(matches!(&unset, EnvError::Unset { variable } if variable == "GINNEL_TEST_UNSET"));
    assert!(matches!(created("GINNEL_TEST_UNSET"), CreateError::Env(EnvError::Unset { .. })));
    for index in 0..argument("malformed").parse().expect("a number") {
        let variable = format!("GINNEL_TEST_malformed_{index}");
        let error = env(opened(&variable));
        assert!(matches!(error, EnvError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(&variable), "{error}");
    }
    // Descriptors that were not inherited: not open, the standard ones, and one of our own.
    let own = std::fs::File::open("/dev/null").expect("open");
    let own = std::os::fd::AsRawFd::as_raw_fd(&own);
    for list in ["900,901,902,0,1".to_owned(), "0,1,2,0,1".to_owned(), format!("{own},{own},{own},0,1")] {
        assert!(sys::set_env("GINNEL_TEST_LIST", &format!("fd:r:{list}")));
        let error = env(opened("GINNEL_TEST_LIST"));
        assert!(matches!(error, EnvError::Descriptor { .. }), "{error}");
    }
    // The wrong direction, the wrong type, the right one, and the same once more.
    assert!(matches!(created("NUMBERS"), CreateError::Env(EnvError::Malformed { .. })));
    let mut reader: Reader<u64> = Reader::from_env("NUMBERS").expect("inherited");
    assert_eq!(reader.recv().expect("receive"), 77);
    let again = env(opened("NUMBERS"));
    assert!(matches!(again, EnvError::Descriptor { .. }), "{again}");
    let wrong = Reader::<i64>::from_env("OTHERS").map(drop).unwrap_err();
    assert!(matches!(&wrong, OpenError::WrongType { name, .. } if name == "OTHERS"), "{wrong}");
    tell("done");
    listen();
}

#[test]
fn variables_that_lead_nowhere_are_named_and_inherited_ones_are_taken_once() {
    let malformed =
        ["", "fd:", "fd:r:", "fd:x:1,2,3,4,5", "fd:r:1,2,3", "fd:r:3,4,5,6,7,8", "fd:r:a,b,c,d,e", "fd:r:3,4,5,-1,1"];
    let mut command = command("env_errors", &[("malformed", &malformed.len().to_string())]);
    for (index, value) in malformed.iter().enumerate() {
        command.env(format!("GINNEL_TEST_malformed_{index}"), value);
    }
    let mut writer: Writer<u64> = Writer::builder().anonymous().unwrap();
    let mut others: Writer<u64> = Writer::builder().anonymous().unwrap();
    writer.export(&mut command, "NUMBERS").unwrap();
    others.export(&mut command, "OTHERS").unwrap();
    writer.publish(&77).unwrap();
    let mut actor = Actor::spawn(&mut command);
    assert_eq!(actor.hear(), "done");
    actor.say("end");
    actor.finish();
}

/// Role: tells which descriptors it was born with.
pub(crate) fn descriptors() {
    tell(sys::inherited_descriptors().len());
}

#[test]
fn a_child_inherits_nothing_but_what_was_exported_to_it() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let mut named: Writer<u64> = Writer::builder().run_dir(&run).create("named").unwrap();
    let _reader: Reader<u64> = Reader::builder().run_dir(&run).open("named").unwrap();
    assert_eq!(named.readers().unwrap(), 1);
    let mut anonymous: Writer<u64> = Writer::builder().anonymous().unwrap();
    let mut exporting = command("descriptors", &[]);
    anonymous.export(&mut exporting, "NUMBERS").unwrap();
    let _merged = ginnel_channel::MergedReader::<u64>::new().unwrap();
    let mut actor = Actor::start("descriptors", &[]);
    // What the test runner hands down to us, it hands down to our children.
    let standard = sys::inherited_descriptors().len();
    assert_eq!(actor.hear(), standard.to_string());
    actor.finish();
    let mut actor = Actor::spawn(&mut exporting);
    assert_eq!(actor.hear(), (standard + 3).to_string(), "data, control and socket");
    actor.finish();
}

#[test]
fn a_name_travels_through_the_environment_to_another_runtime_directory() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let mut writer: Writer<u64> = Writer::builder().run_dir(&run).create("numbers").unwrap();
    let mut command = Command::new("true");
    writer.export(&mut command, "NUMBERS").unwrap();
    let value = command.get_envs().find(|(name, _)| *name == "NUMBERS").unwrap().1.unwrap();
    assert_eq!(value, run.join("numbers").as_os_str());
}

#[test]
fn a_link_that_cannot_be_had_says_which_variable_is_missing() {
    let error = Link::<u64, u64>::from_env("nobodys-link").unwrap_err();
    let LinkError::Open(OpenError::Env(EnvError::Unset { variable })) = error else { panic!("{error}") };
    assert_eq!(variable, "NOBODYS_LINK_CONTROL_CHANNEL");
}

#[test]
fn a_child_that_goes_without_taking_over_is_noticed_when_the_command_goes() {
    let mut command = Command::new("true");
    let mut link: Link<u64, [u8]> = Link::export(PREFIX, "1", &mut command).unwrap();
    let status = command.status().unwrap();
    assert!(status.success());
    drop(command);
    let before = Instant::now();
    assert!(matches!(link.incoming.recv(), Err(RecvError::Closed { cause: CloseCause::Died })));
    assert!(before.elapsed() < PATIENCE);
}

/// Role: owns the descriptors that its parent exported, as a program does that collects all it was given, and uses the
/// channel.
pub(crate) fn owner() {
    let variable = std::env::var("NUMBERS").expect("exported");
    let numbers = variable.trim_start_matches("fd:r:").split(',').take(3).map(|fd| fd.parse().expect("a descriptor"));
    let own: Vec<_> = numbers.map(sys::own_descriptor).collect();
    let mut reader: Reader<u64> = Reader::from_env("NUMBERS").expect("inherited");
    assert_eq!(reader.recv().expect("receive"), 77);
    drop(reader);
    tell("left");
    listen();
    // All of them are open still, and closed by their owner: the standard library ends the process where one is not.
    assert!(own.iter().all(|fd| rustix::io::fcntl_getfd(fd).is_ok()));
    drop(own);
    tell("closed");
    let wrong = Writer::<u32>::from_env("OTHERS").map(drop).expect_err("of another type");
    tell(wrong);
    listen();
}

#[test]
fn a_program_may_own_what_it_inherited_and_its_parent_learns_when_it_leaves() {
    let mut command = command("owner_of_inherited", &[]);
    let mut writer: Writer<u64> = Writer::builder().mode(Mode::Lossless).anonymous().unwrap();
    writer.export(&mut command, "NUMBERS").unwrap();
    let mut other: Reader<u64> = Reader::builder().export_writer(&mut command, "OTHERS").unwrap();
    writer.publish(&77).unwrap();
    let mut actor = Actor::spawn(&mut command);
    drop(command);
    assert_eq!(actor.hear(), "left");
    until("its place is free", || writer.readers().unwrap() == 0);
    actor.say("close");
    assert_eq!(actor.hear(), "closed");
    assert!(actor.hear().contains("layout hash"), "refused");
    let refused = other.recv_timeout(PATIENCE);
    assert!(matches!(refused, Err(RecvError::Closed { cause: CloseCause::Died })), "nobody will write: {refused:?}");
    actor.say("end");
    actor.finish();
}

/// Role: takes over the writer's part of a channel whose header describes another mapping.
pub(crate) fn heir() {
    tell(Writer::<[u8]>::from_env("BYTES").map(drop).expect_err("an impossible header"));
}

/// Keeps the first descriptor, the memory of the data, in sight.
struct Spy(Command, Option<std::os::fd::OwnedFd>);

impl ginnel_channel::Inherit for Spy {
    fn inherit_fd(&mut self, fd: std::os::fd::OwnedFd) -> std::os::fd::RawFd {
        self.1.get_or_insert_with(|| fd.try_clone().unwrap());
        self.0.inherit_fd(fd)
    }

    fn set_env(&mut self, variable: &str, value: &std::ffi::OsStr) {
        ginnel_channel::Inherit::set_env(&mut self.0, variable, value);
    }
}

#[test]
fn an_heir_of_a_header_without_the_mirror_flag_gets_an_error_and_no_panic() {
    let mut spy = Spy(command("heir_of_an_odd_header", &[]), None);
    let _reader: Reader<[u8]> = Reader::builder().export_writer(&mut spy, "BYTES").unwrap();
    rustix::io::pwrite(spy.1.as_ref().unwrap(), &[0; 8], 56).unwrap();
    let mut actor = Actor::spawn(&mut spy.0);
    let said = actor.hear();
    assert!(said.contains("data size"), "{said}");
    actor.finish();
}
