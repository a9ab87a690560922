//! What the table in docs/process.md says of the others, where that is cheap to show: with `std::process` the tree goes
//! on.

mod common;

use common::{Mark, inherited_mark, role};
use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

roles!(parent, parent_with_a_group);

/// A leader, and below it one that answers every line, to the end of its input, in a session of its own.
const TREE: &str = "exec 3<&0; setsid sh -c 'while read line; do echo $line; done' <&3 & wait";

fn shell(mark: &Mark, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env(common::MARK, mark.value());
    command
}

/// Who answers goes on, and can do what it likes.
struct Talk(ChildStdin, Lines<BufReader<ChildStdout>>);

impl Talk {
    fn start(command: &mut Command) -> (Child, Talk) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let talk = Talk::over(child.stdin.take().unwrap(), child.stdout.take().unwrap());
        (child, talk)
    }

    fn over(stdin: ChildStdin, stdout: ChildStdout) -> Talk {
        let mut talk = Talk(stdin, BufReader::new(stdout).lines());
        talk.goes_on();
        talk
    }

    #[track_caller]
    fn goes_on(&mut self) {
        self.0.write_all(b"there\n").expect("it is gone");
        assert_eq!(self.1.next().expect("it is gone").unwrap(), "there");
    }
}

fn parent() {
    shell(&inherited_mark(), TREE).spawn().unwrap().wait().unwrap();
}

fn parent_with_a_group() {
    shell(&inherited_mark(), TREE).process_group(0).spawn().unwrap().wait().unwrap();
}

#[test]
fn with_std_the_tree_of_a_killed_parent_goes_on() {
    for name in ["parent", "parent_with_a_group"] {
        let mark = Mark::new();
        let (mut parent, mut talk) = Talk::start(&mut role(name, &mark));
        parent.kill().unwrap();
        parent.wait().unwrap();
        talk.goes_on();
        drop(talk);
        mark.assert_gone_soon();
    }
}

#[test]
fn with_std_the_tree_of_a_dropped_handle_goes_on() {
    let mark = Mark::new();
    let (child, mut talk) = Talk::start(&mut shell(&mark, TREE));
    drop(child);
    talk.goes_on();
    drop(talk);
    mark.assert_gone_soon();
}

#[test]
fn with_std_the_tree_of_a_killed_leader_goes_on() {
    let mark = Mark::new();
    let (mut child, mut talk) = Talk::start(&mut shell(&mark, TREE));
    child.kill().unwrap();
    child.wait().unwrap();
    talk.goes_on();
    drop(talk);
    mark.assert_gone_soon();
}

#[test]
fn with_std_a_background_child_goes_on_after_a_normal_exit() {
    let mark = Mark::new();
    let script = "exec 3<&0; sh -c 'while read line; do echo $line; done' <&3 & exit 0";
    let (mut child, mut talk) = Talk::start(&mut shell(&mark, script));
    assert!(child.wait().unwrap().success());
    talk.goes_on();
    drop(talk);
    mark.assert_gone_soon();
}

#[test]
fn with_a_process_group_who_has_a_session_of_its_own_goes_on() {
    let mark = Mark::new();
    let (mut child, mut talk) = Talk::start(shell(&mark, TREE).process_group(0));
    let group = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    child.wait().unwrap();
    talk.goes_on();
    drop(talk);
    mark.assert_gone_soon();
}

#[test]
fn with_std_a_descriptor_without_close_on_exec_leaks() {
    let leaky = File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let link = format!("/proc/self/fd/{}", leaky.as_raw_fd());
    let output = Command::new("readlink").arg(link).output().unwrap();
    assert_eq!(output.stdout, b"/dev/null\n");
}

#[test]
fn with_tokio_kill_on_drop_ends_the_leader_alone() {
    let mark = Mark::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut talk = runtime.block_on(async {
        let mut command = tokio::process::Command::from(shell(&mark, TREE));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let stdin = child.stdin.take().unwrap().into_owned_fd().unwrap();
        let talk = Talk::over(stdin.into(), child.stdout.take().unwrap().into_owned_fd().unwrap().into());
        let leader = child.id().unwrap();
        assert!(common::runs(leader));
        drop(child);
        assert!(common::wait_until(common::LONG, || !common::runs(leader)));
        talk
    });
    talk.goes_on();
    drop(talk);
    mark.assert_gone_soon();
}

#[test]
fn with_std_a_command_whose_piped_stderr_nobody_reads_stands_still() {
    let mark = Mark::new();
    let mut child = shell(&mark, "exec dd if=/dev/zero bs=4096 >&2").stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    // The pipe is full: the next write waits for a reader, and `wait` for that.
    let full = rustix::pipe::fcntl_getpipe_size(&stderr).unwrap() as u64;
    assert!(common::wait_until(common::LONG, || rustix::io::ioctl_fionread(&stderr).unwrap() == full));
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
