//! Waiting for any of many, from anywhere.

mod common;

use common::{LONG, Mark};
use ginnel_process::{Child, Isolation, Orphans, WaitError, wait_any};
use rustix::event::{PollFd, PollFlags};
use std::collections::HashSet;
use std::time::Duration;

#[test]
fn whichever_ends_first_is_given_first() {
    let mark = Mark::new();
    let start =
        |code: usize| mark.shell(&format!("read line; exit {code}")).stdin(ginnel_process::Stdio::piped()).spawn();
    let mut children: Vec<Child> = (0..20).map(|code| start(code).unwrap()).collect();
    assert!(wait_any(&mut children, Some(Duration::from_millis(20))).is_none());
    let mut seen = HashSet::new();
    // In an order that is not that of the start.
    let order: Vec<usize> = (0..20).map(|step| step * 7 % 20).collect();
    for wanted in order {
        children[wanted].close_stdin();
        let (places, left): (Vec<usize>, Vec<&mut Child>) =
            children.iter_mut().enumerate().filter(|(place, _)| !seen.contains(place)).unzip();
        let (place, report) = wait_any(left, Some(LONG)).unwrap();
        assert_eq!((places[place], report.unwrap().code()), (wanted, Some(wanted as i32)));
        seen.insert(wanted);
    }
    assert!(wait_any([], None).is_none());
    mark.assert_gone();
}

#[test]
fn a_lost_shepherd_is_one_of_the_ends() {
    let mark = Mark::new();
    let mut quiet = mark.command("sleep").arg("1000").spawn().unwrap();
    let mut lost = mark.command("sleep").arg("1001").spawn().unwrap();
    let shepherd = rustix::process::Pid::from_raw(lost.shepherd_id() as i32).unwrap();
    rustix::process::kill_process(shepherd, rustix::process::Signal::KILL).unwrap();
    let (place, report) = wait_any([&mut quiet, &mut lost], Some(LONG)).unwrap();
    assert!(place == 1 && matches!(report, Err(WaitError::ShepherdLost { .. })));
    quiet.kill().unwrap();
    mark.assert_gone();
}

#[test]
fn the_descriptor_is_readable_at_the_end_of_the_whole_tree() {
    let mark = Mark::new();
    for isolation in [Isolation::Auto, Isolation::PidNamespace] {
        let mut command = mark.shell("(read line <&3) & exit 0");
        let (theirs, ours) = std::io::pipe().unwrap();
        let mut child = command.inherit_as(3, theirs).orphans(Orphans::Wait).isolation(isolation).spawn().unwrap();
        drop(command);
        let ready = |child: &Child, patience: Duration| {
            let patience = rustix::time::Timespec::try_from(patience).unwrap();
            rustix::event::poll(&mut [PollFd::new(child, PollFlags::IN)], Some(&patience)).unwrap() > 0
        };
        // The leader ends, and somebody else goes on.
        assert!(common::wait_until(LONG, || !common::runs(child.id())));
        assert!(!ready(&child, Duration::ZERO));
        drop(ours);
        assert!(ready(&child, LONG));
        assert!(child.try_wait().unwrap().unwrap().success());
    }
    mark.assert_gone();
}

#[test]
fn handles_wait_in_other_threads_and_all_get_the_report() {
    let mark = Mark::new();
    let mut child = mark.shell("read line; exit 6").stdin(ginnel_process::Stdio::piped()).spawn().unwrap();
    let handle = child.handle();
    assert!(handle.try_wait().unwrap().is_none());
    assert!(handle.wait_timeout(Duration::from_millis(10)).unwrap().is_none());
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let handle = child.handle();
            std::thread::spawn(move || handle.wait().unwrap().code())
        })
        .collect();
    child.close_stdin();
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), Some(6));
    }
    assert_eq!(handle.wait_timeout(Duration::MAX).unwrap().unwrap().code(), Some(6));
    drop(child);
    assert_eq!(handle.try_wait().unwrap().unwrap().code(), Some(6));
    mark.assert_gone();
}
