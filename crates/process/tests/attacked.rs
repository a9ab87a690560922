//! Pipelines, blocking and async, whose every part is killed or stopped, whose parent is killed, and whose parent has
//! no standard streams: an end that tells what happened, in time, and nothing left.

mod common;

use common::{LONG, Mark, inherited_mark, is_shepherd, role, wait_until};
use ginnel_process::{ExitReport, Pipeline, RunError, Signal, Stdio, WaitError};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;

roles!(runs_pipelines, has_no_streams);

type Ended = Result<Vec<ExitReport>, WaitError>;

/// Three commands, each with a process in the background that would keep the pipes open.
fn pipeline(mark: &Mark) -> Pipeline {
    mark.shell("sleep 1000 & exec yes")
        | mark.shell("setsid sleep 1001 & exec cat")
        | mark.shell("(sleep 1002 &); exec cat").stdout(Stdio::null())
}

fn send(pid: u32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal);
}

/// How each way to wait for a pipeline ends when `attack` has met its shepherds and leaders.
fn each_way(attack: impl Fn([u32; 3], [u32; 3])) -> Vec<Ended> {
    let mut ended = Vec::new();
    let mark = Mark::new();
    let mut running = pipeline(&mark).spawn().unwrap();
    mark.await_alive(6);
    let pids = |running: &mut ginnel_process::RunningPipeline| {
        let [first, second, third] = running.children() else { panic!("three were started") };
        let of = |pid: fn(&ginnel_process::Child) -> u32| [pid(first), pid(second), pid(third)];
        (of(|child| child.shepherd_id()), of(|child| child.id()))
    };
    let (shepherds, leaders) = pids(&mut running);
    attack(shepherds, leaders);
    ended.push(running.wait());
    mark.assert_gone();
    #[cfg(feature = "tokio")]
    runtime().block_on(async {
        let mark = Mark::new();
        let mut running = pipeline(&mark).spawn_async().await.unwrap();
        mark.await_alive(6);
        let (shepherds, leaders) = pids(&mut running);
        attack(shepherds, leaders);
        ended.push(tokio::time::timeout(LONG, running.wait_async()).await.expect("it does not end"));
        mark.assert_gone();
    });
    ended
}

#[cfg(feature = "tokio")]
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_killed_shepherd_of_any_member_is_told_and_the_others_end() {
    for victim in 0..3 {
        for ended in each_way(|shepherds, _| send(shepherds[victim], rustix::process::Signal::KILL)) {
            let Err(WaitError::ShepherdLost { aftermath }) = ended else { panic!("{victim}: {ended:?}") };
            assert_eq!(aftermath.survivors, 0);
        }
    }
    let all = |shepherds: [u32; 3], _| shepherds.into_iter().for_each(|pid| send(pid, rustix::process::Signal::KILL));
    assert!(each_way(all).iter().all(Result::is_err));
}

#[test]
fn a_killed_leader_of_any_member_is_told_and_the_others_end() {
    for victim in 0..3 {
        for ended in each_way(|_, leaders| send(leaders[victim], rustix::process::Signal::KILL)) {
            let reports = ended.unwrap();
            assert_eq!(reports[victim].signal(), Some(Signal::KILL), "{victim}: {reports:?}");
            assert!(reports.iter().all(|report| report.survivors == 0));
        }
    }
}

#[test]
fn a_stopped_member_ends_when_it_goes_on_or_when_its_shepherd_is_killed() {
    use rustix::process::Signal as Sent;
    for victim in 0..3 {
        let ended = each_way(|shepherds, leaders| {
            send(leaders[victim], Sent::STOP);
            send(shepherds[victim], Sent::STOP);
            // The end of a neighbour is not seen by one that is stopped.
            send(leaders[(victim + 1) % 3], Sent::KILL);
            send(shepherds[victim], Sent::KILL);
        });
        assert!(ended.iter().all(Result::is_err), "{victim}: {ended:?}");
        let ended = each_way(|shepherds, leaders| {
            send(shepherds[victim], Sent::STOP);
            send(leaders[victim], Sent::KILL);
            send(shepherds[victim], Sent::CONT);
        });
        for reports in ended {
            assert_eq!(reports.unwrap()[victim].signal(), Some(Signal::KILL), "{victim}");
        }
    }
}

