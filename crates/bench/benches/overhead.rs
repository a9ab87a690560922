//! What the tool itself costs: its ping-pong over pipes against a bare loop of the same system calls, in turns.
//!
//! `cargo bench -p ginnel-bench --bench overhead`. Both sides share one CPU, where a round trip is two switches and four
//! system calls, and does not depend on how far two CPUs are from each other. Compared is the CPU time of both sides,
//! so that it holds on a busy machine, too; of the tool it includes that it stamps, numbers, fills, checks and counts.

use ginnel_bench::{Amount, Mechanisms, Mode, Plan, SideProgram, Suite};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::process::{Command, Stdio};

const SIZE: usize = 64;
const ROUND_TRIPS: u64 = 40_000;
const ROUNDS: usize = 15;
/// Makes this program the other side of the bare loop.
const ECHO: &str = "GINNEL_BENCH_ECHO";

fn main() -> io::Result<()> {
    if ginnel_bench::is_side() {
        std::process::exit(i32::from(ginnel_bench::run_side(&Mechanisms::all()) != std::process::ExitCode::SUCCESS));
    }
    if std::env::var_os(ECHO).is_some() {
        return echo();
    }
    let allowed = sched_getaffinity(None)?;
    let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap_or(0);
    let suite = Suite::new(Mechanisms::all(), SideProgram::this([""; 0])?).repetitions(1);
    let (mut ratios, mut least) = (Vec::new(), [f64::MAX; 2]);
    for _ in 0..ROUNDS {
        let (bare, tool) = (bare(cpu, allowed)?, tool(&suite, cpu)?);
        println!("bare {bare:.0} ns, tool {tool:.0} ns, {:+.1} %", 100.0 * (tool / bare - 1.0));
        ratios.push(tool / bare);
        least = [least[0].min(bare), least[1].min(tool)];
    }
    ratios.sort_by(f64::total_cmp);
    println!("overhead: {:+.1} % (median of {ROUNDS})", 100.0 * (ratios[ROUNDS / 2] - 1.0));
    let [bare, tool] = least;
    println!("least: bare {bare:.0} ns, tool {tool:.0} ns, {:+.1} %", 100.0 * (tool / bare - 1.0));
    Ok(())
}

/// Nanoseconds of CPU time of a round trip through the tool, everything included.
fn tool(suite: &Suite, cpu: usize) -> io::Result<f64> {
    let mut plan = Plan::new("pipe", Mode::PingPong);
    (plan.size, plan.amount) = (SIZE, Amount::Count(ROUND_TRIPS));
    (plan.client_cpu, plan.server_cpu) = (Some(cpu), Some(cpu));
    let row = suite.measure(&plan);
    if let Some(failure) = row.failure {
        return Err(io::Error::other(failure));
    }
    let one = &row.repetitions[0];
    let used = [one.client, one.server].map(|side| side.user_ns + side.system_ns);
    Ok(used.iter().sum::<u64>() as f64 / one.counts.received as f64)
}

/// Nanoseconds of CPU time of a round trip of system calls alone.
fn bare(cpu: usize, allowed: CpuSet) -> io::Result<f64> {
    let mut one = CpuSet::new();
    one.set(cpu);
    // The child inherits it.
    sched_setaffinity(None, &one)?;
    let mut child =
        Command::new(std::env::current_exe()?).env(ECHO, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (to, from) =
        (child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?, child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
    let mut message = [7; SIZE];
    let mut begin = 0;
    for round in 0..ROUND_TRIPS + 200 {
        if round == 200 {
            begin = used("self")? + used(&child.id().to_string())?;
        }
        rustix::io::write(&to, &message)?;
        rustix::io::read(&from, &mut message)?;
    }
    let elapsed = used("self")? + used(&child.id().to_string())? - begin;
    drop(to);
    child.wait()?;
    sched_setaffinity(None, &allowed)?;
    Ok(elapsed as f64 / ROUND_TRIPS as f64)
}

/// CPU time of a process's first thread so far, in nanoseconds.
fn used(process: &str) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/schedstat"))?;
    stat.split(' ').next().and_then(|time| time.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn echo() -> io::Result<()> {
    let mut message = [0; SIZE];
    loop {
        let len = rustix::io::read(rustix::stdio::stdin(), &mut message)?;
        if len == 0 {
            return Ok(());
        }
        rustix::io::write(rustix::stdio::stdout(), &message[..len])?;
    }
}
