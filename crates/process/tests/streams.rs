//! Streams: backpressure, constant memory, no deadlock in any mode.

mod common;

use common::{LONG, Mark, role, wait_until};
use ginnel_process::{Cause, Command, Limit, Orphans, Stdio};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

roles!(reader_that_is_slow, capture_of_half_a_gigabyte);

const MIB: usize = 1 << 20;

/// Bytes that differ from block to block, and within it: every eighth word, for there are many.
fn fill(block: &mut [u8], number: u64) {
    for (index, word) in block.chunks_exact_mut(8).enumerate().step_by(8) {
        word.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64).to_le_bytes());
    }
}

fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs a role: in a process of its own, whose memory no other test uses.
#[track_caller]
fn passes(name: &str) {
    let mark = Mark::new();
    let output = role(name, &mark).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    mark.assert_gone_soon();
}

fn reader_that_is_slow() {
    const BLOCK: usize = 64 * 1024;
    /// Two pipes of 64 KiB and what `cat` holds, with room to spare.
    const IN_BETWEEN: u64 = MIB as u64;
    /// 1 GiB.
    const BLOCKS: u64 = 16 * 1024;
    // After a failure the writer must not wait for a reader that is gone.
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).timeout(6 * LONG).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let written = AtomicU64::new(0);
    let before = peak_kib(std::process::id());
    let mut shepherd = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut block = vec![0; BLOCK];
            for number in 0..BLOCKS {
                fill(&mut block, number);
                stdin.write_all(&block).unwrap();
                written.fetch_add(BLOCK as u64, Ordering::Relaxed);
            }
            drop(stdin);
        });
        let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
        for number in 0..BLOCKS {
            if number % 64 == 0 {
                // Slow: long enough for the writer to run away if it could.
                std::thread::sleep(Duration::from_millis(2));
                // A block may be read before its writer has counted it.
                let ahead = written.load(Ordering::Relaxed).saturating_sub(number * BLOCK as u64);
                assert!(ahead <= IN_BETWEEN, "{ahead} bytes are somewhere in between");
                shepherd = peak_kib(child.shepherd_id());
            }
            stdout.read_exact(&mut block).unwrap();
            fill(&mut expected, number);
            assert!(block == expected, "block {number} differs");
        }
        assert_eq!(stdout.read(&mut block).unwrap(), 0);
    });
    let grown = peak_kib(std::process::id()) - before;
    assert!(grown < 4 * 1024, "this process grew by {grown} KiB");
    assert!(shepherd < 300, "the shepherd used {shepherd} KiB");
    let report = child.wait().unwrap();
    assert_eq!((report.stdin.bytes, report.stdout.bytes), (BLOCKS * BLOCK as u64, BLOCKS * BLOCK as u64));
    assert!(report.success());
}

#[test]
fn a_slow_reader_holds_the_writer_back_and_gets_every_byte() {
    passes("reader_that_is_slow");
}

fn capture_of_half_a_gigabyte() {
    const HALF: u64 = 512 * MIB as u64;
    let before = peak_kib(std::process::id());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("head -c {HALF} /dev/zero >&2; echo done")]).capture_limit(MIB);
    let output = command.run().unwrap();
    let grown = peak_kib(std::process::id()) - before;
    assert!(grown < 4 * 1024, "this process grew by {grown} KiB");
    assert_eq!((output.stdout.as_slice(), output.stderr.len()), (b"done\n".as_slice(), MIB));
    assert_eq!((output.report.stderr.bytes, output.report.stderr.discarded), (HALF, HALF - MIB as u64));
}

#[test]
fn what_a_capture_throws_away_costs_no_memory() {
    passes("capture_of_half_a_gigabyte");
}

#[test]
fn nothing_is_read_before_it_is_asked_for() {
    let mark = Mark::new();
    let child = mark.command("yes").stdout(Stdio::piped()).spawn().unwrap();
    // The pipe fills, and `yes` sleeps in its write.
    let state = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    assert!(wait_until(LONG, || state().rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))));
    let io = || fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    let written = |io: String| io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok()).unwrap();
    assert!(written(io()) <= 64 * 1024 + 16 * 1024, "{}", io());
    drop(child);
    mark.assert_gone_soon();
}

