//! Pipelines, and ends of pipes that nobody keeps.

mod common;

use common::{LONG, Mark, runs, wait_until};
use ginnel_process::{Cause, Command, Pipeline, Pty, RunError, Signal, Size, SpawnError, Stdio};
use std::io::{Read, Write};

#[test]
fn an_endless_writer_ends_with_its_reader() {
    let mark = Mark::new();
    let (mut yes, mut head) = (mark.command("yes"), mark.command("head"));
    head.args(["-n", "3"]);
    // The values are there all the time, and can be used again.
    let pipeline = &mut yes | &mut head;
    for _ in 0..3 {
        let output = pipeline.run().unwrap();
        assert_eq!(output.stdout, b"y\ny\ny\n");
        assert_eq!(output.reports[0].cause, Cause::Signaled { signal: Signal::PIPE, core: false });
        assert!(output.success() && output.reports[1].success());
    }
    mark.assert_gone();
}

#[test]
fn three_commands_carry_every_byte() {
    const BYTES: usize = 8 << 20;
    let input: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    let pipeline =
        Command::new("cat").input(input.clone()) | Command::new("cat") | Command::new("cat").capture_limit(BYTES);
    let output = pipeline.run().unwrap();
    assert!(output.success() && output.stdout == input);
    assert_eq!((output.reports[0].stdin.bytes, output.reports[2].stdout.bytes), (BYTES as u64, BYTES as u64));
}

#[test]
fn a_started_pipeline_is_written_and_read_by_its_ends() {
    let mark = Mark::new();
    let mut running = (mark.command("tr").args(["a-z", "A-Z"]).stdin(Stdio::piped())
        | mark.command("rev").stdout(Stdio::piped()))
    .spawn()
    .unwrap();
    let [first, last] = running.children() else { panic!("two were started") };
    first.stdin.take().unwrap().write_all(b"abc\n").unwrap();
    let mut shown = String::new();
    last.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert_eq!(shown, "CBA\n");
    assert!(running.wait().unwrap().iter().all(ginnel_process::ExitReport::success));
    mark.assert_gone();
}

#[test]
fn a_command_in_the_middle_that_fails_is_told() {
    let output =
        (Command::new("seq").arg("3") | Command::new("sh").args(["-c", "cat; exit 4"]) | Command::new("cat")).run();
    let output = output.unwrap();
    assert_eq!((output.stdout.as_slice(), output.success()), (b"1\n2\n3\n".as_slice(), false));
    assert_eq!(output.reports.iter().map(|report| report.code()).collect::<Vec<_>>(), [Some(0), Some(4), Some(0)]);
}

#[test]
fn one_that_does_not_start_leaves_none_of_the_others() {
    let mark = Mark::new();
    let error = (mark.command("yes") | mark.command("cat") | mark.command("/nowhere")).run().unwrap_err();
    assert!(matches!(error, RunError::Spawn(SpawnError::Failed { .. })), "{error}");
    mark.assert_gone();
}

#[test]
fn what_a_pipeline_cannot_have_is_refused() {
    let refused = |pipeline: Pipeline| matches!(pipeline.spawn(), Err(SpawnError::Invalid { .. }));
    assert!(refused(Command::new("true").stdout(Stdio::null()) | Command::new("true")));
    assert!(refused(Command::new("true") | Command::new("true").stdin(Stdio::null())));
    assert!(refused(Command::new("true") | Command::new("true").input(*b"x")));
    assert!(refused(Command::new("true").pty(Pty::new(Size::new(24, 80))) | Command::new("true")));
}

#[test]
fn a_dropped_pipeline_and_a_killed_one_leave_nothing() {
    let mark = Mark::new();
    let script = "trap '' TERM PIPE; sleep 1000 & sleep 1001";
    let start =
        || (mark.shell(script) | mark.shell(script) | mark.shell(script).stdout(Stdio::null())).spawn().unwrap();
    let mut running = start();
    mark.await_alive(9);
    running.kill().unwrap();
    mark.assert_gone();
    let running = start();
    mark.await_alive(9);
    drop(running);
    mark.assert_gone_soon();
}

#[test]
fn the_stdout_of_one_is_the_stdin_of_another_for_one_spawn() {
    let mark = Mark::new();
    let mut yes = mark.command("yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut head = mark.command("head");
    head.args(["-n", "1"]).stdin(yes.stdout.take().unwrap()).stdout(Stdio::null());
    let copy = head.clone();
    assert!(head.spawn().unwrap().wait().unwrap().success());
    // Neither value holds the end.
    assert!(wait_until(LONG, || !runs(yes.id())));
    assert_eq!(yes.wait().unwrap().cause, Cause::Signaled { signal: Signal::PIPE, core: false });
    for command in [&head, &copy] {
        assert!(matches!(command.spawn(), Err(SpawnError::Invalid { .. })));
    }
    mark.assert_gone();
}
