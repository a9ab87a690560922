//! `cargo xtask fuzz`: every fuzz target for a while. Needs cargo-fuzz and a nightly toolchain.

use crate::test::cargo;
use std::process::Command;

const MANIFEST: &str = "fuzz/Cargo.toml";

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
        run(if self.targets.is_empty() { &known } else { &self.targets }, self.seconds)
    }
}

/// Runs each target for `seconds`. A crash, a hang of ten seconds or 4 GiB of memory ends it with an error.
pub(crate) fn run(targets: &[String], seconds: u64) -> Result<(), String> {
    let installed = Command::new("cargo").args(["+nightly", "fuzz", "--version"]).output();
    if !installed.is_ok_and(|out| out.status.success()) {
        return Err(
            "fuzzing needs `cargo install --locked cargo-fuzz` and `rustup toolchain install nightly`".to_owned()
        );
    }
    for target in targets {
        let time = format!("-max_total_time={seconds}");
        // Leaks are looked for by `sanitize address`: here the check meets threads that are just ending, and takes what libc has
        // allocated for their destructors for lost.
        let limits = ["-timeout=10", "-rss_limit_mb=4096", "-max_len=1024", "-print_final_stats=1", "-detect_leaks=0"];
        let args = ["+nightly", "fuzz", "run", target, "--", &time];
        cargo(&[&args[..], &limits[..]].concat(), &[])?;
    }
    Ok(())
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
