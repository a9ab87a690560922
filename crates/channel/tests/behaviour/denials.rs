//! What cannot be had is an error that says what, where and what to do; nothing else is harmed.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, namespaced, number, tell, until};
use crate::sys;
use ginnel_channel::{
    CreateError, Identity, Mode, OpenError, Permissions, PublishError, Reader, RecvError, Spin, Start, Writer, inspect,
    list,
};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

fn assert_tells(error: &dyn std::error::Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} does not tell {word:?}");
    }
}

/// Role: a runtime directory on a file system of 256 KiB.
pub(crate) fn full_file_system() {
    let dir = argument("dir");
    let dir = Path::new(&dir);
    sys::mount_tmpfs(dir.parent().expect("a parent"), 256 << 10);
    let files = || std::fs::read_dir(dir).map_or(0, Iterator::count);
    let builder = || Writer::<[u8]>::builder().run_dir(dir).mode(Mode::Lossless).capacity(64 << 10);
    let error = builder().capacity(1 << 20).create("big").unwrap_err();
    let bytes = ginnel_memory::HEADER_BYTES + (1 << 20);
    assert_tells(&error, &["big", &format!("no room for {bytes} bytes"), "smaller capacity"]);
    assert_eq!(files(), 0, "a creation that fails leaves nothing");

    let mut writer = builder().create("small").expect("there is room for a small one");
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir).open("small").expect("open");
    let before = files();
    let filler = dir.with_file_name("filler");
    let full = std::fs::write(&filler, vec![1; 512 << 10]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let error = builder().create("late").unwrap_err();
    assert_tells(&error, &["late", "No space left"]);
    assert_eq!(files(), before, "a creation that fails leaves nothing");
    // What exists is backed in full: it works on a full file system.
    for n in 0..100_000_u64 {
        writer.publish(&n.to_le_bytes()).expect("publish");
        assert_eq!(reader.recv().expect("receive"), n.to_le_bytes());
    }
    drop((writer, reader));
    assert_eq!(files(), 0);
}

#[test]
fn a_full_file_system_is_an_error_at_creation_and_never_later() {
    if !ginnel_testing::has_namespaces("-m") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mount = temp.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    Actor::start("full_file_system", &[("dir", mount.join("run").to_str().unwrap())]).finish();
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0, "the child's mount was its own");
}

/// Role: the last descriptor is taken while a peer lives on.
pub(crate) fn no_descriptor_left() {
    let other = Identity { pid: argument("pid").parse().expect("a pid"), start: 0 };
    assert!(other.alive() && Identity::own().alive());
    let limit = sys::forbid_descriptors();
    assert!(other.alive() && Identity::own().alive(), "who cannot be looked at is not dead");
    assert!(!Identity { pid: 0x3fff_fff0, start: 0 }.alive(), "an id that nobody has");
    sys::allow_descriptors(limit);
}

#[test]
fn who_cannot_be_looked_at_is_not_taken_for_dead() {
    Actor::start("no_descriptor_left", &[("pid", &std::process::id().to_string())]).finish();
}

/// Role: no descriptor to be had.
pub(crate) fn full_fd_table() {
    let dir = argument("dir");
    let mut lossy: Writer<u64> = Writer::builder().run_dir(&dir).create("lossy").expect("create");
    let mut lossless: Writer<u64> =
        Writer::builder().run_dir(&dir).mode(Mode::Lossless).capacity(4096).create("lossless").expect("create");
    // These two have joined, but their writers have not looked yet.
    let mut one: Reader<u64> = Reader::builder().run_dir(&dir).open("lossy").expect("open");
    let mut other: Reader<u64> = Reader::builder().run_dir(&dir).open("lossless").expect("open");
    let taken = sys::take_all_descriptors(64);
    let error = Writer::<u64>::builder().run_dir(&dir).create("another").unwrap_err();
    assert_tells(&error, &["open files"]);
    let error = Reader::<u64>::builder().run_dir(&dir).open("lossy").unwrap_err();
    assert_tells(&error, &["open files"]);
    // Neither writer can keep the connection of its newcomer, and neither fails or waits because of it.
    for n in 0..1000 {
        lossy.publish(&n).expect("publish");
        lossless.publish(&n).expect("publish");
    }
    // They are told, behind what they can still read.
    for reader in [&mut one, &mut other] {
        let error = loop {
            match reader.recv() {
                Ok(_) | Err(RecvError::Lagged { .. }) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RecvError::Refused), "{error}");
        assert_tells(&error, &["descriptor", "ulimit -n"]);
    }
    drop((taken, one, other));
    let mut one: Reader<u64> = Reader::builder().run_dir(&dir).start(Start::Latest).open("lossy").expect("open");
    let mut other: Reader<u64> = Reader::builder().run_dir(&dir).start(Start::Latest).open("lossless").expect("open");
    for n in 1000..2000 {
        lossy.publish(&n).expect("publish");
        lossless.publish(&n).expect("publish");
        assert_eq!((one.recv().expect("receive"), other.recv().expect("receive")), (n, n));
    }
    assert_eq!((lossy.readers().expect("reap"), lossless.readers().expect("reap")), (1, 1));
    drop((lossy, lossless));
    assert_eq!(std::fs::read_dir(&dir).expect("list").count(), 0);
}