/// Writes 10 MiB to stderr, and says so on stdout.
const LOUD: &str = "head -c 10485760 /dev/zero >&2; echo done";
const TEN: u64 = 10 * MIB as u64;

#[test]
fn a_loud_stderr_that_is_piped_but_unread_does_not_block_a_wait() {
    let mut command = Command::new("sh");
    let mut child = command.args(["-c", LOUD]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let report = child.wait().unwrap();
    assert_eq!(report.cause, Cause::Exited(0));
    // Nothing is lost silently: what was thrown away is counted.
    assert_eq!((report.stderr.bytes, report.stderr.discarded, report.stdout.discarded), (TEN, TEN, 5));
}

#[test]
fn a_loud_stderr_that_is_piped_and_never_waited_for_is_bounded_by_the_timeout() {
    let mut command = Command::new("sh");
    command.args(["-c", LOUD]).stdout(Stdio::piped()).stderr(Stdio::piped()).timeout(Duration::from_millis(300));
    let mut child = command.spawn().unwrap();
    // Reading only the wrong stream is the classical deadlock; here it ends.
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().cause, Cause::TimedOut);
}

#[test]
fn a_loud_stderr_that_is_piped_but_unread_does_not_hold_up_a_stream_of_lines() {
    let mut command = Command::new("sh");
    command.args(["-c", LOUD]).stderr(Stdio::piped());
    let (lines, report) = in_time(move || {
        let mut lines = command.stream().unwrap();
        let said: Vec<String> = lines.by_ref().map(Result::unwrap).collect();
        (said, lines.finish().unwrap())
    });
    assert_eq!((lines, report.cause), (vec!["done".to_owned()], Cause::Exited(0)));
    assert_eq!((report.stderr.bytes, report.stderr.discarded, report.stdout.discarded), (TEN, TEN, 0));
}

#[test]
fn finishing_a_stream_of_lines_throws_away_and_counts_what_is_left_of_both_streams() {
    let mut command = Command::new("sh");
    let script = format!("echo one; echo two; {LOUD}; head -c {TEN} /dev/zero; exit 3");
    command.args(["-c", &script]).stderr(Stdio::piped());
    let (first, report) = in_time(move || {
        let mut lines = command.stream().unwrap();
        (lines.next().unwrap().unwrap(), lines.finish().unwrap())
    });
    assert_eq!((first.as_str(), report.cause), ("one", Cause::Exited(3)));
    assert_eq!((report.stderr.bytes, report.stderr.discarded), (TEN, TEN));
    assert_eq!((report.stdout.bytes, report.stdout.discarded), (TEN + 13, TEN + 9));
}

#[test]
fn a_stream_of_lines_has_no_stdin_to_wait_for() {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped());
    let (line, report) = in_time(move || {
        let mut lines = command.stream().unwrap();
        (lines.next().is_none(), lines.finish().unwrap())
    });
    assert!(line && report.success());
}

#[test]
fn finishing_a_stream_of_lines_does_not_wait_for_an_orphan_that_is_left() {
    let mark = Mark::new();
    let mut command = mark.shell("sleep 1000 & echo left");
    command.orphans(Orphans::Leave);
    let report = in_time(move || command.stream().unwrap().finish().unwrap());
    assert_eq!((report.cause, report.stdout.discarded), (Cause::Exited(0), 5));
    assert_eq!(mark.alive().len(), 1);
}

#[test]
fn a_stderr_that_nobody_reads_counts_for_the_output_limit_of_a_stream_of_lines() {
    let mut command = Command::new("sh");
    command.args(["-c", LOUD]).stderr(Stdio::piped()).max_output(1000);
    let (failed, over, report) = in_time(move || {
        let mut lines = command.stream().unwrap();
        (lines.next().unwrap().is_err(), lines.next().is_none(), lines.finish().unwrap())
    });
    assert!(failed && over);
    assert_eq!((report.cause, report.stderr.bytes), (Cause::Limit(Limit::Output), 1000));
}

/// Runs it on a thread, and fails when it takes too long. The thread is left then; its command ends with this process.
fn in_time<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(task()));
    told.recv_timeout(LONG).expect("it failed, or waits for ever")
}

