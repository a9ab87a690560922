//! The conditions of a run that a reader of the numbers needs: the machine's, and this checkout's.

pub(crate) use ginnel_bench::{QUIET, wait_for_quiet};

use ginnel_bench::Environment;
use serde::Serialize;
use std::ops::Deref;

/// Conditions that a reader of the numbers needs.
#[derive(Serialize)]
pub(crate) struct Conditions {
    #[serde(flatten)]
    environment: Environment,
    pub(crate) compiler: String,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Conditions {
    pub(crate) fn read() -> Self {
        Self {
            environment: Environment::read(),
            compiler: output("rustc", &["--version"]),
            commit: output("git", &["describe", "--always", "--dirty"]),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        }
    }
}

impl Deref for Conditions {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.environment
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