/// Role: a writer with descriptors for a few readers.
pub(crate) fn poor_writer() {
    let mode = if argument("mode") == "lossless" { Mode::Lossless } else { Mode::Lossy };
    let mut writer: Writer<u64> = Writer::builder().run_dir(argument("dir")).mode(mode).create("poor").expect("create");
    let mut taken = sys::take_all_descriptors(40);
    taken.drain(..5);
    tell("created");
    listen();
    for n in 0.. {
        writer.publish(&n).expect("a reader for which there is no descriptor is no reason to fail");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_reader_for_which_the_writer_has_no_descriptor_is_told_and_no_other_is_left_asleep() {
    for mode in ["lossy", "lossless"] {
        let dir = Dir::new();
        let mut writer = Actor::start("poor_writer", &[("dir", dir.text()), ("mode", mode)]);
        assert_eq!(writer.hear(), "created");
        let readers: Vec<Reader<u64>> = (0..12)
            .map(|_| Reader::builder().run_dir(dir.path()).spin(Spin::new(0)).open("poor").expect("open"))
            .collect();
        let sleepers: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                std::thread::spawn(move || {
                    let mut received = 0;
                    while received < 200 {
                        match reader.recv_timeout(PATIENCE) {
                            Ok(Some(_)) => received += 1,
                            Ok(None) => panic!("left asleep after {received} records"),
                            Err(RecvError::Lagged { .. }) => {}
                            Err(RecvError::Refused) => return false,
                            Err(other) => panic!("{other}"),
                        }
                    }
                    true
                })
            })
            .collect();
        let asleep = || inspect(Some(dir.path()), "poor").expect("inspect").expect("it exists").readers;
        until("all sleep", || asleep().iter().filter(|reader| reader.asleep).count() == 12);
        assert!(asleep().iter().all(|reader| !reader.welcomed), "the writer has not looked");
        writer.say("go");
        let served = sleepers.into_iter().map(|sleeper| sleeper.join().expect("a reader")).filter(|&served| served);
        // One descriptor each; and one that is refused may have had records to read until then.
        assert!((5..12).contains(&served.count()), "served although refused");
    }
}

#[test]
fn a_full_descriptor_table_is_told_and_breaks_no_writer() {
    let dir = Dir::new();
    Actor::start("full_fd_table", &[("dir", dir.text())]).finish();
}

/// Role: a process of another user, who writes or reads a channel as its test says.
pub(crate) fn stranger() {
    let dir = argument("dir");
    sys::become_user(number("uid") as u32);
    tell("ready");
    let mut writer: Option<Writer<u64>> = None;
    let mut reader: Option<Reader<u64>> = None;
    loop {
        let line = listen();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["create", mode] => {
                let permissions = Permissions::Mode(u32::from_str_radix(mode, 8).expect("octal"));
                let builder = Writer::builder().run_dir(&dir).permissions(permissions);
                match builder.create("granted") {
                    Ok(created) => writer = Some(created),
                    Err(error) => tell(error),
                }
                if writer.is_some() {
                    tell("created");
                }
            }
            ["publish", value] => {
                writer.as_mut().expect("a writer").publish(&value.parse().expect("a number")).expect("publish");
                tell("published");
            }
            ["open", name, creator] => {
                let builder = Reader::builder().run_dir(&dir);
                let builder = if creator == "-" { builder } else { builder.creator(creator.parse().expect("a uid")) };
                match builder.open(name) {
                    Ok(opened) => {
                        reader = Some(opened);
                        tell("opened");
                    }
                    Err(error) => tell(format!("{} {error}", variant(&error))),
                }
            }
            ["receive"] => {
                tell(reader.as_mut().expect("a reader").recv_timeout(PATIENCE).expect("receive").expect("a record"))
            }
            ["attack", name] => {
                attack(Path::new(&dir), name);
                tell("failed");
            }
            ["end"] => return,
            _ => panic!("{line:?}"),
        }
    }
}

