//! The async face: the same streams, counters, limits and end.
#![cfg(feature = "tokio")]

mod common;

use common::{LONG, Mark};
use ginnel_process::{Cause, Command, KillLadder, Limit, Pty, RunError, Signal, Size, Source, Stdio, WaitError};
use std::io::Read as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn a_gibibyte_is_not_needed_to_see_backpressure_and_every_byte() {
    const BYTES: usize = 16 << 20;
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap().into_async().unwrap();
    let mut stdout = child.stdout.take().unwrap().into_async().unwrap();
    let input: Vec<u8> = (0..BYTES).map(|index| (index % 253) as u8).collect();
    let expected = input.clone();
    let (sent, received) = tokio::join!(
        async move {
            stdin.write_all(&input).await.unwrap();
            drop(stdin);
        },
        async {
            let mut output = Vec::new();
            stdout.read_to_end(&mut output).await.unwrap();
            output
        }
    );
    let () = sent;
    assert!(received == expected);
    let report = child.wait_async().await.unwrap();
    assert_eq!((report.stdin.bytes, report.stdout.bytes), (BYTES as u64, BYTES as u64));
}

#[tokio::test]
async fn a_wait_discards_what_nobody_reads_from_both_streams() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "head -c 3000000 /dev/zero >&2; head -c 2000000 /dev/zero; exit 3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let report = timeout(LONG, child.wait_async()).await.unwrap().unwrap();
    assert_eq!((report.code(), report.stdout.discarded, report.stderr.discarded), (Some(3), 2_000_000, 3_000_000));
}

#[tokio::test]
async fn a_wait_that_is_given_up_can_be_taken_up_again() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    assert!(timeout(Duration::from_millis(20), child.wait_async()).await.is_err());
    child.signal_leader(Signal::USR1).unwrap();
    let report = timeout(LONG, child.wait_async()).await.unwrap().unwrap();
    assert_eq!(report.cause, Cause::Signaled { signal: Signal::USR1, core: false });
}

#[tokio::test]
async fn the_output_limit_and_the_lost_shepherd_are_told_as_in_the_blocking_face() {
    let mark = Mark::new();
    let mut child = mark.command("yes").stdout(Stdio::piped()).max_output(5000).spawn().unwrap();
    let mut output = Vec::new();
    let mut stdout = child.stdout.take().unwrap().into_async().unwrap();
    stdout.read_to_end(&mut output).await.unwrap_err();
    assert_eq!(output.len(), 5000);
    assert_eq!(child.wait_async().await.unwrap().cause, Cause::Limit(Limit::Output));

    let mut child = mark.command("sleep").arg("1000").spawn().unwrap();
    let shepherd = rustix::process::Pid::from_raw(child.shepherd_id() as i32).unwrap();
    rustix::process::kill_process(shepherd, rustix::process::Signal::KILL).unwrap();
    let result = timeout(LONG, child.wait_async()).await.unwrap();
    assert!(matches!(result, Err(WaitError::ShepherdLost { .. })));
    mark.assert_gone();
}

#[tokio::test]
async fn a_terminal_is_read_and_written() {
    let mut child = Command::new("cat").pty(Pty::new(Size::new(24, 80)).no_echo()).spawn().unwrap();
    let mut terminal = child.pty.take().unwrap().into_async().unwrap();
    terminal.write_all(b"typed\n\x04").await.unwrap();
    let mut shown = String::new();
    terminal.read_to_string(&mut shown).await.unwrap();
    assert_eq!(shown, "typed\r\n");
    assert!(child.wait_async().await.unwrap().success());
}

#[tokio::test]
async fn a_run_feeds_and_captures_as_the_blocking_one() {
    const BYTES: usize = 4 << 20;
    let input: Vec<u8> = (0..BYTES).map(|index| (index % 253) as u8).collect();
    let mut command = Command::new("sh");
    command.args(["-c", "tee /dev/stderr; exit 3"]).input(input.clone()).capture_limit(BYTES / 2);
    let output = timeout(LONG, command.run_async()).await.unwrap().unwrap();
    assert!(output.stdout == input[..BYTES / 2] && output.stderr == output.stdout && output.truncated());
    let report = &output.report;
    assert_eq!((report.code(), report.stdin.bytes, report.stdout.bytes), (Some(3), BYTES as u64, BYTES as u64));
    assert_eq!(report.stderr.discarded, (BYTES / 2) as u64);

    let output = Command::new("cat").input_chunks(["a", "b"]).run_async().await.unwrap();
    assert_eq!(output.stdout, b"ab");
    let output = Command::new("yes").max_output(5000).run_async().await.unwrap();
    assert_eq!((output.stdout.len(), output.report.cause), (5000, Cause::Limit(Limit::Output)));
    let mut terminal = Command::new("cat");
    terminal.pty(Pty::new(Size::new(24, 80)).no_echo()).input(*b"typed");
    assert_eq!(timeout(LONG, terminal.run_async()).await.unwrap().unwrap().stdout, b"typed");
}