#[test]
fn a_loud_stderr_merged_into_stdout_comes_in_order() {
    let output = Command::new("sh").args(["-c", LOUD]).stderr(Stdio::merged()).run().unwrap();
    assert_eq!(output.stdout.len(), 10 * MIB + 5);
    assert!(output.stdout.ends_with(b"\0done\n"));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_loud_stderr_to_null_is_gone() {
    let output = Command::new("sh").args(["-c", LOUD]).stderr(Stdio::null()).run().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.len()), (b"done\n".as_slice(), 0));
}

#[test]
fn a_loud_stderr_to_a_file_is_in_the_file() {
    let mut file = tempfile::tempfile().unwrap();
    let output = Command::new("sh").args(["-c", LOUD]).stderr(file.try_clone().unwrap()).run().unwrap();
    assert_eq!(output.stdout, b"done\n");
    assert_eq!(file.seek(std::io::SeekFrom::End(0)).unwrap(), TEN);
}

#[test]
fn a_loud_stderr_captured_with_a_limit_keeps_the_beginning_and_counts_the_rest() {
    let output = Command::new("sh").args(["-c", LOUD]).capture_limit(1000).run().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.len()), (b"done\n".as_slice(), 1000));
    assert!(output.truncated());
    assert_eq!((output.report.stderr.bytes, output.report.stderr.discarded), (TEN, TEN - 1000));
}

#[test]
fn input_and_output_larger_than_any_pipe_pass_through_a_run() {
    let input: Vec<u8> = (0..3 * MIB).map(|index| (index % 251) as u8).collect();
    let output = Command::new("cat").input(input.clone()).run().unwrap();
    assert!(output.stdout == input);
    assert_eq!(output.report.stdin.bytes, input.len() as u64);
}

#[test]
fn a_command_that_does_not_want_its_input_is_no_error() {
    let output = Command::new("true").input(vec![0; MIB]).run().unwrap();
    assert!(output.report.success());
}

#[test]
fn a_run_ends_with_its_leader_when_an_orphan_is_left_with_the_pipe() {
    let mark = Mark::new();
    let output = mark.shell("sleep 1000 & echo left").orphans(Orphans::Leave).run().unwrap();
    assert_eq!(output.stdout, b"left\n");
    assert_eq!(mark.alive().len(), 1);
}

#[test]
fn an_orphan_that_may_finish_is_waited_for() {
    let output =
        Command::new("sh").args(["-c", "(sleep 0.3; echo late) & exit 4"]).orphans(Orphans::Wait).run().unwrap();
    assert_eq!((output.stdout.as_slice(), output.report.code()), (b"late\n".as_slice(), Some(4)));
}

#[test]
fn closing_stdin_is_end_of_file() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert!(child.wait_timeout(Duration::from_millis(50)).unwrap().is_none());
    child.close_stdin();
    assert!(child.wait_timeout(LONG).unwrap().unwrap().success());
}

#[test]
fn one_commands_stdout_can_be_anothers_stdin() {
    let mut first = Command::new("echo").arg("through").stdout(Stdio::piped()).spawn().unwrap();
    let pipe = std::os::fd::OwnedFd::from(first.stdout.take().unwrap());
    let output = Command::new("cat").stdin(pipe).run().unwrap();
    assert_eq!(output.stdout, b"through\n");
    assert!(first.wait().unwrap().success());
}

#[test]
fn extra_descriptors_arrive_at_their_numbers_even_when_those_are_taken() {
    // Twenty files, numbered backwards, so that sources and targets overlap in every way.
    let mut files: Vec<File> = (0..20).map(|_| tempfile::tempfile().unwrap()).collect();
    let mut command = Command::new("sh");
    let script: String = (3..23).map(|number| format!("echo {number} >&{number};")).collect();
    // `sh` as POSIX has it takes one digit only.
    command.args(["-c", &script.replace(">&1", ">/dev/fd/1").replace(">&2", ">/dev/fd/2")]);
    for (index, file) in files.iter().enumerate() {
        command.inherit_as(22 - index as u32, file.try_clone().unwrap());
    }
    let output = command.run().unwrap();
    assert!(output.report.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (index, file) in files.iter_mut().enumerate() {
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\n", 22 - index));
    }
}
