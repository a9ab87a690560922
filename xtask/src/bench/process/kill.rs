//! Killing trees of some sizes, beside one `kill` of a process group.

use super::samples::{Plan, Samples};
use super::sys;
use ginnel_process::{Child, Command, Isolation, KillLadder, Stdio};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::time::Instant;

/// Nobody is protected: the floor.
pub(crate) const GROUP: &str = "none: `kill` of the group";

#[derive(Serialize)]
pub(crate) struct Kill {
    pub(crate) processes: u32,
    pub(crate) protection: String,
    pub(crate) times: Samples,
}

#[derive(Serialize)]
pub(crate) struct Kills {
    pub(crate) kills: Vec<Kill>,
    /// One look at all of /proc while the largest tree is there.
    pub(crate) look: Samples,
}

const ISOLATIONS: [Isolation; 3] = [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace];

/// `sizes` are numbers of processes, and how often to kill so many; the last is the largest.
pub(crate) fn measure(plan: &mut Plan, sizes: &[(u32, usize)]) -> Result<Kills, String> {
    let (mut kills, mut looks) = (Vec::new(), Vec::new());
    for &(processes, rounds) in sizes {
        eprintln!("killing trees of {processes}");
        plan.wait_for_quiet(true);
        let mut times = vec![Vec::new(); 1 + ISOLATIONS.len()];
        let mut names = vec![GROUP.to_owned(); times.len()];
        // Turn by turn.
        for _ in 0..rounds {
            let floor = sys::kill_group(&tree(processes)).map_err(|error| format!("{GROUP}: {error}"))?;
            times[0].push((floor * 1e9) as u64);
            for (index, isolation) in (1..).zip(ISOLATIONS) {
                let mut child = start(processes, isolation)?;
                names[index] = child.guarantee().protection.to_string();
                times[index].push(kill(&mut child, processes)?);
            }
        }
        let named = names.into_iter().zip(times);
        kills.extend(named.map(|(protection, times)| Kill { processes, protection, times: Samples(vec![times]) }));
    }
    // In trees of their own: it would leave the next one to look a warm /proc.
    let processes = sizes.last().map_or(1, |&(processes, _)| processes);
    for _ in 0..5 {
        let mut child = start(processes, Isolation::Subreaper)?;
        looks.push(look().map_err(|error| format!("/proc: {error}"))?);
        kill(&mut child, processes)?;
    }
    Ok(Kills { kills, look: Samples(vec![looks]) })
}

/// Starts a shell with `count - 1` sleeping children; says when they are all there.
fn tree(count: u32) -> String {
    format!("i=1; while [ $i -lt {count} ]; do sleep 1000 & i=$((i+1)); done; echo ready; sleep 1001; true")
}

fn start(count: u32, isolation: Isolation) -> Result<Child, String> {
    let mut command = Command::new("sh");
    command.args(["-c", &tree(count)]).isolation(isolation).kill_ladder(KillLadder::at_once()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut String::new()).map_err(|error| error.to_string())?;
    Ok(child)
}

/// How many nanoseconds it takes.
fn kill(child: &mut Child, count: u32) -> Result<u64, String> {
    let begun = Instant::now();
    let report = child.kill().map_err(|error| error.to_string())?;
    let took = begun.elapsed().as_nanos() as u64;
    if report.survivors > 0 || report.killed < count {
        return Err(format!("{} killed, {} survived of {count}", report.killed, report.survivors));
    }
    Ok(took)
}

/// Nanoseconds to read who is there and whose child each is.
fn look() -> std::io::Result<u64> {
    let begun = Instant::now();
    let mut stat = [0u8; 512];
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            // One that has ended meanwhile is no error.
            let _ = File::open(entry.path().join("stat")).and_then(|mut file| file.read(&mut stat));
        }
    }
    Ok(begun.elapsed().as_nanos() as u64)
}