fn variant(error: &OpenError) -> String {
    let debug = format!("{error:?}");
    debug.split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// Everything that comes to mind to write a channel that one may only read. Each must fail.
fn attack(dir: &Path, name: &str) {
    let file = dir.join(format!("{name}.channel"));
    std::fs::OpenOptions::new().write(true).open(&file).expect_err("open for writing");
    std::fs::OpenOptions::new().read(true).write(true).open(&file).expect_err("open for both");
    std::fs::remove_file(&file).expect_err("remove");
    std::fs::rename(&file, dir.join("elsewhere")).expect_err("rename");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect_err("chmod");
    Writer::<u64>::builder().run_dir(dir).create(name).expect_err("take the name");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let mapped: Vec<&str> = maps.lines().filter(|line| line.contains(".channel")).collect();
    assert!(!mapped.is_empty(), "the reader has it mapped");
    let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem");
    for line in mapped {
        let (range, rest) = line.split_once(' ').expect("a range");
        assert!(rest.starts_with("r--s"), "{line}");
        let (start, end) = range.split_once('-').expect("a range");
        let start = usize::from_str_radix(start, 16).expect("hex");
        let end = usize::from_str_radix(end, 16).expect("hex");
        assert!(!sys::make_writable(start, end - start), "mprotect");
        if let Ok(memory) = &memory {
            memory.write_at(&[0xff; 8], start as u64).expect_err("write through /proc/self/mem");
        }
    }
    for fd in std::fs::read_dir("/proc/self/fd").expect("descriptors") {
        let fd = fd.expect("a descriptor").path();
        if std::fs::read_link(&fd).is_ok_and(|target| target.to_string_lossy().ends_with(".channel")) {
            std::fs::OpenOptions::new().write(true).open(&fd).expect_err("reopen for writing");
        }
    }
}

const ALICE: u32 = 65_000;
const BOB: u32 = 65_001;

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_stranger_cannot_open_what_is_the_owners_only_nor_write_what_it_may_read() {
    if !ginnel_testing::is_root("to become another user") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let mut private: Writer<u64> = Writer::builder().run_dir(&run).create("private").unwrap();
    let mut shared: Writer<u64> =
        Writer::builder().run_dir(&run).permissions(Permissions::Mode(0o777)).create("shared").unwrap();
    let mut grouped: Writer<u64> =
        Writer::builder().run_dir(&run).permissions(Permissions::Group(BOB)).create("grouped").unwrap();
    let mut reader: Reader<u64> = Reader::builder().run_dir(&run).open("shared").unwrap();
    for writer in [&mut private, &mut shared, &mut grouped] {
        writer.publish(&1).unwrap();
    }
    // Only the modes of the files themselves protect them here.
    open_to_all(temp.path());
    open_to_all(&run);
    let mode = |file: &str| std::fs::metadata(run.join(file)).unwrap().mode() & 0o7777;
    assert_eq!((mode("private.channel"), mode("shared.channel"), mode("grouped.channel")), (0o600, 0o644, 0o640));
    assert_eq!(mode("shared.lock"), 0o600);

    let uid = BOB.to_string();
    let mut bob = Actor::start("stranger", &[("dir", run.to_str().unwrap()), ("uid", &uid)]);
    assert_eq!(bob.hear(), "ready");
    bob.say("open private -");
    let denied = bob.hear();
    assert!(denied.starts_with("Denied "), "{denied}");
    assert!(denied.contains("\"private\"") && denied.contains(&uid) && denied.contains("permissions"), "{denied}");
    for name in ["shared", "grouped"] {
        bob.say(&format!("open {name} -"));
        assert_eq!(bob.hear(), "opened");
        bob.say("receive");
        assert_eq!(bob.hear(), "1");
        bob.say(&format!("attack {name}"));
        assert_eq!(bob.hear(), "failed");
    }
    bob.say("end");
    bob.finish();
    // Carol is not in Bob's group.
    let uid = ALICE.to_string();
    let mut carol = Actor::start("stranger", &[("dir", run.to_str().unwrap()), ("uid", &uid)]);
    assert_eq!(carol.hear(), "ready");
    carol.say("open grouped -");
    assert!(carol.hear().starts_with("Denied "));
    carol.say("end");
    carol.finish();
    // Where it is the directory that refuses, the file's permissions are not to blame.
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut carol = Actor::start("stranger", &[("dir", run.to_str().unwrap()), ("uid", &uid)]);
    assert_eq!(carol.hear(), "ready");
    carol.say("open shared -");
    let denied = carol.hear();
    assert!(denied.starts_with("DirDenied ") && denied.contains(run.to_str().unwrap()), "{denied}");
    assert!(denied.contains("\"shared\"") && denied.contains(&uid) && denied.contains("run_dir"), "{denied}");
    carol.say("end");
    carol.finish();

    shared.publish(&2).unwrap();
    assert_eq!((reader.recv().unwrap(), reader.recv().unwrap()), (1, 2), "the attacks changed nothing");
    assert_eq!(list(Some(&run)).unwrap().len(), 3);
}

#[test]
fn a_reader_trusts_only_its_own_user_root_and_whom_it_names() {
    if !ginnel_testing::is_root("to become another user") {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(ALICE), None).unwrap();
    open_to_all(temp.path());
    open_to_all(&run);
    let (alice, bob) = (ALICE.to_string(), BOB.to_string());
    let mut writer = Actor::start("stranger", &[("dir", run.to_str().unwrap()), ("uid", &alice)]);
    assert_eq!(writer.hear(), "ready");
    writer.say("create 644");
    assert_eq!(writer.hear(), "created");
    writer.say("publish 5");
    assert_eq!(writer.hear(), "published");

    let arguments = [("dir", run.to_str().unwrap()), ("uid", bob.as_str())];
    let mut reader = Actor::start("stranger", &arguments);
    assert_eq!(reader.hear(), "ready");
    for (creator, refused) in [("-", true), ("65001", true), ("65000", false)] {
        reader.say(&format!("open granted {creator}"));
        let heard = reader.hear();
        assert_eq!(heard != "opened", refused, "{heard}");
        assert!(!refused || heard.contains(&alice), "says whose it is: {heard}");
    }
    reader.say("receive");
    assert_eq!(reader.hear(), "5");
    reader.say("attack granted");
    assert_eq!(reader.hear(), "failed");
    reader.say("end");
    reader.finish();

    // A parent that trusts what its children meet says so.
    for (value, opened) in [("1", true), ("0", false), ("yes", false)] {
        let mut command = crate::actor::command("stranger", &arguments);
        command.env("GINNEL_DISABLE_IPC_PERMISSIONS", value);
        let mut reader = Actor::spawn(&mut command);
        assert_eq!(reader.hear(), "ready");
        reader.say("open granted -");
        assert_eq!(reader.hear() == "opened", opened, "GINNEL_DISABLE_IPC_PERMISSIONS={value}");
        reader.say("end");
        reader.finish();
    }
    writer.say("end");
    writer.finish();
}

/// Role: reads one record at each word, where no process of the host has an id.
pub(crate) fn namespaced_reader() {
    let mut reader: Reader<u64> = Reader::builder().run_dir(argument("dir")).open("narrow").expect("open");
    tell(std::process::id());
    while listen() == "receive" {
        tell(reader.recv_timeout(PATIENCE).expect("receive").expect("a record"));
    }
}

#[test]
fn a_newcomer_does_not_take_the_place_of_a_reader_in_another_pid_namespace() {
    if !ginnel_testing::has_namespaces("-pfm") {
        return;
    }
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.text()).max_readers(1).create("narrow").unwrap();
    let open = || Reader::<u64>::builder().run_dir(dir.text()).open("narrow");
    let mut inside = Actor::spawn(&mut namespaced("namespaced_reader", &[("dir", dir.text())]));
    assert_eq!(inside.hear(), "1", "an id that here belongs to another process, which started earlier");
    assert!(matches!(open(), Err(OpenError::Full { max: 1, .. })), "its place is not to be had");
    writer.publish(&7).unwrap();
    inside.say("receive");
    assert_eq!(inside.hear(), "7");
    assert_eq!(writer.readers().unwrap(), 1);
    // Its end is told by the socket, and frees the place.
    inside.kill();
    until("the dead reader's place is freed", || writer.readers().unwrap() == 0);
    open().unwrap();
}

