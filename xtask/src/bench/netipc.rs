//! `cargo xtask bench netipc`: runs every row of the netipc benchmark several times, publishes the median of the stable
//! core, and fails where a row is unstable or below its floor.
//!
//! The measuring program is the bench target of `ginnel-netipc`; this module decides what runs, when to repeat, and
//! what it means.

mod report;
mod sample;

use super::machine::wait_for_quiet;
use sample::{Row, Sample, Summary};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// A repetition whose calibrations before and after differ by more says more about the machine than about us.
const CALIBRATION_RATIO: f64 = 1.25;
/// How often a repetition is tried again because the machine moved under it.
const RETRIES: usize = 4;

#[derive(clap::Args)]
pub(crate) struct Netipc {
    /// Only these rows, comma separated: whole names, or parts of names that no row has as a whole.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Repetitions of each row.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..=99))]
    repetitions: u32,
    /// Length of one repetition in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Widest spread of a row's stable core, in percent of its median.
    #[arg(long, default_value_t = 15.0)]
    spread: f64,
    /// Run each unstable row again, alone, and publish both results.
    #[arg(long)]
    diagnose: bool,
    /// Seconds to wait for a quiet machine before each row.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Directory of the report.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,
    /// Measure and compare, but leave the committed report as it is (always so when rows are selected).
    #[arg(long)]
    dry_run: bool,
}

impl Netipc {
    pub(crate) fn run(self) -> Result<(), String> {
        let program = Program::build()?;
        let all = program.rows()?;
        let is_whole = |part: &String| all.iter().any(|row| row.label == *part);
        let selects = |row: &Row, part: &String| {
            if is_whole(part) { row.label == *part } else { row.label.contains(part.as_str()) }
        };
        let selected = |row: &&Row| self.rows.is_empty() || self.rows.iter().any(|part| selects(row, part));
        let rows: Vec<Row> = all.iter().filter(selected).cloned().collect();
        if rows.is_empty() {
            return Err("no row has such a name; `--rows` takes parts of names".into());
        }
        let floors = Floors::read(&self.out.join("netipc-floors.csv"))?;
        let mut results = Vec::new();
        for row in &rows {
            let result = self.measure(&program, row)?;
            eprintln!("{}", report::line(&result));
            results.push(result);
        }
        if self.diagnose {
            for result in results.iter_mut().filter(|result| result.summary.spread_percent > self.spread) {
                eprintln!("{} is unstable: again, alone", result.row.label);
                sleep(Duration::from_secs(3));
                let again = self.measure(&program, &result.row)?;
                eprintln!("{}", report::line(&again));
                result.diagnosis = Some(again.summary);
            }
        }
        if self.rows.is_empty() && !self.dry_run {
            report::write(&self.out, &results, &floors, self.spread)?;
        }
        let complaints: Vec<String> = results.iter().filter_map(|result| self.complaint(result, &floors)).collect();
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\nxtask: ")) }
    }

    fn measure(&self, program: &Program, row: &Row) -> Result<Outcome, String> {
        wait_for_quiet(Duration::from_secs(self.patience));
        let mut samples = Vec::new();
        let mut discarded = 0;
        while samples.len() < self.repetitions as usize {
            let sample = program.measure(row, self.millis)?;
            if sample.calibration_ratio() > CALIBRATION_RATIO && discarded < RETRIES * self.repetitions as usize {
                discarded += 1;
                continue;
            }
            samples.push(sample);
        }
        let syscalls = program.syscalls(row);
        Ok(Outcome { row: row.clone(), summary: Summary::of(&samples), discarded, syscalls, diagnosis: None })
    }

    /// Why this row fails the run. An unstable row that a diagnosis found stable is published with both, and still
    /// fails.
    fn complaint(&self, result: &Outcome, floors: &Floors) -> Option<String> {
        let (label, summary) = (&result.row.label, &result.summary);
        if summary.spread_percent > self.spread {
            return Some(format!("{label}: unstable, the core spreads over {:.0} %", summary.spread_percent));
        }
        let floor = floors.0.get(label)?.floor;
        (summary.items_per_second < floor)
            .then(|| format!("{label}: {:.0} items/s, below the floor of {floor:.0}", summary.items_per_second))
    }
}

/// All that is known about one row of this run.
struct Outcome {
    row: Row,
    summary: Summary,
    discarded: usize,
    syscalls: Option<f64>,
    diagnosis: Option<Summary>,
}

struct Floor {
    /// Below this the run fails.
    floor: f64,
    /// What PERFORMANCE.md wants reached.
    goal: Option<f64>,
}

/// `row,floor,goal` in items per second.
struct Floors(BTreeMap<String, Floor>);

impl Floors {
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip(1);
        let parse = |line: &str| {
            let mut fields = line.split(',');
            let (row, floor) = (fields.next()?, fields.next()?.parse().ok()?);
            Some((row.to_owned(), Floor { floor, goal: fields.next().and_then(|goal| goal.parse().ok()) }))
        };
        let parsed = lines.map(|line| parse(line).ok_or_else(|| format!("{}: cannot read `{line}`", path.display())));
        parsed.collect::<Result<_, _>>().map(Self)
    }
}

/// The measuring program, built with optimisation.
struct Program {
    path: PathBuf,
}

impl Program {
    fn build() -> Result<Self, String> {
        let output = Command::new("cargo")
            .args(["bench", "--package", "ginnel-netipc", "--bench", "netipc", "--no-run", "--message-format=json"])
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|error| format!("cannot start cargo: {error}"))?;
        let lines = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let built = |message: &serde_json::Value| message["target"]["kind"][0] == "bench";
        let path = lines.filter(built).find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
        path.filter(|_| output.status.success())
            .map(|path| Self { path })
            .ok_or_else(|| "the benchmark does not build".into())
    }

    fn output(mut command: Command) -> Result<Vec<u8>, String> {
        let output = command.output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!("{} ({})", String::from_utf8_lossy(&output.stderr).trim(), output.status))
    }

    fn rows(&self) -> Result<Vec<Row>, String> {
        let mut command = Command::new(&self.path);
        command.arg("list");
        serde_json::from_slice(&Self::output(command)?).map_err(|error| error.to_string())
    }

    fn measure(&self, row: &Row, millis: u64) -> Result<Sample, String> {
        let mut command = Command::new(&self.path);
        command.arg("measure").arg(&row.label).arg(format!("--millis={millis}"));
        let output = Self::output(command).map_err(|error| format!("{}: {error}", row.label))?;
        serde_json::from_slice(&output).map_err(|error| format!("{}: {error}", row.label))
    }

    /// System calls of both sides per request, counted by strace in a run of its own; `None` where it is not installed.
    fn syscalls(&self, row: &Row) -> Option<f64> {
        if !row.is_io() {
            return Some(0.0);
        }
        let count = |requests: u64| -> Option<f64> {
            let log = std::env::temp_dir().join(format!("ginnel-bench-{}.strace", std::process::id()));
            let mut command = Command::new("strace");
            command.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&log).arg(&self.path).arg("measure");
            command.arg(&row.label).arg("--millis=0").arg(format!("--requests={requests}"));
            let ran = Self::output(command);
            let table = std::fs::read_to_string(&log);
            let _ = std::fs::remove_file(&log);
            ran.ok()?;
            let total =
                table.ok()?.lines().find(|line| line.ends_with("total"))?.split_whitespace().next()?.parse().ok()?;
            Some(total)
        };
        // The difference of two lengths leaves set-up and tear-down out.
        let (short, long) = (count(200)?, count(1200)?);
        Some(((long - short) / 1000.0).max(0.0))
    }
}
