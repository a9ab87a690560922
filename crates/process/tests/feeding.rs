//! What a command is given to read, who else hears what it writes, and its lines.

mod common;

use common::{LONG, Mark, wait_until};
use ginnel_process::{Cause, Command, Daemon, Pty, RotatingFile, RunError, Sink, Size, Source, Stdio};
use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

/// A writer that can be looked at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that gives what is sent, and says when it is dropped.
struct Channel(mpsc::Receiver<Vec<u8>>, #[allow(dead_code, reason = "its drop tells")] mpsc::Sender<()>);

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.recv().unwrap_or_default();
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

#[test]
fn a_reader_is_read_no_faster_than_the_command_takes_it() {
    let (give, take) = mpsc::sync_channel(0);
    let (told, dropped) = mpsc::channel();
    let run = std::thread::spawn(move || {
        let mut command = Command::new("cat");
        command.input_reader(Channel(take, told));
        let output = command.run().unwrap();
        // A second run has no reader.
        assert!(matches!(command.run(), Err(RunError::Stream(_))));
        output
    });
    for line in 0..1000 {
        give.send(format!("line {line}\n").into_bytes()).unwrap();
    }
    drop(give);
    let output = run.join().unwrap();
    assert!(output.stdout.ends_with(b"line 998\nline 999\n"));
    assert_eq!(output.report.stdin.bytes, output.stdout.len() as u64);
    dropped.recv().unwrap_err();
}

#[test]
fn nobody_waits_for_a_reader_that_blocks_when_the_command_has_ended() {
    let mark = Mark::new();
    let (give, take) = mpsc::channel();
    let (told, dropped) = mpsc::channel();
    let output = mark.shell("exit 3").input_reader(Channel(take, told)).run().unwrap();
    assert_eq!(output.report.code(), Some(3));
    // Its thread ends with its next read.
    give.send(vec![b'x'; 100]).unwrap();
    assert!(matches!(dropped.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected)));
    mark.assert_gone();
}

#[test]
fn a_reader_that_fails_ends_the_tree() {
    struct Broken(bool);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("the source has dried up"));
            }
            buf[0] = b'x';
            Ok(1)
        }
    }
    let mark = Mark::new();
    let error = mark.shell("cat > /dev/null; sleep 1000").input_reader(Broken(false)).run().unwrap_err();
    assert!(error.to_string().contains("the source has dried up"), "{error}");
    mark.assert_gone();
}

#[test]
fn chunks_of_an_iterator_are_written_one_after_the_other() {
    let chunks = ["one".to_owned(), String::new(), "\ntw".to_owned(), "o\n".to_owned()];
    assert_eq!(Command::new("cat").input_chunks(chunks).run().unwrap().stdout, b"one\ntwo\n");
    let endless = std::iter::repeat("y\n");
    assert_eq!(Command::new("head").args(["-n", "2"]).input_chunks(endless).run().unwrap().stdout, b"y\ny\n");
}

#[test]
fn input_for_a_terminal_is_typed_and_its_end_too() {
    for typed in ["a line\n", "no end of line", ""] {
        let mut command = Command::new("cat");
        command.pty(Pty::new(Size::new(24, 80)).no_echo()).timeout(LONG).input(typed.as_bytes());
        let output = command.run().unwrap();
        assert!(output.report.success(), "{typed:?}: {:?}", output.report.cause);
        assert_eq!(output.stdout, typed.replace('\n', "\r\n").as_bytes());
    }
}

#[test]
fn a_tee_gets_everything_also_beyond_the_capture_limit() {
    let (first, second) = (Shared::default(), Shared::default());
    let mut command = Command::new("sh");
    command.args(["-c", "seq 50000; seq 7 >&2"]).capture_limit(10);
    let output = command.tee_stdout(first.clone()).tee_stderr(second.clone()).run().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.as_slice()), (10, b"1\n2\n3\n4\n5\n".as_slice()));
    let seen = first.0.lock().unwrap();
    assert!(seen.ends_with(b"49999\n50000\n") && seen.len() as u64 == output.report.stdout.bytes);
    assert_eq!(second.0.lock().unwrap().as_slice(), b"1\n2\n3\n4\n5\n6\n7\n");
}

