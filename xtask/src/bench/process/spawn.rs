//! Spawn and wait of `true`, and what the kernel alone takes for the parts of it.

use super::samples::{Contender, Measured, Plan};
use super::sys::{self, Birth, Body, Pinned};
use ginnel_process::{Command, Isolation};
use serde::Serialize;
use std::fs::{self, File};
use std::hint;
use std::path::PathBuf;

const PROGRAM: &str = "/bin/true";
/// Where everything runs that is to share a core.
const CORE: usize = 0;

/// Names that the goals look for.
pub(crate) const STD: &str = "std::process";
pub(crate) const SUBREAPER: &str = "Ginnel, subreaper";
pub(crate) const AUTO: &str = "Ginnel, auto";
pub(crate) const PID_NAMESPACE: &str = "Ginnel, pid namespace";

/// The parent, and the cores.
#[derive(Serialize)]
pub(crate) struct Situation {
    pub(crate) large_parent: bool,
    pub(crate) one_core: bool,
    pub(crate) contenders: Vec<Measured>,
}

/// Small and large parents, on one core and on all.
pub(crate) fn situations(plan: &mut Plan) -> Result<Vec<Situation>, String> {
    let mut situations = Vec::new();
    for large_parent in [false, true] {
        let memory = large_parent.then(four_gib);
        for one_core in [true, false] {
            eprintln!(
                "spawn and wait, {} parent, {}",
                if large_parent { "4 GiB" } else { "small" },
                if one_core { "one core" } else { "all cores" }
            );
            let pinned = one_core.then(pin).transpose()?;
            let contenders = plan.measure(contenders()?)?;
            drop(pinned);
            situations.push(Situation { large_parent, one_core, contenders });
        }
        drop(hint::black_box(memory));
    }
    Ok(situations)
}

fn pin() -> Result<Pinned, String> {
    Pinned::to(CORE).map_err(|error| format!("cannot pin to core {CORE}: {error}"))
}

fn four_gib() -> Vec<u8> {
    let mut memory = vec![0u8; 4 << 30];
    for page in memory.iter_mut().step_by(4096) {
        *page = 1;
    }
    hint::black_box(memory)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn std() -> Result<(), String> {
    std::process::Command::new(PROGRAM).status().map(drop).map_err(text)
}

fn ours(isolation: Isolation) -> Result<(), String> {
    let mut child = Command::new(PROGRAM).isolation(isolation).spawn().map_err(text)?;
    child.wait().map(drop).map_err(text)
}

fn contenders<'a>() -> Result<Vec<Contender<'a>>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let program = File::open(PROGRAM).map_err(|error| format!("{PROGRAM}: {error}"))?;
    let tokio = move || {
        runtime.block_on(async { tokio::process::Command::new(PROGRAM).status().await }).map(drop).map_err(text)
    };
    Ok(vec![
        Contender::new(STD, std),
        Contender::new("tokio::process", tokio),
        Contender::new("posix_spawn", || sys::posix_spawn(c"/bin/true").map_err(text)),
        Contender::new("vfork and exec", move || sys::bare(Birth::Here, Body::Execute(&program)).map_err(text)),
        Contender::new("std::process twice", || std().and_then(|()| std())),
        Contender::new(SUBREAPER, || ours(Isolation::Subreaper)),
        Contender::new(AUTO, || ours(Isolation::Auto)),
        Contender::new(PID_NAMESPACE, || ours(Isolation::PidNamespace)),
    ])
}

/// The strongest protection that a command gets by default here.
pub(crate) fn automatic() -> Result<String, String> {
    let mut child = Command::new(PROGRAM).spawn().map_err(text)?;
    let protection = child.guarantee().protection.to_string();
    child.wait().map(|_| protection).map_err(text)
}

/// Names that the reasons look for.
pub(crate) const NOTHING: &str = "a process that ends at once";
pub(crate) const SHEPHERD: &str = "the shepherd's program, executed with nothing to do";
pub(crate) const DIRECTORY: &str = "a control group, made and removed";
pub(crate) const IN_GROUP: &str = "a process that ends at once, in a control group of its own";
pub(crate) const IN_NAMESPACE: &str = "a process that ends at once, in a pid namespace of its own";
pub(crate) const IN_PROC: &str = "the same, with mounts and a /proc of its own";

/// What the kernel takes by itself, all on one core.
pub(crate) fn kernel(plan: &mut Plan) -> Result<Vec<Measured>, String> {
    eprintln!("what the kernel takes");
    let _pinned = pin()?;
    let mut sleeper = Command::new("sleep").arg("1000").spawn().map_err(text)?;
    // The image cannot be had elsewhere; without arguments it ends at once.
    let image = File::open(format!("/proc/{}/exe", sleeper.shepherd_id())).map_err(text)?;
    sleeper.kill().map_err(text)?;
    let group = group();
    plan.measure(vec![
        Contender::new(NOTHING, || sys::bare(Birth::Here, Body::Nothing).map_err(text)),
        Contender::new(SHEPHERD, || sys::bare(Birth::Here, Body::Execute(&image)).map_err(text)),
        Contender::new(DIRECTORY, || fs::create_dir(&group).and_then(|()| fs::remove_dir(&group)).map_err(text)),
        Contender::new(IN_GROUP, || {
            fs::create_dir(&group).map_err(text)?;
            let born = File::open(&group).and_then(|group| sys::bare(Birth::Group(&group), Body::Nothing));
            fs::remove_dir(&group).and(born).map_err(text)
        }),
        Contender::new(IN_NAMESPACE, || sys::bare(Birth::PidNamespace, Body::Nothing).map_err(text)),
        Contender::new(IN_PROC, || sys::bare(Birth::PidAndMounts, Body::Proc).map_err(text)),
    ])
}

/// A name for a group below the version 2 group that we are in; where there is none, nothing can be made there.
fn group() -> PathBuf {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (mounts, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let below = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let base = mount.map_or(PathBuf::from("/proc"), PathBuf::from).join(below.unwrap_or_default());
    base.join(format!("ginnel-bench-{}", std::process::id()))
}
