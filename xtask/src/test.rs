//! `cargo xtask test`: all tests of the workspace, with cargo-nextest where it is installed.

use std::process::Command;

#[derive(clap::Args)]
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
    if has_nextest() {
        cargo(&["nextest", "run", "--workspace", "--all-features", "--no-tests=pass"], env)?;
        cargo(&["test", "--workspace", "--all-features", "--doc"], env)
    } else {
        cargo(&["test", "--workspace", "--all-features"], env)
    }
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
