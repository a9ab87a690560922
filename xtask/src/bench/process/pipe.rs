//! Throughput of a piped stdout, beside the bare pipe.

use super::samples::{Plan, Spread};
use super::sys::Pinned;
use ginnel_process::{Command, Stdio};
use serde::Serialize;
use std::io::Read;
use std::time::Instant;

/// Each of the same pairs, in turn; GB/s.
#[derive(Serialize)]
pub(crate) struct Pipe {
    pub(crate) bytes: u64,
    pub(crate) bare: Vec<f64>,
    pub(crate) ours: Vec<f64>,
}

impl Pipe {
    /// Of each pair, ours in percent of the bare pipe.
    pub(crate) fn percent(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.bare).map(|(ours, bare)| ours / bare * 100.0).collect()
    }
}

/// The middle one, and the quarters around it.
pub(crate) fn middle_half(values: &[f64]) -> Spread {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted.get(((sorted.len() - 1) as f64 * part).round() as usize).copied().unwrap_or(f64::NAN);
    Spread { mid: at(0.5), low: at(0.25), high: at(0.75) }
}

/// Reads a stream to its end in blocks of a pipe's size; GB/s.
fn drain(mut stream: impl Read, bytes: u64) -> Result<f64, String> {
    let mut buf = vec![0; 64 * 1024];
    let (begun, mut seen) = (Instant::now(), 0);
    loop {
        match stream.read(&mut buf).map_err(|error| error.to_string())? {
            0 => break,
            len => seen += len as u64,
        }
    }
    if seen == bytes {
        Ok(bytes as f64 / begun.elapsed().as_secs_f64() / 1e9)
    } else {
        Err(format!("{seen} of {bytes} bytes came"))
    }
}

/// Both sides of every pipe are pinned, to the same two cores for both contenders, and turns are short and many: what
/// the machine does meanwhile concerns pairs, so the ratio is taken of each pair.
pub(crate) fn measure(plan: &mut Plan, bytes: u64, pairs: usize) -> Result<Pipe, String> {
    eprintln!("throughput of a pipe");
    plan.wait_for_quiet(true);
    let count = bytes.to_string();
    let args = ["-c", "0", "head", "-c", count.as_str(), "/dev/zero"];
    let _pinned = Pinned::to(1).map_err(|error| format!("cannot pin to core 1: {error}"))?;
    let bare = || -> Result<f64, String> {
        let mut child = std::process::Command::new("taskset")
            .args(args)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let rate = drain(child.stdout.take().ok_or("no stdout")?, bytes)?;
        child.wait().map_err(|error| error.to_string())?;
        Ok(rate)
    };
    let ours = || -> Result<f64, String> {
        let mut child =
            Command::new("taskset").args(args).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let rate = drain(child.stdout.take().ok_or("no stdout")?, bytes)?;
        child.wait().map_err(|error| error.to_string())?;
        Ok(rate)
    };
    let mut pipe = Pipe { bytes, bare: Vec::new(), ours: Vec::new() };
    for pair in 0..pairs {
        // Who goes first takes turns as well.
        if pair % 2 == 0 {
            pipe.bare.push(bare()?);
            pipe.ours.push(ours()?);
        } else {
            pipe.ours.push(ours()?);
            pipe.bare.push(bare()?);
        }
    }
    Ok(pipe)
}