/// The shepherds of marked commands.
fn shepherds_of(mark: &Mark) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let mut found: Vec<u32> = mark.alive().into_iter().filter_map(parent).filter(|pid| is_shepherd(*pid)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

type Way = fn(&Pipeline) -> Result<(), RunError>;

#[test]
fn a_run_whose_every_shepherd_is_killed_is_an_error_and_leaves_nothing() {
    let ways: &[Way] = &[
        |pipeline| pipeline.run().map(drop),
        #[cfg(feature = "tokio")]
        |pipeline| runtime().block_on(pipeline.run_async()).map(drop),
    ];
    for way in ways {
        let mark = Mark::new();
        let pipeline = pipeline(&mark);
        let ended = std::thread::scope(|scope| {
            let run = scope.spawn(|| way(&pipeline));
            mark.await_alive(6);
            assert!(wait_until(LONG, || shepherds_of(&mark).len() == 3));
            shepherds_of(&mark).into_iter().for_each(|pid| send(pid, rustix::process::Signal::KILL));
            run.join().unwrap()
        });
        assert!(matches!(ended, Err(RunError::Wait(WaitError::ShepherdLost { .. }))), "{ended:?}");
        mark.assert_gone();
    }
}

fn runs_pipelines() {
    let mark = inherited_mark();
    let _running = pipeline(&mark).spawn().unwrap();
    println!("started");
    #[cfg(feature = "tokio")]
    let _ = runtime().block_on(pipeline(&mark).run_async());
    #[cfg(not(feature = "tokio"))]
    let _ = pipeline(&mark).run();
}

#[test]
fn a_parent_that_is_killed_takes_its_pipelines_with_it() {
    let mark = Mark::new();
    let mut parent = role("runs_pipelines", &mark).stdout(std::process::Stdio::piped()).spawn().unwrap();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    mark.await_alive(12);
    parent.kill().unwrap();
    parent.wait().unwrap();
    mark.assert_gone_soon();
}

/// Whatever is opened gets the numbers of the standard streams.
fn has_no_streams() {
    let mark = inherited_mark();
    let mut said = std::fs::File::create(std::env::var("SAID").unwrap()).unwrap();
    assert!(said.as_fd().try_clone_to_owned().is_ok());
    let output = mark.shell("cat; echo seen; echo wrong >&2").run().unwrap();
    writeln!(said, "run {:?} {:?}", output.stdout, output.stderr).unwrap();
    let output = (mark.command("echo").arg("seen") | mark.command("cat") | mark.command("cat")).run().unwrap();
    writeln!(said, "pipeline {:?}", output.stdout).unwrap();
    let mut child = mark.command("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"fed\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    writeln!(said, "piped {line:?} {}", child.wait().unwrap().success()).unwrap();
    // What is inherited is not there, and nothing of ours is in its place.
    let mut command = mark.shell("echo lost; echo lost >&2; ls /proc/self/fd 2>&3 | wc -l >&3; exit 3");
    let (mut ours, theirs) = std::io::pipe().unwrap();
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit()).inherit_as(3, theirs);
    // The code, or nothing if it was refused.
    let outcome = command.spawn().ok().and_then(|mut child| child.wait().unwrap().code());
    drop(command);
    let mut told = String::new();
    std::io::Read::read_to_string(&mut ours, &mut told).unwrap();
    writeln!(said, "inherited {outcome:?}").unwrap();
    #[cfg(feature = "tokio")]
    {
        let output = runtime().block_on((mark.command("echo").arg("seen") | mark.command("cat")).run_async()).unwrap();
        writeln!(said, "async {:?}", output.stdout).unwrap();
    }
}

#[test]
fn a_parent_without_standard_streams_has_every_byte_all_the_same() {
    for closed in ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"] {
        let (mark, dir) = (Mark::new(), tempfile::tempdir().unwrap());
        let said = dir.path().join("said");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("exec \"$0\" {closed}")]).arg(common::own_program());
        command.env(common::sys::ROLE, "has_no_streams").env(common::MARK, mark.value()).env("SAID", &said);
        let mut parent = command.spawn().unwrap();
        mark.parent(parent.id());
        let status = parent.wait().unwrap();
        let said = std::fs::read_to_string(&said).unwrap();
        assert!(status.success(), "{closed}: {status}: {said}");
        let (seen, wrong) = (b"seen\n".to_vec(), b"wrong\n".to_vec());
        let expected = format!("run {seen:?} {wrong:?}\npipeline {seen:?}\npiped \"fed\\n\" true\n");
        assert!(said.starts_with(&expected), "{closed}: {said}");
        assert!(said.contains("inherited Some(3)") || said.contains("inherited None"), "{closed}: {said}");
        assert!(!cfg!(feature = "tokio") || said.ends_with(&format!("async {seen:?}\n")), "{closed}: {said}");
        mark.assert_gone();
    }
}
