//! Spawn and wait of `true`, and what the kernel alone takes for the parts of it.

use super::samples::{Contender, Measured, Plan, Turns};
use super::sys::{self, Birth, Body, Pinned};
use ginnel_process::{Command, Isolation};
use serde::Serialize;
use std::fs::{self, File};
use std::hint;
use std::path::PathBuf;

const PROGRAM: &str = "/bin/true";
/// Where everything runs that is to share a core.
const CORE: usize = 0;
/// In one turn; some 30 ms.
pub(crate) const GOES: usize = 100;

/// Names that the goals look for.
pub(crate) const STD: &str = "std::process";
pub(crate) const SUBREAPER: &str = "Ginnel, subreaper";
pub(crate) const AUTO: &str = "Ginnel, auto";
pub(crate) const PID_NAMESPACE: &str = "Ginnel, pid namespace";

/// The parent, and the cores.
#[derive(Serialize)]
pub(crate) struct Situation {
    pub(crate) large_parent: bool,
    pub(crate) cores: Cores,
    pub(crate) contenders: Vec<Measured>,
}

/// Where parent and children run.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cores {
    One,
    All,
    /// One, and a process of another session is busy there as well.
    Busy,
}

impl Cores {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cores::One => "one core",
            Cores::All => "all cores",
            Cores::Busy => "one busy core",
        }
    }
}

pub(crate) fn situations(plan: &mut Plan) -> Result<Vec<Situation>, String> {
    let mut situations = Vec::new();
    for large_parent in [false, true] {
        let memory = large_parent.then(four_gib);
        for cores in [Cores::One, Cores::All, Cores::Busy] {
            // What the scheduler does to us has nothing to do with the parent's size.
            if cores == Cores::Busy && large_parent {
                continue;
            }
            eprintln!("spawn and wait, {} parent, {}", if large_parent { "4 GiB" } else { "small" }, cores.name());
            let pinned = (cores != Cores::All).then(pin).transpose()?;
            let rounds = if cores == Cores::Busy { plan.rounds / 10 } else { plan.rounds };
            let turns = Turns { rounds, goes: GOES.min(rounds), neighbour: cores == Cores::Busy };
            let contenders = plan.measure(contenders()?, turns)?;
            drop(pinned);
            situations.push(Situation { large_parent, cores, contenders });
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
        Contender::new("vfork and exec", move || bare(Birth::Here, Some(&program))),
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

fn bare(birth: Birth<'_>, execute: Option<&File>) -> Result<(), String> {
    sys::bare(birth, Body { proc: matches!(birth, Birth::PidAndMounts), execute }).map_err(text)
}

/// Names that the reasons look for.
pub(crate) const SHEPHERD: &str = "the shepherd's program, with nothing to do";
pub(crate) const DIRECTORY: &str = "a control group made and removed, without a process";
pub(crate) const NOTHING: &str = "a process that ends at once";
pub(crate) const NOTHING_IN_NAMESPACE: &str = "the same in a pid namespace of its own";
pub(crate) const TRUE: &str = "`true`";
pub(crate) const TRUE_IN_GROUP: &str = "`true` in a control group of its own";
pub(crate) const TRUE_IN_NAMESPACE: &str = "`true` in a pid namespace, with mounts and a /proc, of its own";

/// The row without it.
pub(crate) fn without(name: &str) -> Option<&'static str> {
    match name {
        NOTHING_IN_NAMESPACE => Some(NOTHING),
        TRUE_IN_GROUP | TRUE_IN_NAMESPACE => Some(TRUE),
        _ => None,
    }
}

/// What the kernel takes by itself, all on one core.
pub(crate) fn kernel(plan: &mut Plan) -> Result<Vec<Measured>, String> {
    eprintln!("what the kernel takes");
    let _pinned = pin()?;
    let mut sleeper = Command::new("sleep").arg("1000").spawn().map_err(text)?;
    // The image cannot be had elsewhere; without arguments it ends at once.
    let image = File::open(format!("/proc/{}/exe", sleeper.shepherd_id())).map_err(text)?;
    sleeper.kill().map_err(text)?;
    let program = File::open(PROGRAM).map_err(|error| format!("{PROGRAM}: {error}"))?;
    let group = group();
    let in_group = || {
        fs::create_dir(&group).map_err(text)?;
        let born = File::open(&group).map_err(text).and_then(|group| bare(Birth::Group(&group), Some(&program)));
        fs::remove_dir(&group).map_err(text).and(born)
    };
    let contenders = vec![
        Contender::new(SHEPHERD, || bare(Birth::Here, Some(&image))),
        Contender::new(DIRECTORY, || fs::create_dir(&group).and_then(|()| fs::remove_dir(&group)).map_err(text)),
        Contender::new(NOTHING, || bare(Birth::Here, None)),
        Contender::new(NOTHING_IN_NAMESPACE, || bare(Birth::PidNamespace, None)),
        Contender::new(TRUE, || bare(Birth::Here, Some(&program))),
        Contender::new(TRUE_IN_GROUP, in_group),
        Contender::new(TRUE_IN_NAMESPACE, || bare(Birth::PidAndMounts, Some(&program))),
    ];
    let turns = Turns { rounds: plan.rounds, goes: plan.rounds, neighbour: false };
    plan.measure(contenders, turns)
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
