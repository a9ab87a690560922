//! Runs rows: builds the measuring program, brings the cores near or far, alternates the contenders, throws rounds away
//! whose calibrations disagree.

use super::machine;
use super::statistics::Measurement;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const MANIFEST: &str = "benches/rivals/Cargo.toml";
const TARGET: &str = "benches/rivals/target";

/// A row, as the measuring program lists it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) bytes: usize,
    pub(crate) mode: String,
    pub(crate) wait: String,
    pub(crate) same_core: bool,
    pub(crate) readers: usize,
    pub(crate) batch: usize,
    pub(crate) capacity: usize,
    pub(crate) contenders: Vec<String>,
}

/// How far apart the two cores are, by their cache-line round trip.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distance {
    Near,
    Far,
}

/// Round trips below this, in nanoseconds, are those of cores that share a cache.
const NEAR_BELOW: f64 = 220.0;
/// Calibrations of one round may differ by this factor.
const AGREE: f64 = 1.25;
/// Rounds that may be thrown away, or turn out at another distance, before a row goes on with what it has.
const SPARE_ROUNDS: usize = 5;
/// How often a row tries to bring the cores to the distance that is wanted.
const NUDGES: usize = 3;

/// One repetition of every contender, in turn, under calibrations that agree.
#[derive(Serialize)]
pub(crate) struct Round {
    pub(crate) distance: Distance,
    pub(crate) busy_percent: f64,
    pub(crate) measurements: Vec<(String, Measurement)>,
}

/// Everything measured of a row.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) rounds: Vec<Round>,
    pub(crate) discarded_rounds: usize,
    /// Contenders that failed, and how.
    pub(crate) failures: Vec<(String, String)>,
}

/// System calls a message, of the sending and of the receiving side.
#[derive(Serialize)]
pub(crate) struct Syscalls {
    pub(crate) row: String,
    pub(crate) contender: String,
    pub(crate) per_message: Vec<f64>,
}

pub(crate) struct Runner {
    program: PathBuf,
    pub(crate) cores: [usize; 2],
    pub(crate) repetitions: usize,
    pub(crate) millis: u64,
    pub(crate) patience: Duration,
}