/// Role: creates a channel under a umask.
pub(crate) fn odd_umask() {
    let dir = argument("dir");
    sys::set_umask(number("umask") as u32);
    let mut private: Writer<u64> = Writer::builder().run_dir(&dir).create("private").expect("create");
    let mut shared: Writer<u64> =
        Writer::builder().run_dir(&dir).permissions(Permissions::Mode(0o644)).create("shared").expect("create");
    for name in ["private", "shared"] {
        let mut reader: Reader<u64> = Reader::builder().run_dir(&dir).open(name).expect("open");
        let writer = if name == "private" { &mut private } else { &mut shared };
        writer.publish(&1).expect("publish");
        assert_eq!(reader.recv().expect("receive"), 1);
    }
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").mode() & 0o777;
    let mut modes: Vec<String> = std::fs::read_dir(&dir)
        .expect("list")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| format!("{} {:o}", path.extension().expect("a suffix").to_string_lossy(), mode(&path)))
        .collect();
    modes.sort();
    tell(format!("{:o}: {}", mode(Path::new(&dir)), modes.join(", ")));
}

#[test]
fn the_umask_neither_opens_nor_closes_a_channel() {
    for umask in ["0", "511", "18"] {
        let dir = Dir::new();
        let mut actor = Actor::start("odd_umask", &[("dir", dir.text()), ("umask", umask)]);
        assert_eq!(
            actor.hear(),
            "700: channel 600, channel 644, control 600, control 666, lock 600, lock 600, sock 600, sock 666"
        );
        actor.finish();
    }
}

