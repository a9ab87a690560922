//! The async face: the same streams, counters, limits and end.
#![cfg(feature = "tokio")]

mod common;

use common::{LONG, Mark};
use ginnel_process::{Cause, Command, Limit, Pty, Signal, Size, Stdio, WaitError};
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