#[test]
fn a_tee_that_fails_ends_the_tree() {
    let mark = Mark::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let error = mark.command("yes").tee_stdout(full).run().unwrap_err();
    assert!(matches!(&error, RunError::Stream(error) if error.kind() == io::ErrorKind::StorageFull), "{error}");
    mark.assert_gone();
}

#[test]
fn a_daemon_writes_files_that_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "seq 1000; printf 'gr\\374n\\n'; exec sleep 1000"]);
    let sink = Sink::Writer(Box::new(RotatingFile::open(&path, 500, 2).unwrap()));
    let daemon = Daemon::new("counter", command).output(sink).start().unwrap();
    assert!(wait_until(LONG, || std::fs::read(&path).is_ok_and(|text| text.ends_with(b"1000\ngr\xfcn\n"))));
    daemon.stop();
    let older = std::fs::read_to_string(dir.path().join("log.1")).unwrap();
    assert!(older.len() <= 500 && older.ends_with('\n') && !older.starts_with('\n'), "{older:?}");
    assert!(dir.path().join("log.2").exists() && !dir.path().join("log.3").exists());
}

#[test]
fn lines_that_are_no_text_are_had_as_bytes_or_replaced() {
    let command = || {
        let mut command = Command::new("printf");
        command.arg("one\\ngr\\374n\\nlast");
        command
    };
    let strict: Vec<_> = command().stream().unwrap().collect();
    assert!(strict.len() == 2 && strict[1].as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData));
    let bytes: Result<Vec<_>, _> = command().stream().unwrap().bytes().collect();
    assert_eq!(bytes.unwrap(), [b"one".as_slice(), b"gr\xfcn", b"last"]);
    let lossy: Result<Vec<_>, _> = command().stream().unwrap().lossy().collect();
    assert_eq!(lossy.unwrap(), ["one", "gr\u{fffd}n", "last"]);
}

#[test]
fn lines_of_both_streams_come_as_they_are_written() {
    let mark = Mark::new();
    let script = "echo first; read line <&3; echo second >&2; read line <&3; echo third; exec 1>&-; read line <&3; echo last >&2";
    let (theirs, mut ours) = std::io::pipe().unwrap();
    let mut lines = mark.shell(script).inherit_as(3, theirs).stream_both().unwrap();
    for (source, text) in
        [(Source::Stdout, "first"), (Source::Stderr, "second"), (Source::Stdout, "third"), (Source::Stderr, "last")]
    {
        let line = lines.next().unwrap().unwrap();
        assert_eq!((line.source, &*line.text()), (source, text));
        ours.write_all(b"\n").unwrap();
    }
    assert!(lines.next().is_none());
    assert!(lines.finish().unwrap().success());
    // A dropped one ends at once.
    let mut lines = mark.shell("yes & yes >&2").stream_both().unwrap();
    assert_eq!(lines.next().unwrap().unwrap().bytes, b"y");
    drop(lines);
    mark.assert_gone();
}

#[test]
fn success_can_be_asked_for() {
    let output = |script: &str| Command::new("sh").args(["-c", script]).run().unwrap();
    assert_eq!(output("echo fine").ok().unwrap().stdout, b"fine\n");
    let error = output("printf 'first\\nlast \\033words\\n' >&2; exit 2").ok().unwrap_err();
    assert_eq!((error.report.cause, error.last_words.as_deref()), (Cause::Exited(2), Some("last ?words")));
    assert_eq!(output("kill -9 $$").report.ok().unwrap_err().to_string(), "the command failed: ended by SIGKILL");
}

#[cfg(feature = "serde")]
#[test]
fn a_report_goes_through_serde_and_back() {
    for script in ["echo x; exit 3", "kill -USR1 $$", "exec 1>&-; sleep 1000"] {
        let mut command = Command::new("sh");
        command.args(["-c", script]).timeout(std::time::Duration::from_millis(500)).stdin(Stdio::null());
        let report = command.run().unwrap().report;
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ginnel_process::ExitReport>(&text).unwrap(), report, "{text}");
    }
    let signal = ginnel_process::Signal::new(40).unwrap();
    assert_eq!(serde_json::to_string(&signal).unwrap(), "\"40\"");
    assert_eq!(serde_json::from_str::<ginnel_process::Signal>("\"SIGHUP\"").unwrap(), ginnel_process::Signal::HUP);
}
