//! `ginnel serve`: something of this machine as a service.

use crate::call::endpoint;
use crate::interrupt::Interrupt;
use crate::outcome::{Failure, complain, conclude};
use crate::procs::Processes;
use crate::quantity;
use clap::{Args, ValueEnum};
use ginnel_memory::RunDir;
use ginnel_service::{Server, ServerOptions};
use std::process::ExitCode;
use std::time::Duration;

/// How long requests in progress may take after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(2);

/// Serve something of this machine, until Ctrl-C.
#[derive(Args)]
#[command(after_help = "\
procs: the process table. Methods: list (a stream of processes), get (one, by its pid), snapshot (all at once).

Examples:
  ginnel serve procs &
  ginnel call procs                     its methods
  ginnel call procs get 1 --json
  ginnel call procs list --json | jq -r 'select(.state == \"R\") | .name'

Serves until Ctrl-C or SIGTERM, then lets requests in progress finish and removes its socket.

Exit codes: 0 ended by a signal, and drained, 1 it failed, 2 the command line is wrong")]
pub(crate) struct Serve {
    /// What to serve
    #[arg(value_enum)]
    what: What,
    /// Where: a path that ends in .sock or .stream.sock, tcp://ADDRESS, or a name in the runtime directory
    /// [default: the name of what is served]
    #[arg(long, value_name = "ENDPOINT")]
    at: Option<String>,
    /// Look at the machine again when an answer would be older than this
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, default_value = "1s")]
    max_age: Duration,
    /// Number that clients must know
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    token: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The process table of this machine
    Procs,
}

impl Serve {
    pub(crate) fn run(self) -> ExitCode {
        conclude(self.serve())
    }

    fn serve(self) -> Result<ExitCode, Failure> {
        // First, so that a signal during set-up is not lost and leaves nothing behind.
        let interrupt = Interrupt::watch()?;
        let What::Procs = self.what;
        let at = self.at.as_deref().unwrap_or("procs");
        if !at.contains('/') {
            RunDir::open()?;
        }
        let mut options = ServerOptions::default();
        options.session.token = self.token;
        // Fixed, because tables and command lines are long, and nobody is to be told to come again for that.
        (options.session.max_request_payload, options.session.max_response_payload) = (64 << 10, 64 << 20);
        let server = Server::serve(&endpoint(at)?, options, Processes::new(self.max_age).router())?;
        eprintln!("serving at {}", server.endpoint());
        while !interrupt.came() {
            // The signal makes it readable. Nothing else ends this wait.
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(interrupt.wake(), rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, None);
        }
        let drained = server.drain(DRAIN);
        if drained.cut_off > 0 {
            complain(format_args!("{} sessions did not finish in time and were cut off", drained.cut_off));
        }
        Ok(ExitCode::SUCCESS)
    }
}
