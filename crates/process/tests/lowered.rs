//! A control group that was to be had and then cannot be used is not claimed, by nobody.

mod common;

use common::{LONG, Mark, has_unified_groups, inherited_mark, role, wait_until};
use ginnel_process::{Isolation, Protection};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;

roles!(inside_a_full_group);

/// Runs in a group that may have no groups below it.
fn inside_a_full_group() {
    let mark = inherited_mark();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let mut child = mark.command("sleep").arg("1000").isolation(Isolation::Auto).spawn().unwrap();
    assert_eq!(child.guarantee().protection, Protection::Subreaper);
    assert!(child.guarantee().to_string().contains("the group could not be used"), "{}", child.guarantee());
    let shown = ginnel_process::shepherds().unwrap();
    let shown = shown.iter().find(|shepherd| shepherd.pid == child.shepherd_id()).unwrap();
    assert_eq!(shown.protection, Protection::Subreaper);
    assert_eq!(shown.command, ["sleep", "1000"]);
    child.kill().unwrap();
}

/// Removed when the test ends, however it ends.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        wait_until(LONG, || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

#[test]
fn a_group_that_cannot_be_used_is_not_claimed() {
    if !ginnel_testing::is_root("to make a control group")
        || !ginnel_testing::has(has_unified_groups(), "needs control groups of version 2")
    {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let group = PathBuf::from(point.unwrap()).join(own).join(format!("full-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let group = Group(group);
    fs::write(group.0.join("cgroup.max.descendants"), "0").unwrap();
    let mark = Mark::new();
    let mut role = role("inside_a_full_group", &mark).stdin(std::process::Stdio::piped()).spawn().unwrap();
    fs::write(group.0.join("cgroup.procs"), role.id().to_string()).unwrap();
    role.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(role.wait().unwrap().success());
    mark.assert_gone_soon();
}
