//! `cargo xtask test`: all tests of the workspace, by cargo-nextest where it is installed.

use crate::each;
use ginnel_testing::SKIPS;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
#[command(after_help = "Tests that lack a privilege or a tool are named at the end, each with what it needs.\n\n\
    Examples:\n  cargo xtask test\n  cargo xtask test --package ginnel-process --ignore-signals")]
pub(crate) struct Test {
    /// Leave the loom models out (they take a build of their own).
    #[arg(long)]
    no_loom: bool,
    /// Run the tests of this package only, without models and documentation. Can be given more than once.
    #[arg(long)]
    package: Vec<String>,
    /// Start each test with HUP, INT and QUIT ignored, as `nohup` and the background of a script do.
    #[arg(long)]
    ignore_signals: bool,
    /// Do without cargo-nextest, also where it is installed: the tests run one after another.
    #[arg(long)]
    without_nextest: bool,
}

/// Crates that carry loom models behind `--cfg loom`.
const LOOM: &[&str] = &["ginnel-base", "ginnel-memory"];

/// How to start a test with ignored signals. The runners of tests set every signal to its default.
const IGNORING: [&str; 4] = ["sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh"];

impl Test {
    pub(crate) fn run(self) -> Result<(), String> {
        say_what_is_missing();
        let nextest = !self.without_nextest && has_nextest();
        let under: &[&str] = if self.ignore_signals { &IGNORING } else { &[] };
        if !self.package.is_empty() {
            let select: Vec<&str> = self.package.iter().flat_map(|package| ["--package", package]).collect();
            return noting_skips(&[], |env| run(&select, nextest, under, env));
        }
        noting_skips(&[], |env| {
            run(&["--workspace"], nextest, under, env)?;
            documentation(env)
        })?;
        if !self.no_loom {
            for package in LOOM {
                // Models explore interleavings: without optimisation they take minutes. A target directory of their own
                // keeps the change of flags from rebuilding everything else.
                cargo(
                    &[
                        &["test", "--locked", "--release", "--package", package, "--lib"][..],
                        &["--target-dir", "target/loom", "loom"],
                    ]
                    .concat(),
                    &[("RUSTFLAGS", "--cfg loom -C debug-assertions"), ("LOOM_MAX_PREEMPTIONS", "3")],
                )?;
            }
        }
        Ok(())
    }
}

/// The programs that tests call, each with Debian's package.
const PROGRAMS: [(&str, &str); 5] =
    [("make", "make"), ("nsenter", "util-linux"), ("ps", "procps"), ("python3", "python3"), ("unshare", "util-linux")];

/// Says what there is not, what follows from that, and how to get it.
fn say_what_is_missing() {
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|(program, _)| !ginnel_testing::finds(program)).collect();
    if !missing.is_empty() {
        let (programs, mut packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
        packages.dedup();
        eprintln!(
            "xtask: no {}: the tests that need it are skipped (on Debian: apt-get install {})",
            programs.join(", "),
            packages.join(" ")
        );
    }
    if !has_nextest() {
        eprintln!(
            "xtask: no cargo-nextest: the tests run one after another, which takes longer \
             (cargo install --locked cargo-nextest)"
        );
    }
}

/// The tests of the workspace, without the models.
pub(crate) fn tests(env: &[(&str, &str)]) -> Result<(), String> {
    say_what_is_missing();
    noting_skips(env, |env| {
        run(&["--workspace"], has_nextest(), &[], env)?;
        documentation(env)
    })
}

/// Runs the tests that cargo's arguments `select`, each as a process of its own, by the command `under`, if there is
/// one.
fn run(select: &[&str], nextest: bool, under: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let select = [select, &["--locked", "--all-features"]].concat();
    if !nextest {
        return each::run(&select, under, env);
    }
    let runner = format!("target.'cfg(unix)'.runner={under:?}");
    let runner: &[&str] = if under.is_empty() { &[] } else { &["--config", &runner] };
    cargo(&[&["nextest", "run", "--no-tests=pass"], &select[..], runner].concat(), env)
}

fn documentation(env: &[(&str, &str)]) -> Result<(), String> {
    cargo(&["test", "--locked", "--workspace", "--all-features", "--doc"], env)
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
