//! Tests without cargo-nextest: each in a process of its own, one after another.
//!
//! Many tests count what their process has (descriptors, threads, children), or end it. The usual harness would run
//! those of one program together, as threads of one process.

use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Ends a test that hangs, as `.config/nextest.toml` does.
const PATIENCE: Duration = Duration::from_secs(300);

/// A compiled program of tests.
struct Program {
    path: PathBuf,
    /// The directory of its package, in which its tests run.
    dir: PathBuf,
    package: String,
}

/// Builds the tests that cargo's arguments `select`, and runs each by the command `under`, if there is one.
pub(crate) fn run(select: &[&str], under: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let (mut count, mut failed) = (0, Vec::new());
    for program in programs(select, env)? {
        for test in program.tests(env)? {
            count += 1;
            let begun = Instant::now();
            let outcome = program.one(&test, under, env)?;
            let what = format!("{} {test}", program.name());
            let mark = if outcome.is_ok() { "pass" } else { "FAIL" };
            println!("{mark} {:7.3} s  {what}", begun.elapsed().as_secs_f64());
            if let Err(why) = outcome {
                println!("{why}");
                failed.push(what);
            }
        }
    }
    println!("{count} tests, of which {} failed", failed.len());
    if failed.is_empty() { Ok(()) } else { Err(format!("tests failed:\n  {}", failed.join("\n  "))) }
}

fn programs(select: &[&str], env: &[(&str, &str)]) -> Result<Vec<Program>, String> {
    let output = Command::new("cargo")
        .args(["test", "--no-run", "--message-format=json-render-diagnostics"])
        .args(select)
        .envs(env.iter().copied())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("the tests did not compile ({})", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages.filter_map(|message| program(&message)).collect())
}

/// The program that one of cargo's messages tells of, if it has tests.
fn program(message: &Value) -> Option<Program> {
    message["profile"]["test"].as_bool().filter(|is_test| *is_test)?;
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?;
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).ok()?;
    let package = manifest.lines().find_map(|line| line.strip_prefix("name = "))?.trim_matches('"').to_owned();
    Some(Program { path: message["executable"].as_str()?.into(), dir: dir.to_owned(), package })
}

impl Program {
    /// `package::program`, without the hash that cargo adds.
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{}::{}", self.package, name.rsplit_once('-').map_or(&*name, |(stem, _)| stem))
    }

    fn command(&self, under: &[&str], env: &[(&str, &str)]) -> Command {
        let words = under.iter().map(Path::new).chain([self.path.as_path()]);
        let words: Vec<&Path> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(&self.dir).stdin(Stdio::null());
        command.env("CARGO_PKG_NAME", &self.package).env("CARGO_MANIFEST_DIR", &self.dir);
        command.envs(env.iter().copied());
        command
    }

    fn tests(&self, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let output = self.command(&[], env).args(["--list", "--format", "terse"]).output();
        let output = output.map_err(|error| format!("cannot start {}: {error}", self.path.display()))?;
        if !output.status.success() {
            return Err(format!("{} does not list its tests ({})", self.path.display(), output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    /// Runs one test: what it printed, if it failed.
    fn one(&self, test: &str, under: &[&str], env: &[(&str, &str)]) -> Result<Result<(), String>, String> {
        // A file: what a test leaves running could hold a pipe open.
        let log = PathBuf::from(format!("target/test-{}.log", std::process::id()));
        let told = |error| format!("cannot run {test} with its output in {}: {error}", log.display());
        let file = File::create(&log).map_err(told)?;
        let mut command = self.command(under, env);
        command.args(["--exact", test]).env("NEXTEST_TEST_NAME", test);
        let mut child = command.stdout(file.try_clone().map_err(told)?).stderr(file).spawn().map_err(told)?;
        let begun = Instant::now();
        let status = loop {
            match child.try_wait().map_err(told)? {
                Some(status) if status.success() => break None,
                Some(status) => break Some(status.to_string()),
                None if begun.elapsed() > PATIENCE => {
                    child.kill().and_then(|()| child.wait()).map_err(told)?;
                    break Some(format!("killed after {} s", PATIENCE.as_secs()));
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let output = std::fs::read(&log).map_err(told)?;
        std::fs::remove_file(&log).map_err(told)?;
        Ok(status.map_or(Ok(()), |status| Err(format!("{}\n{status}", String::from_utf8_lossy(&output)))))
    }
}
