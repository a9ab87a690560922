//! `cargo xtask bench channel`.

use super::machine::Conditions;
use super::report::Run;
use super::runner::{Distance, Measured, Row, Runner};
use super::write;
use std::path::PathBuf;
use std::time::Duration;

/// Which distances of the two cores to measure at.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wanted {
    /// Whatever it happens to be.
    AsIs,
    Near,
    Far,
    Both,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench channel --quick                       a look, in a minute or two
  cargo xtask bench channel --row roundtrip/64 --json x   one row, everything measured as JSON
  cargo xtask bench channel --distance both --out docs/benchmarks/channel.md")]
pub(crate) struct Channel {
    /// Two short repetitions a row instead of five.
    #[arg(long)]
    quick: bool,
    /// Write the report here; without this it goes to standard output.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write everything measured here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only rows whose name contains one of these (comma-separated).
    #[arg(long, value_delimiter = ',')]
    row: Vec<String>,
    /// Bring the cores near or far before each round (idling, or burners of the lowest priority).
    #[arg(long, value_enum, default_value = "as-is")]
    distance: Wanted,
    /// The sender's core and the receivers' core.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// How long to wait for a quiet machine before each row, in seconds; then it goes on, and the report says so.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Repetitions of every contender (default 5, with --quick 2).
    #[arg(long)]
    repetitions: Option<usize>,
}

/// Rows whose system calls are counted.
const COUNTED: &[&str] = &[
    "roundtrip/64",
    "parked/same-core",
    "stream/64",
    "stream/64-by-64",
    "stream/64-parked",
    "publish/1-readers",
    "publish/64-readers",
];

impl Channel {
    pub(crate) fn run(self) -> Result<(), String> {
        let cores = self.cores[..].try_into().map_err(|_| "--cores wants two numbers, such as 0,1")?;
        let repetitions = self.repetitions.unwrap_or(if self.quick { 2 } else { 5 }).max(1);
        let millis = if self.quick { 60 } else { 200 };
        let runner = Runner::build(cores, repetitions, millis, Duration::from_secs(self.patience))?;
        let rows: Vec<Row> = runner.rows()?.into_iter().filter(|row| self.wants(row)).collect();
        if rows.is_empty() {
            return Err(format!("no row contains {:?}", self.row.join(",")));
        }
        let run = Run {
            command: std::iter::once("cargo xtask".to_owned())
                .chain(std::env::args().skip(1))
                .collect::<Vec<_>>()
                .join(" "),
            conditions: Conditions::read(),
            repetitions,
            millis,
            syscalls: self.count(&runner, &rows),
            rows: rows.into_iter().map(|row| self.measure(&runner, row)).collect(),
        };
        if let Some(path) = &self.json {
            let json = serde_json::to_string(&run).map_err(|error| error.to_string())?;
            write(path, &json)?;
        }
        match &self.out {
            Some(path) => write(path, &run.markdown()),
            None => {
                print!("{}", run.markdown());
                Ok(())
            }
        }
    }

    fn wants(&self, row: &Row) -> bool {
        row.kind != "calibration"
            && (self.row.is_empty() || self.row.iter().any(|filter| row.id.contains(filter.as_str())))
    }

    fn measure(&self, runner: &Runner, row: Row) -> Measured {
        let wanted: &[Option<Distance>] = match self.distance {
            Wanted::AsIs => &[None],
            Wanted::Near => &[Some(Distance::Near)],
            Wanted::Far => &[Some(Distance::Far)],
            Wanted::Both => &[Some(Distance::Near), Some(Distance::Far)],
        };
        eprintln!("{}", row.id);
        let mut measured = Measured { row: row.clone(), rounds: Vec::new(), discarded_rounds: 0, failures: Vec::new() };
        for &distance in wanted {
            runner.run(&row, distance, &mut measured);
        }
        for (contender, error) in &measured.failures {
            eprintln!("  {contender} failed: {error}");
        }
        measured
    }

    fn count(&self, runner: &Runner, rows: &[Row]) -> Vec<super::runner::Syscalls> {
        let mut counts = Vec::new();
        for row in rows.iter().filter(|row| COUNTED.contains(&row.id.as_str())) {
            for contender in &row.contenders {
                match runner.count_syscalls(row, contender) {
                    Ok(count) => counts.push(count),
                    Err(error) => eprintln!("  system calls of {}, {contender}, were not counted: {error}", row.id),
                }
            }
        }
        counts
    }
}
