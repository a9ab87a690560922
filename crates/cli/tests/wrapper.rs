//! `ginnel run` in the place of its command: signals, descriptors, terminal and exit code are as without it.

use ginnel_process::{Command as Shepherded, Pty, PtyMaster, Size};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const GINNEL: &str = env!("CARGO_BIN_EXE_ginnel");
const LONG: Duration = Duration::from_secs(20);

fn ginnel(args: &[&str]) -> Command {
    ginnel_testing::default_signals();
    let mut command = Command::new(GINNEL);
    command.arg("run").args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    ginnel(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A `ginnel` that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    /// Its exit code; it has `LONG` for it.
    fn code(&mut self) -> Option<i32> {
        assert!(wait_until(|| self.0.try_wait().unwrap().is_some()), "it goes on and on");
        self.0.wait().unwrap().code()
    }
}

fn started(args: &[&str]) -> (Running, BufReader<std::process::ChildStdout>) {
    let mut child = ginnel(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map(Running).unwrap();
    let out = BufReader::new(child.0.stdout.take().unwrap());
    (child, out)
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + LONG;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The kernel's letter for what a process does; a space when it is gone.
fn state(pid: &str) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or(' ')
}

fn children(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn expect(master: &mut PtyMaster, wanted: &str) -> String {
    let (mut seen, mut buf) = (String::new(), [0; 1024]);
    while !seen.contains(wanted) {
        let len = master.read(&mut buf).unwrap();
        assert!(len > 0, "never saw {wanted:?}, but {seen:?}");
        seen.push_str(&text(&buf[..len]));
    }
    seen
}

/// Prints the name of each of these signals when it comes.
fn echoing(signals: &[(&str, i32)]) -> String {
    let traps: String = signals.iter().map(|(name, number)| format!("trap 'echo {name}' {number}; ")).collect();
    format!("{traps} echo ready; while :; do sleep 0.02; done")
}

#[test]
fn signals_that_mean_something_to_the_command_reach_it_and_end_nothing() {
    let signals = [
        ("HUP", libc::SIGHUP),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("ALRM", libc::SIGALRM),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("URG", libc::SIGURG),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("XCPU", libc::SIGXCPU),
        ("ABRT", libc::SIGABRT),
        ("TRAP", libc::SIGTRAP),
        ("SYS", libc::SIGSYS),
        ("first-real-time", libc::SIGRTMIN()),
        ("last-real-time", libc::SIGRTMAX()),
    ];
    for isolated in [&["--"][..], &["--isolate", "--"]] {
        let (mut child, mut out) = started(&[isolated, &["bash", "-c", &echoing(&signals)]].concat());
        assert_eq!(line(&mut out), "ready");
        for round in 0..2 {
            for (name, number) in signals {
                let kill = Command::new("kill").args([&format!("-{number}"), &child.0.id().to_string()]).status();
                assert!(kill.unwrap().success());
                assert_eq!(line(&mut out), name, "round {round}");
            }
        }
        child.signal(Signal::TERM);
        assert_eq!(child.code(), Some(143));
    }
    // Who does not expect one is ended by it, and that is the code.
    let (mut child, mut out) = started(&["--", "sh", "-c", "echo ready; exec sleep 1000"]);
    assert_eq!(line(&mut out), "ready");
    child.signal(Signal::USR1);
    assert_eq!(child.code(), Some(128 + libc::SIGUSR1));
}

#[test]
fn a_signal_during_the_start_is_not_lost() {
    // The command ends by it, whenever it comes: it is kept for a command that has not started yet.
    for attempt in 0..40u64 {
        let mut child = Running(ginnel(&["--", "sleep", "1000"]).stderr(Stdio::null()).spawn().unwrap());
        let moment = Instant::now() + Duration::from_micros(attempt * 150);
        while Instant::now() < moment {}
        child.signal(Signal::USR2);
        assert!(wait_until(|| child.0.try_wait().unwrap().is_some()), "attempt {attempt}: it is lost");
    }
}

#[test]
fn as_the_first_process_it_passes_a_hangup_on() {
    if !ginnel_testing::has_namespaces("-Urpf") {
        return;
    }
    ginnel_testing::default_signals();
    let script = "trap 'echo again' HUP; echo ready; while :; do sleep 0.02; done";
    let mut command = Shepherded::new("unshare");
    command
        .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", GINNEL, "run", "--"])
        .args(["sh", "-c", script])
        .stdin(ginnel_process::Stdio::null())
        .stdout(ginnel_process::Stdio::piped())
        .timeout(LONG);
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    assert_eq!(line(&mut out), "ready");
    let first: i32 = children(child.id())[0].parse().unwrap();
    let first = rustix::process::Pid::from_raw(first).unwrap();
    for _ in 0..3 {
        rustix::process::kill_process(first, Signal::HUP).unwrap();
        assert_eq!(line(&mut out), "again");
    }
    rustix::process::kill_process(first, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn without_proc_it_passes_on_the_same() {
    if !ginnel_testing::has_namespaces("-Urm") {
        return;
    }
    let script = "mount -t tmpfs none /proc && exec \"$0\" run -- sh -c 'echo passed >&7; kill -HUP $$; exit 5' 7>&1";
    let mut command = std::process::Command::new("unshare");
    // What is ignored at the start stays so: the command outlives its own HUP.
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &format!("trap '' HUP; {script}"), GINNEL]);
    let output = command.output().unwrap();
    let facts = (output.status.code(), text(&output.stdout));
    assert_eq!(facts, (Some(5), "passed\n".to_owned()), "{}", text(&output.stderr));
}

#[test]
fn a_terminal_that_hangs_up_is_told_to_everybody() {
    ginnel_testing::default_signals();
    let dir = tempfile::tempdir().unwrap();
    // The outer shell waits for the inner one, and would run its own trap only then.
    let script = "trap 'echo outer >> seen' HUP; sh -c \"trap 'echo inner >> seen; exit' HUP; echo ready; \
                  while :; do sleep 0.02; done\"; exit 3";
    let mut command = Shepherded::new(GINNEL);
    command.args(["run", "--", "sh", "-c", script]).current_dir(dir.path()).pty(Pty::new(Size::new(24, 80)));
    let mut child = command.timeout(LONG).spawn().unwrap();
    let mut master = child.pty.take().unwrap();
    expect(&mut master, "ready");
    drop(master);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let seen = std::fs::read_to_string(dir.path().join("seen")).unwrap();
    assert!(seen.contains("inner") && seen.contains("outer"), "{seen}");
}

#[test]
fn inherited_descriptors_are_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let bash =
        |script: &str| Command::new("bash").args(["-c", script, GINNEL]).current_dir(dir.path()).output().unwrap();
    assert_eq!(text(&bash(r#""$0" run -- cat <(echo through)"#).stdout), "through\n");
    assert_eq!(text(&bash(r#"echo out > >("$0" run -- cat; echo end)"#).stdout), "out\nend\n");
    let output = bash(r#"exec 3>f 17>g; "$0" run -- sh -c 'echo third >&3'; "$0" run -- bash -c 'echo other >&17'"#);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!((read("f"), read("g")), ("third\n".to_owned(), "other\n".to_owned()));
    // An option has the opposite; and what is close-on-exec is ours alone in either case.
    let output = bash(r#"exec 3>f; "$0" run --close-fds -- sh -c 'ls /proc/self/fd | wc -l; echo fourth >&3'"#);
    assert_eq!((text(&output.stdout), output.status.success(), read("f")), ("4\n".to_owned(), false, String::new()));
    // A limit that a shell lowers leaves open what lies beyond it, and the command finds both as they are.
    let output = bash(r#"exec 200>f; ulimit -Sn 100; "$0" run -- bash -c 'echo beyond >&200; ulimit -Sn'"#);
    assert_eq!(
        (text(&output.stdout), read("f")),
        ("100\n".to_owned(), "beyond\n".to_owned()),
        "{}",
        text(&output.stderr)
    );
    let output = bash(r#"exec 3>&-; "$0" run -- sh -c 'ls /proc/$$/fd'"#);
    let seen = text(&output.stdout);
    assert!(!seen.contains('3') && seen.contains('2'), "{seen}");
}

#[test]
fn a_jobserver_works_through_it() {
    if !ginnel_testing::has_program("make") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let makefile =
        format!("all:\n\t+@{GINNEL} run -- $(MAKE) --no-print-directory below\nbelow: a b\na b:\n\t@echo $@\n");
    std::fs::write(dir.path().join("Makefile"), makefile).unwrap();
    let output = Command::new("make").arg("-j2").current_dir(dir.path()).env_remove("MAKEFLAGS").output().unwrap();
    assert!(output.status.success() && !text(&output.stderr).contains("jobserver"), "{}", text(&output.stderr));
}

/// Whether a pipe takes anything now.
fn writable(pipe: impl rustix::fd::AsFd) -> bool {
    let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::OUT)], Some(&moment)).unwrap() > 0
}

fn set_nonblocking(fd: impl rustix::fd::AsFd) {
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).unwrap();
}

#[test]
fn a_stdout_that_does_not_block_loses_nothing_of_a_terminal() {
    const LINES: usize = 100_000;
    let (mut ours, theirs) = std::io::pipe().unwrap();
    set_nonblocking(&theirs);
    let full = theirs.try_clone().unwrap();
    let mut child = ginnel(&["--pty", "--", "seq", &LINES.to_string()]).stdout(theirs).spawn().map(Running).unwrap();
    // The pipe is full before anything is read.
    assert!(wait_until(|| !writable(&full)));
    drop(full);
    let mut output = String::new();
    ours.read_to_string(&mut output).unwrap();
    assert_eq!(child.code(), Some(0));
    assert_eq!((output.lines().count(), output.lines().last()), (LINES, Some(LINES.to_string().as_str())));
}

#[test]
fn a_stdin_that_does_not_block_is_not_at_its_end() {
    let (theirs, mut ours) = std::io::pipe().unwrap();
    set_nonblocking(&theirs);
    let mut command = ginnel(&["--pty", "--", "sh", "-c", "stty -echo; echo ready; read line; echo \"<$line>\"; cat"]);
    let mut child = command.stdin(theirs).stdout(Stdio::piped()).spawn().map(Running).unwrap();
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    assert_eq!(line(&mut out), "ready");
    // It has looked at an empty stdin, and waits for more of it.
    ours.write_all(b"typed\n").unwrap();
    assert_eq!(line(&mut out), "<typed>");
    ours.write_all(b"more\n").unwrap();
    assert_eq!(line(&mut out), "more");
    drop(ours);
    assert_eq!(child.code(), Some(0));
}

#[test]
fn a_stdout_that_nobody_reads_holds_up_neither_a_timeout_nor_a_term() {
    let unread = |args: &[&str]| {
        let mut command = ginnel(args);
        let (ours, theirs) = std::io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&theirs, 4096).unwrap();
        let full = theirs.try_clone().unwrap();
        // Its messages have no reader either.
        command.stderr(theirs.try_clone().unwrap()).stdout(theirs);
        let child = command.spawn().map(Running).unwrap();
        assert!(wait_until(|| !writable(&full)));
        (child, ours)
    };
    let (mut child, _ours) = unread(&["--pty", "--timeout", "1s", "--grace", "10ms", "--report", "-", "--", "yes"]);
    assert_eq!(child.code(), Some(124));
    let (mut child, _ours) = unread(&["--pty", "--grace", "10ms", "--", "yes"]);
    child.signal(Signal::TERM);
    assert_eq!(child.code(), Some(143));
    // Also where the command has the stdout itself, and only the report is ours.
    let (mut child, _ours) = unread(&["--timeout", "1s", "--grace", "10ms", "--report", "-", "--", "yes"]);
    assert_eq!(child.code(), Some(124));
    let (mut child, _ours) = unread(&["--report", "-", "--", "sh", "-c", "exec seq 100000"]);
    child.signal(Signal::TERM);
    assert_eq!(child.code(), Some(143));
    // One that has ended by itself is shown to the end, until somebody has enough.
    let (mut child, _ours) = unread(&["--pty", "--", "seq", "1500"]);
    assert!(wait_until(|| children(child.0.id()).is_empty()) && child.0.try_wait().unwrap().is_none());
    child.signal(Signal::TERM);
    child.signal(Signal::TERM);
    assert_eq!(child.code(), Some(0));
}

#[test]
fn in_the_background_it_is_stopped_when_its_command_reads_the_terminal() {
    stopped_in_the_background("cat", &["", "--pty"]);
}

#[test]
fn in_the_background_it_is_stopped_when_its_command_waits_for_the_terminal_before_it_reads() {
    if !ginnel_testing::has(Command::new("python3").arg("-V").output().is_ok(), "needs python3") {
        return;
    }
    let read = "[print(line, end='', flush=True) for line in iter(lambda: next(wait() and sys.stdin, ''), '')]";
    for wait in ["p = select.poll(); p.register(0, 1); wait = p.poll", "wait = lambda: select.select([0], [], [])"] {
        stopped_in_the_background(&format!("python3 -uc \"import select, sys; {wait}; {read}\""), &[""]);
    }
}

/// `reader` copies the terminal to the terminal.
fn stopped_in_the_background(reader: &str, ptys: &[&str]) {
    for pty in ptys {
        let mut command = Shepherded::new("bash");
        command
            .args(["--norc", "--noediting", "-i"])
            .env("GINNEL", GINNEL)
            .env("PS1", "$ ")
            .env("HISTFILE", "/dev/null");
        let mut child = command.pty(Pty::new(Size::new(24, 200)).no_echo()).timeout(LONG).spawn().unwrap();
        let mut master = child.pty.take().unwrap();
        master.write_all(format!("\"$GINNEL\" run {pty} -- {reader} & echo \"pid=$!;\"\n").as_bytes()).unwrap();
        let seen = expect(&mut master, ";");
        let pid = seen.split("pid=").nth(1).unwrap().split(';').next().unwrap().to_owned();
        assert!(wait_until(|| state(&pid) == 'T'), "{pty}: it is {:?}", state(&pid));
        // The keys are the shell's.
        master.write_all(b"echo $((40 + 2)) keys\n").unwrap();
        expect(&mut master, "42 keys");
        assert_eq!(state(&pid), 'T');
        // In the foreground they are the command's.
        master.write_all(b"fg > /dev/null\n").unwrap();
        assert!(wait_until(|| state(&pid) != 'T'), "{pty}");
        master.write_all(b"for the cat\n").unwrap();
        expect(&mut master, "for the cat");
        master.write_all(b"\x04").unwrap();
        assert!(wait_until(|| state(&pid) == ' '), "{pty}: it is {:?}", state(&pid));
        master.write_all(b"exit 5\n").unwrap();
        while master.read(&mut [0; 1024]).unwrap() > 0 {}
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }
}

#[test]
fn what_is_typed_ahead_is_kept() {
    let forbidden = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").is_ok_and(|value| value.trim() == "0");
    let allowed = !forbidden || rustix::process::geteuid().is_root();
    if !ginnel_testing::has(allowed, "needs root, or dev.tty.legacy_tiocsti = 1") {
        return;
    }
    let script =
        r#"read go; "$0" run --pty -- sh -c 'read one; echo "<$one>"; read go < gate'; read two; echo "<$two>""#;
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    rustix::fs::mkfifoat(rustix::fs::CWD, &gate, rustix::fs::Mode::RWXU).unwrap();
    let mut command = Shepherded::new("bash");
    command.args(["-c", script, GINNEL]).current_dir(dir.path()).timeout(LONG);
    let mut child = command.pty(Pty::new(Size::new(24, 80))).spawn().unwrap();
    let mut master = child.pty.take().unwrap();
    // All of it before the command is there; the third line is the next program's, and so is a fourth that is typed in
    // time.
    master.write_all(b"go\rfirst\rsec").unwrap();
    expect(&mut master, "<first>");
    master.write_all(b"ond\r").unwrap();
    // It has come to the inner terminal when that has shown it.
    expect(&mut master, "ond");
    std::fs::write(&gate, "go\n").unwrap();
    expect(&mut master, "<second>");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_background_command_that_reads_nothing_runs_on() {
    let mut command = Shepherded::new("bash");
    command.args(["--norc", "--noediting", "-i"]).env("GINNEL", GINNEL).env("HISTFILE", "/dev/null");
    let mut child = command.pty(Pty::new(Size::new(24, 200)).no_echo()).timeout(LONG).spawn().unwrap();
    let mut master = child.pty.take().unwrap();
    master.write_all(b"\"$GINNEL\" run -- sh -c 'sleep 0.5; echo do$((1 + 1))ne' &\n").unwrap();
    expect(&mut master, "do2ne");
    master.write_all(b"exit 5\n").unwrap();
    while master.read(&mut [0; 1024]).unwrap() > 0 {}
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_report_that_cannot_be_written_is_found_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let output = ginnel(&["--report", "no/such/dir/report", "--", "touch", "ran"]).current_dir(dir.path()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(125));
    let message = text(&output.stderr);
    assert!(message.contains("no/such/dir/report") && message.contains("nothing was run"), "{message}");
    assert!(!dir.path().join("ran").exists());
}

#[test]
fn a_report_that_fails_later_hides_no_exit_code() {
    let output = run(&["--report", "/dev/full", "--", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(text(&output.stderr).contains("No space left"), "{}", text(&output.stderr));
}

#[test]
fn no_report_of_another_run_is_left_when_the_spawn_fails() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let report = || serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(run(&["--report", path, "--", "true"]).status.code(), Some(0));
    assert_eq!(report()["cause"], "exited");
    assert_eq!(run(&["--report", path, "--", "/no/such/program"]).status.code(), Some(127));
    let report = report();
    assert_eq!((report["cause"].as_str(), report["errno"].as_i64()), (Some("not-started"), Some(2)), "{report}");
}

#[test]
fn a_wrong_command_line_has_a_documented_code() {
    for args in
        [&["--no-such-option", "--", "true"][..], &["--nice", "99", "--", "true"], &["--signal", "X", "--", "true"]]
    {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    let help = text(&run(&["--help"]).stdout);
    assert!(help.contains("2 the command line of\n`ginnel run` is wrong"), "{help}");
}

#[test]
fn a_timeout_of_zero_is_none() {
    assert_eq!(run(&["--timeout", "0", "--", "sh", "-c", "sleep 0.2; exit 4"]).status.code(), Some(4));
}

#[test]
fn limits_that_make_no_sense_are_refused_and_those_that_cannot_bind_are_kept() {
    let output = run(&["--pids", "0", "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", text(&output.stderr));
    assert_eq!(run(&["--memory", "0", "--", "true"]).status.code(), Some(125));
    let largest = u64::MAX.to_string();
    let limits = [("--cpu", "1e9"), ("--cpu", "0.002"), ("--cpu", "0.001")];
    for (limit, value) in
        limits.into_iter().chain([("--pids", "4194305"), ("--pids", &largest), ("--memory", &largest)])
    {
        let output = run(&[limit, value, "--", "true"]);
        let message = text(&output.stderr);
        assert!(output.status.success() || message.contains("needs a control group"), "{limit} {value}: {message}");
    }
    assert_eq!(run(&["--cpu", "1e-9", "--", "true"]).status.code(), Some(125));
}

#[test]
fn an_interrupt_between_two_runs_has_its_own_code() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let (mut child, mut out) = started(&["--restart", "always", "--", "sh", "-c", "echo run; exit 1"]);
        // The pause has grown to seconds then.
        for _ in 0..5 {
            assert_eq!(line(&mut out), "run");
        }
        assert!(wait_until(|| children(child.0.id()).is_empty()));
        child.signal(signal);
        assert_eq!(child.code(), Some(code));
    }
}

#[test]
fn directory_environment_and_priority_can_be_set() {
    let script = r#"pwd; nice; echo "<$HOME>""#;
    let output = run(&["--cwd", "/proc", "--env-remove", "HOME", "--nice", "5", "--", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), "/proc\n5\n<>\n");
    let output = run(&["--env-clear", "--env", "A=b", "--", "/usr/bin/env"]);
    let seen = text(&output.stdout);
    let names: Vec<&str> = seen.lines().filter(|line| !line.starts_with("GINNEL_TREE=")).collect();
    assert_eq!(names, ["A=b"]);
}

#[test]
fn the_first_signal_can_be_chosen() {
    let script = "trap 'exit 9' USR1; trap '' TERM; echo ready; while :; do sleep 0.02; done";
    for asked in [Some(Signal::TERM), None] {
        let timeout = if asked.is_some() { "1h" } else { "500ms" };
        let (mut child, mut out) =
            started(&["--signal", "USR1", "--grace", "1h", "--timeout", timeout, "--", "sh", "-c", script]);
        assert_eq!(line(&mut out), "ready");
        if let Some(signal) = asked {
            child.signal(signal);
        }
        assert_eq!(child.code(), Some(if asked.is_some() { 9 } else { 124 }));
    }
}

#[test]
fn it_can_run_as_another_user() {
    let (own, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let own = format!("{}:{}", own.as_raw(), group.as_raw());
    assert_eq!(text(&run(&["--user", &own, "--", "sh", "-c", "echo $(id -u):$(id -g)"]).stdout), own + "\n");
    assert_eq!(run(&["--user", "nobody-has-this-name", "--", "true"]).status.code(), Some(2));
    if !ginnel_testing::is_root("to run a command as another user") {
        return;
    }
    assert_eq!(text(&run(&["--user", "1234:4321", "--", "sh", "-c", "id -u; id -G"]).stdout), "1234\n4321\n");
    assert_eq!(text(&run(&["--user", "nobody", "--", "id", "-un"]).stdout), "nobody\n");
}
