//! A process that the kernel does not let die: frozen by a control group of version 1, it does not even see a SIGKILL.

mod common;

use common::{LONG, Mark, wait_until};
use ginnel_process::{Isolation, KillLadder, Stdio};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Instant;

/// Thaws and removes it when the test ends, however it ends.
struct Freezer(PathBuf);

impl Freezer {
    fn new() -> Option<Freezer> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| {
            line.split_once(" - cgroup ")
                .is_some_and(|(_, rest)| rest.split([' ', ',']).any(|option| option == "freezer"))
        })?;
        let group = PathBuf::from(line.split(' ').nth(4)?).join(format!("frozen-{}", std::process::id()));
        fs::create_dir(&group).ok().map(|()| Freezer(group))
    }

    fn freeze(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        self.set("FROZEN");
    }

    fn set(&self, state: &str) {
        fs::write(self.0.join("freezer.state"), state).unwrap();
        let file = self.0.join("freezer.state");
        assert!(wait_until(LONG, || fs::read_to_string(&file).unwrap().trim() == state));
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        wait_until(LONG, || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn who_cannot_be_killed_is_reported_as_a_survivor() {
    for isolation in [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace] {
        let mark = Mark::new();
        let Some(freezer) = Freezer::new() else { return };
        let mut command = mark.shell("sleep 1000 & echo; wait");
        command.isolation(isolation).kill_ladder(KillLadder::at_once()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        mark.await_alive(2);
        let sleep = mark.alive().into_iter().find(|pid| *pid != child.id()).unwrap();
        freezer.freeze(sleep);
        let begun = Instant::now();
        let report = child.kill().unwrap();
        eprintln!("{isolation:?} {:?} {report:?}", begun.elapsed());
        assert_eq!(report.survivors, 1, "{report:?}");
        assert!(begun.elapsed() < LONG);
        freezer.set("THAWED");
        mark.assert_gone_soon();
    }
}
