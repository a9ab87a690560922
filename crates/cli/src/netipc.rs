//! `ginnel netipc serve|get|ping`: Netdata's services from a shell.

mod ask;
mod connection;
mod get;
mod ping;
mod render;
mod serve;

use clap::{Args, Subcommand};
use std::io::Write;
use std::process::ExitCode;

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
        let outcome = match self.action {
            Action::Serve(serve) => serve.run(),
            Action::Get(get) => get.run(),
            Action::Ping(ping) => ping.run(),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("ginnel netipc: {message}");
                ExitCode::FAILURE
            }
        }
    }
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
