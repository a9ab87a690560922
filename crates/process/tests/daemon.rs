//! Daemons: restarts, pauses, readiness, health, output, and sets of them.

mod common;

use common::{LONG, Mark, wait_until};
use ginnel_process::{
    Backoff, Cause, Check, Command, Daemon, DaemonError, DaemonSet, KillLadder, Restart, SetError, Sink,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

fn quick() -> Backoff {
    Backoff::new(Duration::from_millis(5), Duration::from_millis(20))
}

fn collected() -> (Arc<Mutex<Vec<String>>>, Sink) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    (lines, Sink::Lines(Box::new(move |line| sink.lock().unwrap().push(line.to_owned()))))
}

#[test]
fn a_daemon_that_fails_is_started_again_and_one_that_succeeds_is_not() {
    let mark = Mark::new();
    let dir = tempfile::tempdir().unwrap();
    let mut command = mark.shell("echo run >> log; test $(wc -l < log) -ge 4");
    command.current_dir(dir.path());
    let daemon = Daemon::new("flaky", command).restart(Restart::OnFailure).backoff(quick()).start().unwrap();
    assert!(wait_until(LONG, || daemon.has_ended()));
    assert_eq!(daemon.restarts(), 3);
    assert_eq!(daemon.last_report().unwrap().cause, Cause::Exited(0));
    mark.assert_gone();
}

#[test]
fn a_killed_daemon_comes_back_with_nothing_of_its_predecessor() {
    let mark = Mark::new();
    let command = mark.shell("sleep 1000 & echo up; wait");
    let daemon = Daemon::new("server", command)
        .restart(Restart::Always)
        .backoff(quick())
        .ready(Check::Line("up".into()))
        .start()
        .unwrap();
    daemon.wait_ready(LONG).unwrap();
    let first = daemon.id().unwrap();
    mark.await_alive(2);
    rustix::process::kill_process(rustix::process::Pid::from_raw(first as i32).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    assert!(wait_until(LONG, || daemon.restarts() == 1 && daemon.is_ready()));
    assert_ne!(daemon.id(), Some(first));
    assert!(wait_until(LONG, || mark.alive().len() == 2), "{:?}", mark.alive());
    assert_eq!(daemon.stop().unwrap().cause, Cause::Stopped);
    mark.assert_gone();
}

#[test]
fn a_command_that_cannot_start_is_told_by_start() {
    let error = Daemon::new("ghost", Command::new("/no/such/daemon")).start().unwrap_err();
    let DaemonError::Start { name, reason } = error else { panic!("{error}") };
    assert!(name == "ghost" && reason.contains("No such file"), "{reason}");
}

#[test]
fn pauses_grow_between_failures() {
    let begun = Instant::now();
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(80));
    let daemon =
        Daemon::new("failing", Command::new("false")).restart(Restart::OnFailure).backoff(backoff).start().unwrap();
    assert!(wait_until(LONG, || daemon.restarts() >= 4));
    // 20, 40, 80 and 80 milliseconds.
    assert!(begun.elapsed() >= Duration::from_millis(220));
}

#[test]
fn readiness_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, socket) = (dir.path().join("ready"), dir.path().join("socket"));
    let mark = Mark::new();
    let daemon = Daemon::new("by-file", mark.shell("while :; do sleep 0.05; done"))
        .ready(Check::File(file.clone()))
        .start()
        .unwrap();
    assert_eq!(
        daemon.wait_ready(Duration::from_millis(100)),
        Err(DaemonError::NotReady { name: "by-file".into(), waited: Duration::from_millis(100) })
    );
    fs::write(&file, "").unwrap();
    daemon.wait_ready(LONG).unwrap();

    let sleep = || {
        let mut command = mark.command("sleep");
        command.arg("1000");
        command
    };
    let daemon = Daemon::new("by-socket", sleep()).ready(Check::Socket(socket.clone())).start().unwrap();
    assert!(!daemon.is_ready());
    let _listener = UnixListener::bind(&socket).unwrap();
    daemon.wait_ready(LONG).unwrap();

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = Daemon::new("by-tcp", sleep()).ready(Check::Tcp(listener.local_addr().unwrap())).start().unwrap();
    daemon.wait_ready(LONG).unwrap();

    let mut exists = Command::new("test");
    exists.arg("-e").arg(dir.path().join("later"));
    let daemon = Daemon::new("by-command", sleep()).ready(Check::Command(Box::new(exists))).start().unwrap();
    assert!(!daemon.is_ready());
    fs::write(dir.path().join("later"), "").unwrap();
    daemon.wait_ready(LONG).unwrap();
}

