//! Pseudo-terminals: what a program sees that is run in one.

mod common;

use common::{LONG, Mark, runs, wait_until};
use ginnel_process::{Cause, Child, Command, Pty, PtyMaster, Signal, Size};
use std::io::{Read, Write};
use std::time::Instant;

fn start(script: &str, pty: Pty) -> (Child, PtyMaster) {
    let mut child = Command::new("sh").args(["-c", script]).pty(pty).timeout(LONG).spawn().unwrap();
    let master = child.pty.take().unwrap();
    (child, master)
}

fn usual() -> Pty {
    Pty::new(Size::new(24, 80))
}

/// Reads until the text has been shown.
#[track_caller]
fn expect(master: &mut PtyMaster, text: &str) -> String {
    let (mut seen, mut buf, begun) = (String::new(), [0; 4096], Instant::now());
    while !seen.contains(text) {
        let len = master.read(&mut buf).unwrap();
        assert!(len > 0 && begun.elapsed() < LONG, "never saw {text:?}, but {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buf[..len]));
    }
    seen
}

#[test]
fn all_three_streams_are_the_controlling_terminal() {
    let (mut child, mut master) =
        start("test -t 0 && test -t 1 && test -t 2 && : >/dev/tty && echo a terminal", usual());
    let mut seen = String::new();
    master.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "a terminal\r\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_size_is_there_from_the_first_instruction_and_follows_a_resize() {
    let script = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let (mut child, mut master) = start(script, Pty::new(Size::new(33, 111)));
    assert!(expect(&mut master, "ready").starts_with("33 111\r\n"));
    master.resize(Size::new(44, 222)).unwrap();
    expect(&mut master, "44 222");
    assert!(child.wait().unwrap().success());
}

#[test]
fn echo_and_line_editing_are_on_unless_asked_otherwise() {
    let (mut child, mut master) = start("read line; echo got $line", usual());
    // The kernel's line editing: the backspace never reaches the shell.
    master.write_all(b"abx\x7fc\n").unwrap();
    let seen = expect(&mut master, "got abc");
    assert!(seen.starts_with("abx"), "{seen:?}");
    child.wait().unwrap();

    let (mut child, mut master) = start("read line; echo got $line", usual().no_echo());
    master.write_all(b"secret\n").unwrap();
    let seen = expect(&mut master, "got");
    assert!(seen.starts_with("got"), "{seen:?}");
    child.wait().unwrap();
}

#[test]
fn raw_mode_passes_every_byte_unchanged() {
    let (mut child, mut master) = start("echo ready; head -c 256 | od -An -v -tu1 | tr -s ' \\n' ' '", usual().raw());
    expect(&mut master, "ready");
    let all: Vec<u8> = (0..=255).collect();
    master.write_all(&all).unwrap();
    let numbers: Vec<String> = all.iter().map(u8::to_string).collect();
    expect(&mut master, &numbers.join(" "));
    assert!(child.wait().unwrap().success());
}

#[test]
fn modes_can_be_those_of_another_terminal() {
    let (mut first, raw) = start("sleep 100", usual().raw().no_echo());
    let (mut child, mut master) = start("stty -a", usual().like(&raw).unwrap());
    let mut seen = String::new();
    master.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("-icanon") && seen.contains("-echo ") && seen.contains("-opost"), "{seen}");
    child.wait().unwrap();
    first.kill().unwrap();
}

#[test]
fn control_c_interrupts_the_foreground() {
    ginnel_testing::default_signals();
    let (mut child, mut master) = start("echo ready; exec sleep 1000", usual());
    expect(&mut master, "ready");
    // Typed before the exec it would hit the shell: with the same result.
    master.write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().cause, Cause::Signaled { signal: Signal::INT, core: false });
}

#[test]
fn control_z_stops_a_job_and_the_shell_goes_on() {
    let (mut child, mut master) = start("set -m; sleep 1000; echo stopped with $?; jobs; kill -9 %1; exit 6", usual());
    let mark_of_sleep = || child.stats().is_ok_and(|stats| stats.processes == 2);
    assert!(wait_until(LONG, mark_of_sleep));
    // The shell hands the terminal over a moment after it has started the job: ^Z until the job is stopped.
    let mut typist = master.try_clone().unwrap();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let typing = std::thread::spawn({
        let done = std::sync::Arc::clone(&done);
        move || {
            wait_until(LONG, || {
                let _ = typist.write_all(b"\x1a");
                done.load(std::sync::atomic::Ordering::Relaxed)
            })
        }
    });
    // 128 + SIGTSTP
    expect(&mut master, "stopped with 148");
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    typing.join().unwrap();
    drop(master);
    child.stop().unwrap();
}

#[test]
fn control_d_is_end_of_file() {
    let (mut child, mut master) = start("cat; echo end", usual().no_echo());
    master.write_all(b"line\n\x04").unwrap();
    let mut seen = String::new();
    master.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "line\r\nend\r\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_last_byte_is_never_lost() {
    let count = if std::env::var_os("GINNEL_SOAK").is_some() { 5000 } else { 1000 };
    for run in 0..count {
        // The writer ends right after its last byte, and more often than not before the first is read.
        let mut child = Command::new("head").args(["-c", "9000", "/dev/zero"]).pty(usual().raw()).spawn().unwrap();
        let mut master = child.pty.take().unwrap();
        if run % 10 == 0 {
            assert!(wait_until(LONG, || !runs(child.id())), "it fits into the terminal's buffer");
        }
        let mut bytes = Vec::new();
        master.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 9000, "run {run}");
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn hanging_up_ends_the_session() {
    ginnel_testing::default_signals();
    let mark = Mark::new();
    let mut child = mark.command("sleep").arg("1000").pty(usual()).spawn().unwrap();
    drop(child.pty.take());
    assert_eq!(child.wait().unwrap().cause, Cause::Signaled { signal: Signal::HUP, core: false });
    mark.assert_gone();
}
