//! `ginnel run` below `ginnel run`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

const GINNEL: &str = env!("CARGO_BIN_EXE_ginnel");
const LEVELS: usize = 5;

/// A `ginnel` that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Each `ginnel run` is sent the signal by the shepherd above it, and asks its own shepherd for the end: the command
/// gets the signal once all the same, and has nearly all of the grace.
#[test]
fn five_levels_down_a_command_gets_one_signal_once_and_has_its_grace() {
    ginnel_testing::default_signals();
    let one = |name: &str, signal: rustix::process::Signal| {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let file = log.display();
        let on = |name: &str| format!("trap 'echo {name} >> {file}; sleep 3 && echo done >> {file}; exit 7' {name}; ");
        let script = on("TERM") + &on("INT") + "echo ready; while :; do sleep 0.01; done";
        let mut command = Command::new(GINNEL);
        command.args(["run", "--grace", "4s"]);
        for _ in 1..LEVELS {
            command.args([GINNEL, "run", "--grace", "4s"]);
        }
        command.args(["sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let pid = rustix::process::Pid::from_child(&child.0);
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(7));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{name}\ndone\n"));
        let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
        assert!(!said.contains("ginnel run:"), "they have nothing to explain: {said}");
    };
    thread::scope(|scope| {
        scope.spawn(|| one("TERM", rustix::process::Signal::TERM));
        scope.spawn(|| one("INT", rustix::process::Signal::INT));
    });
}
