//! How a command ends: what it prints, and its exit code.

use crate::terminal;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// The work failed.
const FAILED: u8 = 1;

/// Why a command did not do what it was asked: one sentence for standard error, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into() }
    }

    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// The exit code of a command, after telling why it failed.
pub(crate) fn conclude(outcome: Result<ExitCode, Failure>) -> ExitCode {
    outcome.unwrap_or_else(|failure| {
        complain(&failure.message);
        ExitCode::from(failure.code)
    })
}

/// One line on standard error, as [`tell`] does.
pub(crate) fn complain(message: impl Display) {
    tell(format_args!("ginnel: {message}"));
}

/// One line on standard error. That nobody is there to read it is no reason to fail, and when nobody takes it within a
/// second, nobody reads it: that must hold up neither the work nor the end.
pub(crate) fn tell(line: impl Display) {
    let _ = terminal::write_patiently(rustix::stdio::stderr(), format!("{line}\n").as_bytes(), || false);
}

/// One line on standard output, at once. A reader that has gone away (`| head`) has seen enough: `false`.
pub(crate) fn say(line: impl Display) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}
