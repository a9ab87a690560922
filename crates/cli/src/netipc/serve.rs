//! `ginnel netipc serve`: this machine's cgroups and processes as a service.

use super::End;
use super::connection::{Connection, raise_on_signal};
use crate::outcome;
use clap::{Args, ValueEnum};
use ginnel_netipc::host::{Cgroups, Host};
use ginnel_netipc::{
    AppsLookup, CgroupsLookup, HostProvider, Lookup, SNAPSHOT_METHOD, lookup_handler, snapshot_handler,
};
use ginnel_service::{Server, ServerOptions};
use ginnel_session::{Abort, Endpoint, Wait};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long requests in progress may take after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(2);
/// Requests of up to 4,095 pids; even if all of them had nothing but minimal answers, those fit four times over.
const LOOKUP_REQUEST: u32 = 64 << 10;
const LOOKUP_RESPONSE: u32 = 1 << 20;

#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel netipc serve cgroups-snapshot --token-from-env
  ginnel netipc serve apps-lookup --run-dir /tmp/services --profile baseline
  NETDATA_INVOCATION_ID=f47ac10b-58cc-4372-a567-0e02b2c3d479 \\
      ginnel netipc serve cgroups-lookup --token-from-env NETDATA_INVOCATION_ID

Serves until Ctrl-C or SIGTERM, then lets requests in progress finish and removes its socket.")]
pub(crate) struct Serve {
    /// Which service.
    #[arg(value_enum)]
    service: Service,
    #[command(flatten)]
    connection: Connection,
    /// Look at the machine again when an answer would be older than this many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    max_age: u64,
    /// Root directory of the machine to describe: for containers that mount their host's files there.
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Service {
    /// All cgroups of this machine.
    CgroupsSnapshot,
    /// Cgroups by path.
    CgroupsLookup,
    /// Processes by pid.
    AppsLookup,
}

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, End> {
        // First, so that a signal during set-up is not lost and leaves nothing behind.
        let abort = Abort::new().map_err(|error| format!("cannot make an eventfd: {error}"))?;
        raise_on_signal(&abort)?;
        let cgroups = Cgroups::new(Host::at(&self.host_root), Duration::from_millis(self.max_age));
        let provider = HostProvider::new(Arc::new(cgroups));
        let server = self.start(provider)?;
        outcome::tell(format_args!("serving at {}", server.endpoint()));
        // The wait has no deadline: it ends by the signal.
        let _ = Wait::forever().or_abort(&abort).pause(Duration::from_secs(u32::MAX.into()));
        let drained = server.drain(DRAIN);
        if drained.cut_off > 0 {
            outcome::tell(format_args!("{} sessions did not finish in time and were cut off", drained.cut_off));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn start(&self, provider: HostProvider) -> Result<Server, String> {
        let mut options = ServerOptions::default();
        (options.session.supported, options.session.preferred) = self.connection.profiles();
        options.session.token = self.connection.token()?;
        options.session.allow_writable_dir = self.connection.allow_writable_dir;
        let started = match self.service {
            Service::CgroupsSnapshot => {
                let endpoint = self.connection.endpoint("cgroups-snapshot")?;
                let handler = snapshot_handler(move |out, limit| provider.snapshot(out, limit));
                Server::start(&endpoint, options, SNAPSHOT_METHOD, handler)
            }
            Service::CgroupsLookup => {
                let endpoint = self.lookup::<CgroupsLookup>(&mut options)?;
                let handler = lookup_handler(move |dispatch| provider.cgroups(dispatch));
                Server::start(&endpoint, options, CgroupsLookup::METHOD, handler)
            }
            Service::AppsLookup => {
                let endpoint = self.lookup::<AppsLookup>(&mut options)?;
                let handler = lookup_handler(move |dispatch| provider.apps(dispatch));
                Server::start(&endpoint, options, AppsLookup::METHOD, handler)
            }
        };
        started.map_err(|error| error.to_string())
    }

    fn lookup<L: Lookup>(&self, options: &mut ServerOptions) -> Result<Endpoint, String> {
        options.session.max_request_payload = LOOKUP_REQUEST;
        options.session.max_response_payload = LOOKUP_RESPONSE;
        self.connection.endpoint(L::SERVICE)
    }
}
