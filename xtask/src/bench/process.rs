//! `cargo xtask bench process`: what ginnel-process costs, beside the standard library, tokio, posix_spawn and the
//! kernel alone.

mod goals;
mod kill;
mod pipe;
mod report;
mod samples;
mod shepherd;
mod spawn;
mod sys;

use super::machine::Conditions;
use super::write;
use crate::test::cargo;
use report::Run;
use samples::Plan;
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench process --quick                       a look, in less than a minute
  cargo xtask bench process --out docs/benchmarks/process.md")]
pub(crate) struct Process {
    /// Two short repetitions instead of five.
    #[arg(long)]
    quick: bool,
    /// Write the report here; without this it goes to standard output.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write everything measured here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long to wait for a quiet machine before each part, in seconds; then it goes on, and the report says so.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Repetitions of every spawn (default 5, with --quick 2).
    #[arg(long)]
    repetitions: Option<usize>,
    /// Measure in this build (the task itself is built without optimisation and starts another that is).
    #[arg(long, hide = true)]
    here: bool,
}

impl Process {
    pub(crate) fn run(self) -> Result<(), String> {
        let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--here").collect();
        if !self.here {
            let mut args = vec!["run", "--quiet", "--release", "--package", "xtask", "--"];
            args.extend(given.iter().map(String::as_str));
            args.push("--here");
            return cargo(&args, &[]);
        }
        if std::env::var_os("CARGO").is_some() {
            return without_cargo();
        }
        let mut plan = Plan {
            repetitions: self.repetitions.unwrap_or(if self.quick { 2 } else { 5 }).max(1),
            rounds: if self.quick { 100 } else { 2000 },
            patience: Duration::from_secs(self.patience),
            busy: Vec::new(),
            left_out: BTreeSet::new(),
        };
        let run = Run {
            command: format!("cargo xtask {}", given.join(" ")),
            conditions: Conditions::read(),
            environment: environment(),
            automatic: spawn::automatic()?,
            kernel: spawn::kernel(&mut plan)?,
            situations: spawn::situations(&mut plan)?,
            shepherd: shepherd::measure(if self.quick { 2 } else { 10 })?,
            pipe: pipe::measure(&mut plan, 256 << 20, if self.quick { 6 } else { 40 })?,
            kills: kill::measure(
                &mut plan,
                if self.quick { &[(1, 4), (100, 4), (1000, 2)] } else { &[(1, 20), (100, 20), (1000, 10)] },
            )?,
            repetitions: plan.repetitions,
            rounds: plan.rounds,
            busy: plan.busy,
            left_out: plan.left_out,
        };
        if let Some(path) = &self.json {
            write(path, &serde_json::to_string(&run).map_err(|error| error.to_string())?)?;
        }
        match &self.out {
            Some(path) => write(path, &run.markdown()),
            None => {
                print!("{}", run.markdown());
                Ok(())
            }
        }
    }
}

/// Starts this program again. The variables of cargo make every environment longer than a user's, and its
/// `LD_LIBRARY_PATH` makes every program start more slowly.
fn without_cargo() -> Result<(), String> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut command = std::process::Command::new(this);
    command.args(std::env::args_os().skip(1));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO") || text.starts_with("RUST") || text == "LD_LIBRARY_PATH" {
            command.env_remove(&name);
        }
    }
    Err(format!("cannot start without cargo: {}", command.exec()))
}

/// Variables, and their bytes.
fn environment() -> (usize, usize) {
    let sizes = std::env::vars_os().map(|(name, value)| name.len() + value.len() + 2);
    sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
}
