//! `cargo xtask test`: all tests of the workspace, with cargo-nextest where it is installed.

use ginnel_testing::SKIPS;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
#[command(after_help = "Tests that lack a privilege or a tool are named at the end, each with what it needs.")]
pub(crate) struct Test {
    /// Leave the loom models out (they take a build of their own).
    #[arg(long)]
    no_loom: bool,
}

/// Crates that carry loom models behind `--cfg loom`.
const LOOM: &[&str] = &["ginnel-base", "ginnel-memory"];

impl Test {
    pub(crate) fn run(self) -> Result<(), String> {
        tests(&[])?;
        if !self.no_loom {
            for package in LOOM {
                // Models explore interleavings: without optimisation they take minutes. A target directory of their own
                // keeps the change of flags from rebuilding everything else.
                cargo(
                    &["test", "--release", "--package", package, "--lib", "--target-dir", "target/loom", "loom"],
                    &[("RUSTFLAGS", "--cfg loom -C debug-assertions"), ("LOOM_MAX_PREEMPTIONS", "3")],
                )?;
            }
        }
        Ok(())
    }
}

/// The tests of the workspace, without the models.
pub(crate) fn tests(env: &[(&str, &str)]) -> Result<(), String> {
    noting_skips(env, |env| {
        if has_nextest() {
            cargo(&["nextest", "run", "--workspace", "--all-features", "--no-tests=pass"], env)?;
            cargo(&["test", "--workspace", "--all-features", "--doc"], env)
        } else {
            cargo(&["test", "--workspace", "--all-features"], env)
        }
    })
}

/// Runs tests with `env` and a place for the names of the skipped ones, which it prints at the end, also after a
/// failure.
pub(crate) fn noting_skips(
    env: &[(&str, &str)],
    tests: impl FnOnce(&[(&str, &str)]) -> Result<(), String>,
) -> Result<(), String> {
    let dir = std::env::current_dir().map_err(|error| format!("no working directory: {error}"))?;
    let path = dir.join(format!("target/skips-{}", std::process::id()));
    let text = path.to_str().ok_or("the path of the working directory is not UTF-8")?;
    let outcome = tests(&[env, &[(SKIPS, text)]].concat());
    let skips = skips(&path);
    if !skips.is_empty() {
        println!("\n{} tests, or parts of them, were skipped:", skips.len());
    }
    for line in skips {
        println!("  {line}");
    }
    let _ = std::fs::remove_file(&path);
    outcome
}

/// The lines of `path`, each once, in order. A file that does not exist has none: nothing was skipped.
fn skips(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn has_nextest() -> bool {
    Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|out| out.status.success())
}

/// Runs cargo with the caller's streams; an error names the command that failed.
pub(crate) fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let status = Command::new("cargo")
        .args(args)
        .envs(env.iter().copied())
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed ({status})", args.join(" "))) }
}