#[tokio::test]
async fn errors_of_a_run_are_those_of_the_blocking_one() {
    let mark = Mark::new();
    let error = mark.command("/nowhere").run_async().await.unwrap_err();
    assert!(matches!(&error, RunError::Spawn(error) if error.errno() == Some(2)), "{error}");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let error = timeout(LONG, mark.command("yes").tee_stdout(full).run_async()).await.unwrap().unwrap_err();
    assert!(matches!(error, RunError::Stream(_)), "{error}");
    mark.assert_gone();
}

#[tokio::test]
async fn a_run_that_is_given_up_ends_its_tree() {
    let mark = Mark::new();
    assert!(timeout(Duration::from_millis(100), mark.shell("sleep 1000 & sleep 1001").run_async()).await.is_err());
    mark.assert_gone_soon();
    // Also in the middle of the start.
    for micros in (0..3000).step_by(300) {
        let _ = timeout(Duration::from_micros(micros), mark.command("sleep").arg("1000").spawn_async()).await;
    }
    mark.assert_gone_soon();
}

#[tokio::test]
async fn stop_and_kill_do_not_block_the_runtime() {
    let mark = Mark::new();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.02; done";
    let mut command = mark.shell(script);
    command.kill_ladder(KillLadder::grace(Duration::from_millis(200))).stdout(Stdio::piped());
    let mut child = command.spawn_async().await.unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let mut ticks = 0;
    let report = {
        let stop = child.stop_async();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                report = &mut stop => break report.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(5)) => ticks += 1,
            }
        }
    };
    assert_eq!((report.cause, report.signal()), (Cause::Stopped, Some(Signal::KILL)));
    assert!(ticks > 3, "the runtime stood still");
    let mut child = mark.command("sleep").arg("1000").spawn_async().await.unwrap();
    let handle = child.handle();
    let (report, heard) = tokio::join!(child.kill_async(), handle.wait_async());
    assert_eq!(report, heard);
    assert_eq!(report.unwrap().signal(), Some(Signal::KILL));
    mark.assert_gone();
}

#[tokio::test]
async fn lines_come_one_by_one_and_a_dropped_wait_loses_none() {
    let mark = Mark::new();
    let script = "seq 3; echo err >&2; read line <&3; printf 'gr\\374n\\nlast'; seq 100000 >&2";
    let (theirs, mut ours) = std::io::pipe().unwrap();
    let mut command = mark.shell(script);
    command.inherit_as(3, theirs).stderr(Stdio::piped());
    let mut lines = command.stream_async().await.unwrap();
    for wanted in ["1", "2", "3"] {
        assert_eq!(timeout(LONG, lines.next_line()).await.unwrap().unwrap().unwrap(), wanted);
    }
    assert!(timeout(Duration::from_millis(20), lines.next_line()).await.is_err());
    std::io::Write::write_all(&mut ours, b"\n").unwrap();
    assert_eq!(lines.next_bytes().await.unwrap().unwrap(), b"gr\xfcn");
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "last");
    assert_eq!(lines.next_line().await.unwrap(), None);
    let report = timeout(LONG, lines.finish()).await.unwrap().unwrap();
    assert!(report.success() && report.stderr.discarded == report.stderr.bytes, "{report:?}");

    let mut lines = mark.shell("echo out; echo err >&2").stream_both_async().await.unwrap();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_of_both().await.unwrap() {
        seen.push((line.source, line.text().into_owned()));
    }
    seen.sort_by_key(|(source, _)| *source == Source::Stderr);
    assert_eq!(seen, [(Source::Stdout, "out".to_owned()), (Source::Stderr, "err".to_owned())]);

    let mut lines = mark.command("yes").stream_async().await.unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "y");
    drop(lines);
    mark.assert_gone_soon();
}

#[tokio::test]
async fn a_pipeline_runs_as_the_blocking_one() {
    let mark = Mark::new();
    let pipeline = mark.command("yes") | mark.command("head").args(["-n", "2"]) | mark.command("cat");
    let output = timeout(LONG, pipeline.run_async()).await.unwrap().unwrap();
    assert!(output.success() && output.stdout == b"y\ny\n");
    let pipeline = mark.command("cat").input(vec![b'x'; 1 << 20]) | mark.command("wc").arg("-c");
    assert_eq!(pipeline.run_async().await.unwrap().stdout.trim_ascii(), b"1048576");
    let mut running = (mark.command("true") | mark.command("cat")).spawn_async().await.unwrap();
    assert!(timeout(LONG, running.wait_async()).await.unwrap().unwrap().iter().all(|report| report.success()));
    mark.assert_gone();
}