#[test]
fn one_that_never_gets_ready_is_ended() {
    let mark = Mark::new();
    let daemon = Daemon::new("slow", mark.shell("sleep 1000")).ready(Check::File("/nowhere".into()));
    let daemon = daemon.ready_within(Duration::from_millis(100)).start().unwrap();
    assert!(matches!(daemon.wait_ready(LONG), Err(DaemonError::Start { .. })));
    mark.assert_gone();
}

#[test]
fn one_that_falls_ill_is_replaced() {
    let mark = Mark::new();
    let dir = tempfile::tempdir().unwrap();
    let well = dir.path().join("well");
    fs::write(&well, "").unwrap();
    let daemon = Daemon::new("patient", mark.shell("sleep 1000"))
        .restart(Restart::OnFailure)
        .backoff(quick())
        .health(Check::File(well.clone()), Duration::from_millis(10), 3)
        .start()
        .unwrap();
    daemon.wait_ready(LONG).unwrap();
    let first = daemon.id().unwrap();
    fs::remove_file(&well).unwrap();
    assert!(wait_until(LONG, || daemon.restarts() >= 1));
    fs::write(&well, "").unwrap();
    daemon.wait_ready(LONG).unwrap();
    assert_ne!(daemon.id(), Some(first));
}

#[test]
fn one_that_listens_but_never_accepts_is_ill_and_can_be_stopped() {
    let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let waiting = fill_backlog(&path);
    let daemon = Daemon::new("hung", mark.shell("exec sleep 1000"))
        .restart(Restart::OnFailure)
        .backoff(quick())
        .health(Check::Socket(path), Duration::from_millis(1), 2)
        .start()
        .unwrap();
    let restarted = wait_until(LONG, || daemon.restarts() >= 1);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || drop(tell.send(daemon.stop())));
    let stopped = told.recv_timeout(LONG);
    // Lets go whoever waits for it after all.
    drop((listener, waiting));
    assert!(restarted, "it was never found ill");
    assert!(stopped.is_ok(), "it was not stopped");
    mark.assert_gone_soon();
}

/// Connects until nobody else can.
fn fill_backlog(path: &Path) -> Vec<OwnedFd> {
    let address = SocketAddrUnix::new(path).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut waiting = Vec::new();
    loop {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                return waiting;
            }
        }
    }
}

#[test]
fn a_question_that_is_not_answered_in_time_is_killed_without_a_ladder() {
    let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
    let mut question = mark.shell("trap 'echo told > ladder' TERM; echo asked > log; while :; do sleep 0.05; done");
    question.current_dir(dir.path());
    let daemon = Daemon::new("mute", mark.shell("exec sleep 1000"))
        .restart(Restart::OnFailure)
        .backoff(quick())
        .health(Check::Command(Box::new(question)), Duration::from_millis(1), 1)
        .start()
        .unwrap();
    assert!(wait_until(LONG, || daemon.restarts() >= 1));
    drop(daemon);
    assert!(dir.path().join("log").exists());
    assert!(!dir.path().join("ladder").exists(), "it was given the time of a ladder");
    mark.assert_gone();
}

#[test]
fn output_reaches_the_sink_line_by_line_also_the_last_one() {
    let (lines, sink) = collected();
    let daemon = Daemon::new("talker", Command::new("sh").args(["-c", "echo one; echo two >&2; printf three"]).clone())
        .output(sink)
        .start()
        .unwrap();
    assert!(wait_until(LONG, || daemon.has_ended()));
    assert_eq!(*lines.lock().unwrap(), ["one", "two", "three"]);

    let mut file = tempfile::NamedTempFile::new().unwrap();
    let sink = Sink::File(file.reopen().unwrap());
    let daemon = Daemon::new("writer", Command::new("sh").args(["-c", "echo one; echo two >&2"]).clone())
        .output(sink)
        .start()
        .unwrap();
    assert!(wait_until(LONG, || daemon.has_ended()));
    let mut text = String::new();
    std::io::Read::read_to_string(file.as_file_mut(), &mut text).unwrap();
    assert_eq!(text, "one\ntwo\n");
}

#[test]
fn what_it_says_while_it_stops_is_heard() {
    let (lines, sink) = collected();
    let script = "trap 'echo goodbye; exit 0' TERM; echo hello; while :; do sleep 0.02; done";
    let daemon = Daemon::new("polite", Command::new("sh").args(["-c", script]).clone())
        .ready(Check::Line("hello".into()))
        .output(sink)
        .start()
        .unwrap();
    daemon.wait_ready(LONG).unwrap();
    let report = daemon.stop().unwrap();
    assert_eq!((report.cause, report.code()), (Cause::Stopped, Some(0)));
    // The shell may have its say about the sleep that was ended.
    assert_eq!(lines.lock().unwrap().last().unwrap(), "goodbye");
}