#[test]
fn a_name_in_use_a_wrong_type_and_a_large_record_are_named_with_a_way_out() {
    let dir = Dir::new();
    let mut writer: Writer<[u8]> =
        Writer::builder().run_dir(dir.path()).max_record(100).capacity(64 << 10).create("taken").unwrap();
    let error = Writer::<u64>::builder().run_dir(dir.path()).create("taken").unwrap_err();
    assert!(matches!(error, CreateError::InUse { .. }));
    assert_tells(&error, &["taken", &std::process::id().to_string(), "choose another name"]);
    let error = Reader::<u64>::builder().run_dir(dir.path()).open("taken").unwrap_err();
    assert!(matches!(error, OpenError::WrongType { .. }));
    assert_tells(&error, &["taken", "u64", "type"]);
    let error = writer.publish(&[0; 101]).unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { len: 101, max: 100 }));
    assert_tells(&error, &["101", "100", "max_record"]);
    let error = writer.loan(101).map(drop).unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { .. }));
    let error = Reader::<[u8]>::builder().run_dir(dir.path()).open("missing").unwrap_err();
    assert_tells(&error, &["missing", dir.text(), "start its writer"]);
}

#[test]
fn what_is_no_channel_is_refused_by_name_and_reason() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.path()).create("good").unwrap();
    writer.publish(&1).unwrap();
    let good = std::fs::read(dir.path().join("good.channel")).unwrap();
    let place = dir.path().join("bad.channel");
    let refused = |what: &str| {
        let error = Reader::<u64>::builder().run_dir(dir.path()).open("bad").unwrap_err();
        assert_tells(&error, &["bad"]);
        assert!(list(Some(dir.path())).unwrap().iter().any(|channel| channel.name == "good"), "{what}: {error}");
    };
    for len in [0, 1, 7, 8, 255, 256, 4095, 4096, 4097, 8192, good.len() - 1] {
        std::fs::write(&place, &good[..len]).unwrap();
        refused("truncated");
    }
    let mut longer = good.clone();
    longer.extend_from_slice(&[0; 4096]);
    std::fs::write(&place, longer).unwrap();
    refused("too long");
    std::fs::write(&place, vec![0xa5; 1 << 20]).unwrap();
    refused("foreign");
    // Every bit of the header's words that mean something. Some only say who made it, or describe another sound ring.
    let mut sound = 0;
    for bit in (0..13 * 64).step_by(if crate::actor::soak() { 1 } else { 5 }) {
        let mut wrong = good.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&place, &wrong).unwrap();
        match Reader::<u64>::builder().run_dir(dir.path()).open("bad") {
            Err(error) => assert_tells(&error, &["bad"]),
            Ok(mut reader) => {
                assert!(matches!(bit / 64, 4 | 5 | 7 | 8 | 10 | 12), "bit {bit}");
                sound += 1;
                let _ = reader.recv_timeout(std::time::Duration::ZERO);
            }
        }
    }
    assert!(sound > 0);
    let control = dir.files().into_iter().find(|file| file.ends_with(".control")).unwrap();
    std::fs::copy(dir.path().join(&control), &place).unwrap();
    refused("a control segment");
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    refused("a directory");
    std::fs::remove_dir(&place).unwrap();
    std::os::unix::fs::symlink(dir.path().join("good.channel"), &place).unwrap();
    refused("a symbolic link");
    std::fs::remove_file(&place).unwrap();
    sys::make_fifo(&place);
    refused("a pipe");
    std::fs::remove_file(&place).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&place).unwrap();
    refused("a socket");
    drop(socket);
    std::fs::remove_file(&place).unwrap();
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.path()).open("good").unwrap();
    assert_eq!(reader.recv().unwrap(), 1);
}

