//! `ginnel run` and `ginnel ps`, from the outside.

use ginnel_process::{Command as Shepherded, Pty, PtyMaster, Size};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const GINNEL: &str = env!("CARGO_BIN_EXE_ginnel");
const LONG: Duration = Duration::from_secs(20);

fn ginnel(args: &[&str]) -> Command {
    ginnel_testing::default_signals();
    let mut command = Command::new(GINNEL);
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    ginnel(&["run"]).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A `ginnel` that does not outlive its test.
struct Running(Child);

impl std::ops::Deref for Running {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it and waits for the command's first line.
fn started(args: &[&str]) -> (Running, BufReader<std::process::ChildStdout>, String) {
    let mut child = ginnel(&["run"]).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    (Running(child), out, line.trim_end().to_owned())
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
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

fn runs(pid: &str) -> bool {
    !['Z', 'X', ' '].contains(&state(pid))
}

#[test]
fn streams_and_exit_codes_are_the_commands_own() {
    let mut child = ginnel(&["run", "--", "sh", "-c", "cat; echo to stderr >&2; exit 42"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\0any bytes\xff").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (b"\0any bytes\xff".as_slice(), b"to stderr\n".as_slice())
    );
}

#[test]
fn the_death_by_a_signal_is_told_as_shells_tell_it() {
    assert_eq!(run(&["--", "sh", "-c", "kill -TERM $$"]).status.code(), Some(143));
    assert_eq!(run(&["--", "sh", "-c", "kill -KILL $$"]).status.code(), Some(137));
}

#[test]
fn what_cannot_be_run_has_the_codes_of_a_shell_and_says_why() {
    let missing = run(&["--", "/no/such/program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("/no/such/program") && text(&missing.stderr).contains("No such file"));
    assert_eq!(run(&["--", "/etc/passwd"]).status.code(), Some(126));
    assert_eq!(run(&["--cpu", "0", "--", "true"]).status.code(), Some(125));
    assert_eq!(run(&["--timeout", "soon", "--", "true"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    // The command's own 127 is passed on all the same.
    assert_eq!(run(&["--", "sh", "-c", "exit 127"]).status.code(), Some(127));
}

#[test]
fn options_behind_the_command_are_the_commands() {
    assert_eq!(text(&run(&["echo", "--timeout", "5", "--help"]).stdout), "--timeout 5 --help\n");
}

#[test]
fn a_timeout_ends_the_tree_with_its_own_code() {
    let output = run(&[
        "--timeout",
        "100ms",
        "--grace",
        "100ms",
        "--",
        "sh",
        "-c",
        "trap '' TERM; echo $$; sleep 1000 & wait; sleep 1000",
    ]);
    assert_eq!(output.status.code(), Some(124));
    assert!(text(&output.stderr).contains("timeout"));
    assert!(!runs(text(&output.stdout).trim()));
}

#[test]
fn the_environment_can_be_added_to() {
    assert_eq!(text(&run(&["--env", "A=b=c", "--", "sh", "-c", "echo $A"]).stdout), "b=c\n");
    assert_eq!(run(&["--env", "nothing", "--", "true"]).status.code(), Some(2));
}

#[test]
fn one_interrupt_is_graceful_and_a_second_kills_at_once() {
    let (mut child, _out, _) =
        started(&["--", "sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.02; done"]);
    signal(child.id(), rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(9));

    let stubborn = "trap 'echo asked' INT; trap '' TERM; echo ready; while :; do sleep 0.02; done";
    let (mut child, mut out, _) = started(&["--grace", "1h", "--", "sh", "-c", stubborn]);
    signal(child.id(), rustix::process::Signal::INT);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "asked\n");
    assert!(child.try_wait().unwrap().is_none());
    signal(child.id(), rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn the_tree_is_suspended_and_goes_on_with_it() {
    let script = "sleep 1000 & echo $$ $!; trap 'exit 9' INT; while :; do sleep 0.02; done";
    let (mut child, _out, pids) = started(&["--grace", "100ms", "--", "sh", "-c", script]);
    let own = child.id().to_string();
    let (shell, sleep) = pids.split_once(' ').unwrap();
    for _ in 0..3 {
        signal(child.id(), rustix::process::Signal::TSTP);
        // A shell that was just starting something (by vfork) is held in the kernel by that, which is stopped.
        let states = || [&own, shell, sleep].map(state);
        assert!(wait_until(|| matches!(states(), ['T', 'T' | 'D', 'T'])), "{:?}", states());
        signal(child.id(), rustix::process::Signal::CONT);
        assert!(wait_until(|| [&own, shell, sleep].map(state).iter().all(|state| *state != 'T')));
    }
    signal(child.id(), rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(!runs(sleep));
}

#[test]
fn what_it_was_started_to_ignore_stays_ignored() {
    let mut child = Command::new("sh")
        .args(["-c", r#"trap '' HUP; exec "$0" run -- sh -c 'echo ready; read line; exit 5'"#, GINNEL])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Running)
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    signal(child.id(), rustix::process::Signal::HUP);
    // The end of the command is its own, and comes after the hangup.
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_killed_ginnel_leaves_nothing() {
    let (mut child, _out, leader) = started(&["--", "sh", "-c", "echo $$; sleep 1000 & wait"]);
    assert!(runs(&leader));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(wait_until(|| !runs(&leader)));
}

/// What has this variable in its environment; killed at the end, which only after a failure finds anybody.
struct Marked(String);

impl Marked {
    const NAME: &str = "GINNEL_TEST_MARK";

    fn alive(&self) -> Vec<u32> {
        let wanted = format!("{}={}", Self::NAME, self.0).into_bytes();
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let marked = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
        };
        pids.filter(marked).collect()
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for pid in self.alive() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid as i32).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
    }
}

#[test]
fn a_signal_at_any_moment_of_the_startup_leaves_nothing_and_has_its_code() {
    use rustix::process::Signal;
    use std::os::unix::process::ExitStatusExt;
    ginnel_testing::default_signals();
    let mark = Marked(std::process::id().to_string());
    // What a shell starts in the background ignores INT, and is killed after the grace.
    let script = "sleep 1000 & setsid sleep 1001 & (sleep 1002 &); wait";
    // On a busy machine a shorter grace ends before a shell that has the signal is let run.
    let args = ["run", "--grace", "150ms", "--", "sh", "-c", script];
    let isolated = ["run", "--isolate", "--grace", "150ms", "--", "sh", "-c", script];
    let mut caught = 0;
    for attempt in 0..180u64 {
        let mut command = Command::new(GINNEL);
        command.args(if attempt % 6 < 3 { &args[..] } else { &isolated }).stdin(Stdio::null());
        let mut child = Running(command.env(Marked::NAME, &mark.0).stderr(Stdio::null()).spawn().unwrap());
        // `spawn` returns after the exec. The moments are spread over the 6 ms in which the command and its tree start.
        let moment = Instant::now() + Duration::from_micros(attempt * 35);
        while Instant::now() < moment {}
        let sent = [Signal::TERM, Signal::INT, Signal::KILL][attempt as usize % 3];
        signal(child.id(), sent);
        assert!(wait_until(|| child.try_wait().unwrap().is_some()), "it goes on, {attempt}");
        let status = child.wait().unwrap();
        // The leader's code; before there is a handler, and so a command, the end of `ginnel` itself, which a shell
        // tells the same way.
        let code = status.code().or(status.signal().map(|number| 128 + number));
        assert_eq!(code, Some(128 + sent.as_raw()), "attempt {attempt}");
        caught += u32::from(status.code().is_some());
        // Who was asked has waited for it.
        assert!(mark.alive().is_empty() || sent == Signal::KILL, "attempt {attempt}: {:?}", mark.alive());
        assert!(wait_until(|| mark.alive().is_empty()), "attempt {attempt}: {:?}", mark.alive());
    }
    assert!(caught > 0, "the command never started");
}

#[test]
fn the_report_is_json() {
    let output = run(&["--report", "-", "--", "sh", "-c", "sleep 1000 & exit 3"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report["cause"].as_str(), report["code"].as_i64(), report["survivors"].as_i64()),
        (Some("exited"), Some(3), Some(0))
    );
    assert!(
        report["peak_memory"].as_u64().unwrap() > 100_000 && report["duration"].as_f64().unwrap() > 0.0,
        "{report}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        run(&["--report", path, "--isolate", "--timeout", "50ms", "--", "sleep", "1000"]).status.code(),
        Some(124)
    );
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((report["cause"].as_str(), report["guarantee"].as_str()), (Some("timeout"), Some("pid-namespace")));
    // It obeyed the first signal, and so nothing had to be killed.
    assert_eq!((report["obeyed"].as_u64(), report["killed"].as_u64()), (Some(1), Some(0)), "{report}");
}

#[test]
fn limits_are_held_or_refused_but_never_ignored() {
    let output = run(&["--memory", "64M", "--pids", "32", "--cpu", "1.5", "--report", "-", "--", "true"]);
    if output.status.code() == Some(125) {
        assert!(text(&output.stderr).contains("needs a control group"), "{}", text(&output.stderr));
    } else {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["limits"].as_array().unwrap().len(), 3, "{report}");
    }
}

#[test]
fn a_failing_command_is_started_again_until_it_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo x >> count; test $(wc -l < count) -ge 3";
    let output =
        ginnel(&["run", "--restart", "on-failure", "--", "sh", "-c", script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(dir.path().join("count")).unwrap(), "x\nx\nx\n");
}

#[test]
fn an_interrupt_ends_a_command_that_would_be_started_again() {
    let (mut child, _out, _) = started(&["--restart", "always", "--", "sh", "-c", "echo up; exit 1"]);
    signal(child.id(), rustix::process::Signal::INT);
    assert!(wait_until(|| child.try_wait().unwrap().is_some()));
}

/// `ginnel run --pty` in a terminal of ours.
fn in_a_terminal(script: &str) -> (ginnel_process::Child, PtyMaster) {
    typed_at(&["--", "sh", "-c", script])
}

fn typed_at(args: &[&str]) -> (ginnel_process::Child, PtyMaster) {
    ginnel_testing::default_signals();
    let mut command = Shepherded::new(GINNEL);
    command.args(["run", "--pty"]).args(args).pty(Pty::new(Size::new(30, 90))).timeout(LONG);
    let mut child = command.spawn().unwrap();
    let master = child.pty.take().unwrap();
    (child, master)
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

#[test]
fn the_terminal_is_passed_through_with_its_size_and_its_resizes() {
    let (mut child, mut master) =
        in_a_terminal("stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done");
    assert!(expect(&mut master, "ready").contains("30 90"));
    master.resize(Size::new(40, 120)).unwrap();
    expect(&mut master, "40 120");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn keys_reach_the_commands_terminal_and_control_c_is_its_own() {
    let (mut child, mut master) =
        in_a_terminal("trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done");
    expect(&mut master, "ready");
    master.write_all(b"\x03").unwrap();
    expect(&mut master, "interrupted");
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn without_a_terminal_the_end_of_stdin_is_typed() {
    let mut child =
        ginnel(&["run", "--pty", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).ends_with("typed\r\n")), (Some(0), true));
}

/// Its exit code and what it wrote (little); it has `LONG` for both.
fn ended(mut child: Running) -> (Option<i32>, String) {
    assert!(wait_until(|| child.try_wait().unwrap().is_some()), "it goes on and on");
    let mut written = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut written).unwrap();
    }
    (child.wait().unwrap().code(), written)
}

#[test]
fn the_end_of_stdin_in_the_middle_of_a_line_is_an_end_too() {
    for typed in ["typed", "typed\nmore", "typed\r", ""] {
        let mut command = ginnel(&["run", "--pty", "--", "cat"]);
        let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let (code, shown) = ended(child);
        let last = typed.replace('\r', "\n").replace('\n', "\r\n");
        assert!(code == Some(0) && shown.ends_with(&last), "{typed:?}: {code:?}, {shown:?}");
    }
}

#[test]
fn a_command_nobody_listens_to_any_more_ends_as_by_a_broken_pipe() {
    let (child, out, leader) = started(&["--pty", "--grace", "1h", "--", "sh", "-c", "echo $$; exec yes"]);
    drop(out);
    assert_eq!(ended(child).0, Some(141));
    assert!(!runs(&leader));

    // Whoever ignores SIGPIPE is asked to end, and can still write.
    let deaf = "trap '' PIPE; trap 'echo bye; exit 7' TERM; echo $$; while :; do echo y; done";
    let (child, out, leader) = started(&["--pty", "--grace", "1h", "--", "sh", "-c", deaf]);
    drop(out);
    assert_eq!(ended(child).0, Some(141));
    assert!(!runs(&leader));

    // One that would be started again has nobody to write to either.
    let (child, out, _) = started(&["--pty", "--restart", "always", "--", "echo", "up"]);
    drop(out);
    assert_eq!(ended(child).0, Some(141));
}

#[test]
fn a_command_whose_output_cannot_be_written_is_ended_with_the_reason() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = ginnel(&["run", "--pty", "--", "yes"]);
    let mut child = Running(command.stdout(full).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = child.stderr.take().unwrap();
    assert_eq!(ended(child).0, Some(125));
    let mut reason = String::new();
    stderr.read_to_string(&mut reason).unwrap();
    assert!(reason.contains("No space left"), "{reason}");
}

#[test]
fn keys_reach_the_run_that_is_the_current_one() {
    let last = tempfile::NamedTempFile::new().unwrap();
    let script = r#"echo "ready after <$(cat "$0")>"; read line; echo "$line" > "$0"; test "$line" = enough"#;
    let path = last.path().to_str().unwrap();
    let (mut child, mut master) = typed_at(&["--restart", "on-failure", "--", "sh", "-c", script, path]);
    let id = child.id();
    let terminals = || {
        let fds = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
        fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.ends_with("ptmx"))).count()
    };
    expect(&mut master, "ready after <>");
    let before = terminals();
    assert!(before > 0);
    for key in ["one", "two", "three"] {
        master.write_all(format!("{key}\r").as_bytes()).unwrap();
        expect(&mut master, &format!("ready after <{key}>"));
        assert!(wait_until(|| terminals() == before), "{} terminals, not {before}", terminals());
    }
    master.write_all(b"enough\r").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn keys_that_a_run_never_read_do_not_hold_up_the_next() {
    let dir = tempfile::tempdir().unwrap();
    // The first reads nothing of more than a terminal holds, and ends when our write must have filled it.
    let script = "stty raw -echo; echo ready; test -e again && exec head -c 5; touch again; \
                  until test -e full; do sleep 0.02; done; exit 1";
    let mut command = ginnel(&["run", "--pty", "--restart", "on-failure", "--", "sh", "-c", script]);
    command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let stdin = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    rustix::io::ioctl_fionbio(&stdin, true).unwrap();
    // Full: for a while nobody has taken anything from the pipe.
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(200) {
        if rustix::io::write(&stdin, &[b'x'; 4096]).is_ok() {
            last = Instant::now();
        } else {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    std::fs::write(dir.path().join("full"), "").unwrap();
    child.stdout = Some(out.into_inner());
    let (code, shown) = ended(child);
    assert!(code == Some(0) && shown.ends_with("xxxxx"), "{code:?}, {shown:?}");
}

#[test]
fn every_run_finds_the_end_of_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let script = "cat; echo x >> count; test $(wc -l < count) -ge 3";
    let mut command = ginnel(&["run", "--pty", "--restart", "on-failure", "--", "sh", "-c", script]);
    let child = Running(command.current_dir(dir.path()).stdout(Stdio::null()).spawn().unwrap());
    assert_eq!(ended(child).0, Some(0));
    assert_eq!(std::fs::read_to_string(dir.path().join("count")).unwrap(), "x\nx\nx\n");
}

/// `ginnel run` as pid 1: as the first process of a container is.
fn as_first_process(args: &[&str]) -> ginnel_process::Child {
    let mut command = Shepherded::new("unshare");
    command
        .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", GINNEL, "run"])
        .args(args);
    command.stdin(ginnel_process::Stdio::null()).stdout(ginnel_process::Stdio::piped()).timeout(LONG).spawn().unwrap()
}

#[test]
fn as_the_first_process_of_a_container_it_reaps_and_obeys() {
    if !ginnel_testing::has_namespaces("-Urpf") {
        return;
    }
    let mut child = as_first_process(&["--", "sh", "-c", "cat /proc/1/comm; exec sleep 1000"]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ginnel\n");
    let children = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let first: u32 = children(child.id()).trim().parse().unwrap();
    // What somebody else starts in the container ends up with its first process.
    let enter = |script: &str| {
        let target = first.to_string();
        Command::new("nsenter")
            .args(["--target", &target, "--user", "--pid", "--preserve-credentials", "sh", "-c", script])
            .status()
            .unwrap()
    };
    assert!(enter("sleep 0.2 & exit 0").success());
    assert!(wait_until(|| children(first).split_whitespace().count() == 1), "children: {}", children(first));
    // TERM, which the kernel keeps from a first process that has no handler.
    signal(first, rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn as_the_first_process_it_passes_the_exit_code_on() {
    if !ginnel_testing::has_namespaces("-Urpf") {
        return;
    }
    let mut child = as_first_process(&["--", "sh", "-c", "sleep 1000 & exit 11"]);
    assert_eq!(child.wait().unwrap().code(), Some(11));
}

#[test]
fn ps_shows_the_tree_with_age_memory_and_guarantee() {
    let (mut child, _out, leader) =
        started(&["--isolate", "--", "sh", "-c", "cat /proc/self/status >/dev/null; echo $$; sleep 1000 & wait"]);
    assert_eq!(leader, "2");
    let listed: Value = serde_json::from_slice(&ginnel(&["ps", "--json"]).output().unwrap().stdout).unwrap();
    let ours = |row: &&Value| row["parent"].as_u64() == Some(u64::from(child.id()));
    let row = listed.as_array().unwrap().iter().find(ours).unwrap();
    assert_eq!(row["guarantee"], "pid-namespace");
    assert_eq!(row["command"][0], "sh");
    let tree = row["tree"].as_array().unwrap();
    assert_eq!(tree[0]["parent"], row["shepherd"]);
    assert!(wait_until(|| {
        let listed = ginnel(&["ps"]).output().unwrap();
        let listed = text(&listed.stdout);
        listed.contains("pid-namespace") && listed.contains("└─ sleep 1000")
    }));
    assert!(tree[0]["memory"].as_u64().unwrap() > 0 && tree[0]["age"].as_f64().is_some());
    signal(child.id(), rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

const NOBODY: u32 = 65534;

/// `ginnel` as an ordinary user, who may not be able to look into the directory where it was built.
fn as_nobody(wrapped_in: &[&str], args: &[&str]) -> Shepherded {
    let mut words = wrapped_in.iter().chain(&["/proc/self/fd/7"]).chain(args);
    let mut command = Shepherded::new(words.next().unwrap());
    command.args(words).inherit_as(7, std::fs::File::open(GINNEL).unwrap()).current_dir("/").timeout(LONG);
    command
}

#[test]
fn ps_shows_an_ordinary_user_only_what_is_theirs_and_root_everything() {
    if !ginnel_testing::is_root("to become another user") {
        return;
    }
    let (roots, _out, _) = started(&["--", "sh", "-c", "echo up; exec sleep 1000"]);
    let mut command = as_nobody(&[], &["run", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    let mut theirs = command.uid(NOBODY).gid(NOBODY).stdout(ginnel_process::Stdio::piped()).spawn().unwrap();
    BufReader::new(theirs.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let listed = |text: &[u8]| serde_json::from_slice::<Vec<Value>>(text).unwrap();
    let parents = |rows: &[Value]| rows.iter().map(|row| row["parent"].as_u64().unwrap() as u32).collect::<Vec<u32>>();

    let all = listed(&ginnel(&["ps", "--json"]).output().unwrap().stdout);
    assert!(parents(&all).contains(&roots.id()) && parents(&all).contains(&theirs.id()), "{all:?}");
    let row = all.iter().find(|row| row["parent"] == theirs.id()).unwrap();
    assert_eq!(row["uid"], NOBODY);

    // Also one who may look into every process, where the kernel hides nothing, as far as root itself may.
    let bounding = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = bounding.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    const SYS_PTRACE: u64 = 1 << 19;
    let mut ways = vec![vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]];
    if u64::from_str_radix(bounding, 16).unwrap() & SYS_PTRACE != 0 {
        ways.push([ways[0].as_slice(), &["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"]].concat());
    }
    for way in ways {
        let output = as_nobody(&way, &["ps", "--json"]).run().unwrap();
        assert!(output.report.success(), "{}", text(&output.stderr));
        let own = listed(&output.stdout);
        assert!(parents(&own).contains(&theirs.id()), "{way:?}: {own:?}");
        assert!(own.iter().all(|row| row["uid"] == NOBODY), "{way:?}: {own:?}");
    }
    theirs.stop().unwrap();
}

#[test]
fn the_help_shows_examples() {
    for command in ["run", "ps"] {
        let help = text(&ginnel(&[command, "--help"]).output().unwrap().stdout);
        assert!(help.contains("Examples:") && help.contains(&format!("ginnel {command}")), "{help}");
    }
}
