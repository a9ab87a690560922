//! `cargo xtask fuzz`: every fuzz target for a while. Needs cargo-fuzz and a nightly toolchain.

use crate::test::cargo;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

const MANIFEST: &str = "fuzz/Cargo.toml";
const LOGS: &str = "fuzz/logs";
/// What fuzzing has found worth keeping, and hand-made vectors of the specifications: committed, and where every run
/// begins. What a run finds goes to [`CORPUS`], which is not committed.
const SEEDS: &str = "fuzz/seeds";
const CORPUS: &str = "fuzz/corpus";

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask fuzz --seconds 30\n  cargo xtask fuzz --seconds 600 ring_hostile_writer"
)]
pub(crate) struct Fuzz {
    /// How long each target runs.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Run these targets only.
    targets: Vec<String>,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<(), String> {
        let known = targets()?;
        if let Some(unknown) = self.targets.iter().find(|target| !known.contains(target)) {
            return Err(format!("there is no fuzz target {unknown:?} in {MANIFEST}: it has {}", known.join(", ")));
        }
        let targets = if self.targets.is_empty() { known } else { self.targets };
        run(targets.into_iter().map(|target| (target, self.seconds)).collect())
    }
}

/// Runs each target for its seconds, as many at a time as there are processors. A crash, a leak, a hang of ten seconds
/// or 4 GiB of memory is an error that names the targets; what they printed is in `fuzz/logs`.
pub(crate) fn run(plan: Vec<(String, u64)>) -> Result<(), String> {
    let installed = Command::new("cargo").args(["+nightly", "fuzz", "--version"]).output();
    if !installed.is_ok_and(|out| out.status.success()) {
        return Err(
            "fuzzing needs `cargo install --locked cargo-fuzz` and `rustup toolchain install nightly`".to_owned()
        );
    }
    cargo(&["+nightly", "fuzz", "build"], &[])?;
    std::fs::create_dir_all(LOGS).map_err(|error| format!("cannot create {LOGS}: {error}"))?;

    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (plan, failed) = (Mutex::new(plan.into_iter()), Mutex::new(Vec::new()));
    let next = || plan.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((target, seconds)) = next() {
                    match one(&target, seconds) {
                        Ok(line) => println!("{target}: {line}"),
                        Err(why) => {
                            eprintln!("{target}: {why}");
                            failed.lock().unwrap().push(target);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if failed.is_empty() { Ok(()) } else { Err(format!("fuzzing found something in {}", failed.join(", "))) }
}

/// Runs one target; a line that says how much it did, or what it found.
fn one(target: &str, seconds: u64) -> Result<String, String> {
    let log: PathBuf = [LOGS, &format!("{target}.log")].iter().collect();
    let told = |error| format!("cannot write {}: {error}", log.display());
    let output = File::create(&log).map_err(told)?;
    let (corpus, seeds) = (format!("{CORPUS}/{target}"), seeds(target)?);
    std::fs::create_dir_all(&corpus).map_err(|error| format!("cannot create {corpus}: {error}"))?;
    let begun = Instant::now();
    let status = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", target, &corpus, &seeds, "--", &format!("-max_total_time={seconds}")])
        .args(["-timeout=10", "-rss_limit_mb=4096", "-max_len=1024", "-print_final_stats=1"])
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(told)?)
        .stderr(output)
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let text = String::from_utf8_lossy(&std::fs::read(&log).map_err(told)?).into_owned();
    if !status.success() {
        let tail: Vec<&str> = text.lines().rev().take(60).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        return Err(format!("{status}; the end of {}:\n{}", log.display(), tail.join("\n")));
    }
    let executed = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(format!("clean, {} inputs in {} s", executed.unwrap_or("?").trim(), begun.elapsed().as_secs()))
}

/// Where the committed inputs of `target` are.
fn seeds(target: &str) -> Result<String, String> {
    let seeds = format!("{SEEDS}/{target}");
    let found = std::fs::read_dir(&seeds).is_ok_and(|mut files| files.next().is_some());
    found.then_some(seeds).ok_or_else(|| {
        format!(
            "it has no inputs in {SEEDS}/{target}: run it for some minutes, then `cargo +nightly fuzz cmin {target}`, \
             and commit some tens of the smallest of {CORPUS}/{target}"
        )
    })
}

/// The targets, as the manifest names them.
pub(crate) fn targets() -> Result<Vec<String>, String> {
    let manifest = std::fs::read_to_string(MANIFEST)
        .map_err(|error| format!("cannot read {MANIFEST} ({error}): run this at the root of the repository"))?;
    let bins = manifest.split("[[bin]]").skip(1);
    let name =
        |bin: &str| Some(bin.lines().find_map(|line| line.strip_prefix("name = "))?.trim_matches('"').to_owned());
    Ok(bins.filter_map(name).collect())
}