#[test]
fn a_file_that_is_cut_or_replaced_under_both_ends_is_an_error_and_no_signal() {
    for (lossless, suffix) in [(false, ".channel"), (true, ".channel"), (false, ".control"), (true, ".control")] {
        let dir = Dir::new();
        let mode = if lossless { Mode::Lossless } else { Mode::Lossy };
        let mut writer: Writer<[u8]> = Writer::builder().run_dir(dir.path()).mode(mode).create("cut").unwrap();
        let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir.path()).open("cut").unwrap();
        writer.publish(b"whole").unwrap();
        assert_eq!(reader.recv().unwrap(), b"whole");
        let file = dir.files().into_iter().find(|file| file.ends_with(suffix)).unwrap();
        std::fs::OpenOptions::new().write(true).open(dir.path().join(file)).unwrap().set_len(0).unwrap();
        let mut told = false;
        for n in 0..1_000_u32 {
            match writer.publish(&n.to_le_bytes()) {
                Ok(()) => {}
                Err(PublishError::Truncated) => told = true,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(told || suffix == ".control", "the writer is told that its data goes nowhere");
        let error = loop {
            match reader.recv_timeout(std::time::Duration::from_millis(50)) {
                Ok(None) => {}
                Ok(Some(record)) => assert!(suffix == ".control", "{record:?} out of nowhere"),
                Err(RecvError::Lagged { .. }) => {}
                Err(error) => break error,
            }
        };
        assert_tells(&error, &["corrupt", "truncated"]);
    }
}

#[test]
fn a_replaced_file_disturbs_nobody_who_has_the_old_one() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.path()).create("swapped").unwrap();
    let mut other: Writer<u64> = Writer::builder().run_dir(dir.path()).create("other").unwrap();
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.path()).open("swapped").unwrap();
    std::fs::rename(dir.path().join("other.channel"), dir.path().join("swapped.channel")).unwrap();
    writer.publish(&1).unwrap();
    other.publish(&2).unwrap();
    assert_eq!(reader.recv().unwrap(), 1);
    // Who opens the name now gets the channel whose file it is, whole: its instance names its other parts.
    let mut late: Reader<u64> = Reader::builder().run_dir(dir.path()).open("swapped").unwrap();
    assert_eq!(late.recv().unwrap(), 2);
    other.publish(&3).unwrap();
    assert_eq!(late.recv().unwrap(), 3);
}