impl Runner {
    /// Builds the measuring program in release, with a target directory of its own.
    pub(crate) fn build(
        cores: [usize; 2],
        repetitions: usize,
        millis: u64,
        patience: Duration,
    ) -> Result<Self, String> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = |tail: &str| root.join(tail).to_str().map(str::to_owned).ok_or("the repository's path is not UTF-8");
        let (manifest, target) = (path(MANIFEST)?, path(TARGET)?);
        crate::test::cargo(
            &["build", "--release", "--locked", "--manifest-path", &manifest, "--target-dir", &target],
            &[],
        )?;
        let program = root.join(TARGET).join("release/rivals");
        Ok(Self { program, cores, repetitions, millis, patience })
    }

    fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// Standard output of the program, or what it said on standard error.
    fn output(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command().args(arguments).output();
        let output = output.map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        if output.status.success() {
            return String::from_utf8(output.stdout).map_err(|error| error.to_string());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} ({})", said.trim(), output.status))
    }

    pub(crate) fn rows(&self) -> Result<Vec<Row>, String> {
        parse(&self.output(&["list"])?)
    }

    fn cores(&self) -> String {
        format!("--cores={},{}", self.cores[0], self.cores[1])
    }

    fn measure(&self, row: &str, contender: &str) -> Result<Measurement, String> {
        let millis = format!("--millis={}", self.millis);
        parse(&self.output(&["measure", row, contender, &self.cores(), &millis])?)
    }

    pub(crate) fn count_syscalls(&self, row: &Row, contender: &str) -> Result<Syscalls, String> {
        #[derive(Deserialize)]
        struct Count {
            per_message: f64,
        }
        let counts = self.output(&["syscalls", &row.id, contender, &self.cores(), "--messages=6400"])?;
        let counts: Vec<Count> = parse(&counts)?;
        let per_message = counts.iter().map(|count| count.per_message).collect();
        Ok(Syscalls { row: row.id.clone(), contender: contender.to_owned(), per_message })
    }

    /// How far the cores are from each other now.
    fn distance(&self) -> Result<Distance, String> {
        let measurement = self.measure("calibration", "line")?;
        agreement(&[&measurement]).ok_or_else(|| "the distance of the cores changed while it was measured".to_owned())
    }

    /// Does what tends to bring the cores to `wanted`; the calibration of every round decides what they were.
    fn bring(&self, wanted: Distance) {
        match wanted {
            // A machine that idles for a while tends to get neighbouring cores.
            Distance::Near => sleep(Duration::from_secs(4)),
            Distance::Far => {
                // Two cores that are kept busy tend to be spread.
                let _burners = Burners::start(self);
                sleep(Duration::from_secs(3));
            }
        }
    }

    /// Measures a row: as many rounds as there are repetitions, at the wanted distance or at whatever it is.
    pub(crate) fn run(&self, row: &Row, wanted: Option<Distance>, measured: &mut Measured) {
        let mut spare = SPARE_ROUNDS;
        let mut nudges = NUDGES;
        let mut done = 0;
        while done < self.repetitions {
            while let Some(wanted) = wanted.filter(|&wanted| nudges > 0 && self.distance() != Ok(wanted)) {
                nudges -= 1;
                self.bring(wanted);
            }
            let busy_percent = machine::wait_for_quiet(if done == 0 { self.patience } else { Duration::ZERO });
            let measurements = self.round(row, measured);
            let all: Vec<&Measurement> = measurements.iter().map(|(_, one)| one).collect();
            match agreement(&all) {
                Some(distance) if wanted.is_none_or(|wanted| wanted == distance) => {
                    measured.rounds.push(Round { distance, busy_percent, measurements });
                    done += 1;
                }
                _ if measurements.is_empty() => return,
                disagreeing => {
                    // Still a valid round, only not at the distance that was asked for: it is filed where it belongs.
                    match disagreeing {
                        Some(distance) => measured.rounds.push(Round { distance, busy_percent, measurements }),
                        None => measured.discarded_rounds += 1,
                    }
                    if spare == 0 {
                        return;
                    }
                    spare -= 1;
                }
            }
        }
    }

    /// A B C …, each once. A contender that failed is not tried again.
    fn round(&self, row: &Row, measured: &mut Measured) -> Vec<(String, Measurement)> {
        let mut measurements = Vec::new();
        for contender in &row.contenders {
            if measured.failures.iter().any(|(failed, _)| failed == contender) {
                continue;
            }
            match self.measure(&row.id, contender) {
                Ok(measurement) => measurements.push((contender.clone(), measurement)),
                Err(error) => measured.failures.push((contender.clone(), error)),
            }
        }
        measurements
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("the measuring program printed something else than agreed: {error}"))
}

/// The distance that all calibrations of a round agree on.
fn agreement(measurements: &[&Measurement]) -> Option<Distance> {
    let lines = || measurements.iter().flat_map(|one| &one.calibration).map(|one| one.line_ns);
    let (low, high) = (lines().fold(f64::MAX, f64::min), lines().fold(0.0, f64::max));
    (high > 0.0 && high <= low * AGREE).then_some(if high < NEAR_BELOW { Distance::Near } else { Distance::Far })
}

/// One process a core that only the idle share of it.
struct Burners(Vec<Child>);

impl Burners {
    fn start(runner: &Runner) -> Self {
        let start = |core: &usize| runner.command().arg("burn").arg(core.to_string()).stdin(Stdio::null()).spawn();
        Self(runner.cores.iter().filter_map(|core| start(core).ok()).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for burner in &mut self.0 {
            // A burner that is gone already needs no ending.
            let _ = burner.kill();
            let _ = burner.wait();
        }
    }
}
