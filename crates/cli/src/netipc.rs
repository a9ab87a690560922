//! `ginnel netipc serve|get|ping`: Netdata's services from a shell.

mod ask;
mod connection;
mod get;
mod ping;
mod render;
mod serve;
mod trouble;

use clap::{Args, Subcommand};
use std::io::Write;
use std::process::ExitCode;
use trouble::Trouble;

#[derive(Args)]
pub(crate) struct Netipc {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve this machine's cgroups or processes to Netdata's plugins and to `ginnel netipc get`.
    Serve(serve::Serve),
    /// Ask a service, of Ginnel or of Netdata.
    Get(get::Get),
    /// Measure how fast a service answers.
    Ping(ping::Ping),
}

impl Netipc {
    pub(crate) fn run(self) -> ExitCode {
        let (json, outcome) = match self.action {
            Action::Serve(serve) => (false, serve.run()),
            Action::Get(get) => (get.json(), get.run()),
            Action::Ping(ping) => (ping.json(), ping.run()),
        };
        match outcome {
            Ok(code) => code,
            Err(End { trouble, code }) => {
                say(&trouble, json);
                code
            }
        }
    }
}

/// How a command ends that did not do what it was asked.
struct End {
    trouble: Trouble,
    code: ExitCode,
}

impl<T: Into<Trouble>> From<T> for End {
    fn from(trouble: T) -> Self {
        Self { trouble: trouble.into(), code: ExitCode::FAILURE }
    }
}

/// One line on standard error. That nobody may be there to read it is no reason to fail.
fn say(trouble: &Trouble, json: bool) {
    let _ = writeln!(std::io::stderr(), "{}", trouble.line(json));
}

/// Writes to standard output; false once nobody reads it any more, which is no error.
fn print(text: &str) -> Result<bool, String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}