#[test]
fn a_sink_that_panics_takes_its_daemon_down_and_nobody_waits_for_ever() {
    let mark = Mark::new();
    let sink = Sink::Lines(Box::new(|line| panic!("cannot take {line:?}")));
    let mut command = mark.shell("echo boom; sleep 1000");
    command.kill_ladder(KillLadder::at_once());
    let daemon = Daemon::new("broken", command).ready(Check::File("/nowhere".into())).output(sink).start().unwrap();
    assert!(daemon.wait_ready(LONG).is_err());
    drop(daemon);
    mark.assert_gone_soon();
}

/// A daemon that takes a moment, and logs when it is up and when it is told to end.
fn logging(name: &str, dir: &std::path::Path, mark: &Mark) -> Daemon {
    let script = format!(
        "trap 'echo -{name} >> log; exit 0' TERM; sleep 0.05; echo +{name} >> log; echo up; while :; do sleep 0.02; done"
    );
    let mut command = mark.shell(&script);
    command.current_dir(dir);
    Daemon::new(name, command).ready(Check::Line("up".into()))
}

#[test]
fn a_set_starts_in_the_order_of_its_needs_and_stops_in_reverse() {
    let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
    let daemon = |name| logging(name, dir.path(), &mark);
    let set = DaemonSet::new()
        .add(daemon("web"), &["app"])
        .add(daemon("app"), &["database"])
        .add(daemon("database"), &[])
        .start(LONG)
        .unwrap();
    assert!(set.daemons().all(ginnel_process::RunningDaemon::is_ready));
    assert!(set.get("app").is_some() && set.get("nobody").is_none());
    set.stop();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["+database", "+app", "+web", "-web", "-app", "-database"]);
    mark.assert_gone();
}

#[test]
fn a_set_of_which_one_fails_is_stopped_as_a_whole() {
    let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
    let error = DaemonSet::new()
        .add(logging("database", dir.path(), &mark), &[])
        .add(Daemon::new("broken", mark.shell("exit 1")).ready(Check::Line("never".into())), &["database"])
        .add(logging("web", dir.path(), &mark), &["broken"])
        .start(LONG)
        .unwrap_err();
    assert_eq!(error, SetError::Daemon(DaemonError::Ended { name: "broken".into(), reason: "Exited(1)".into() }));
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(log.split_whitespace().collect::<Vec<_>>(), ["+database", "-database"]);
    mark.assert_gone();
}

#[test]
fn a_set_that_contradicts_itself_is_not_started() {
    let daemon = |name: &str| Daemon::new(name, Command::new("/never/started"));
    let start = |set: DaemonSet| set.start(LONG).unwrap_err();
    assert_eq!(start(DaemonSet::new().add(daemon("a"), &[]).add(daemon("a"), &[])), SetError::Duplicate("a".into()));
    assert_eq!(
        start(DaemonSet::new().add(daemon("a"), &["b"])),
        SetError::Unknown { name: "a".into(), needs: "b".into() }
    );
    let circle = DaemonSet::new().add(daemon("a"), &["b"]).add(daemon("b"), &["a"]).add(daemon("c"), &[]);
    assert_eq!(start(circle), SetError::Circle(vec!["a".into(), "b".into()]));
}

/// No time that a user can give is too long for the clock.
#[test]
fn the_longest_times_are_no_limits() {
    let mut command = Command::new("sleep");
    command.arg("1000").timeout(Duration::MAX).kill_ladder(KillLadder::grace(Duration::MAX));
    let daemon = Daemon::new("patient", command)
        .ready(Check::File("/".into()))
        .ready_within(Duration::MAX)
        .health(Check::File("/".into()), Duration::MAX, 1)
        .backoff(Backoff::new(Duration::MAX, Duration::MAX));
    let running = DaemonSet::new().add(daemon, &[]).start(Duration::MAX).unwrap();
    running.stop();
    // A pause of that length ends with a stop.
    let daemon = Daemon::new("short", Command::new("false")).restart(Restart::Always);
    let daemon = daemon.backoff(Backoff::new(Duration::MAX, Duration::MAX)).start().unwrap();
    assert!(wait_until(LONG, || daemon.last_report().is_some()));
    assert_eq!(daemon.stop().unwrap().code(), Some(1));
    assert_eq!(ginnel_base::thread::panicked(), 0);
}
