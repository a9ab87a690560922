//! The second half of the demo: this process serves, the other one calls, over rings of shared memory where it can.

use crate::outcome::{Failure, say};
use ginnel::process::{Command, Stdio};
use ginnel_service::{
    CallOptions, Client, ClientOptions, Failure as Refusal, Interface, Introspect, Request, Router, Server,
    ServerOptions,
};
use ginnel_session::Endpoint;
use ginnel_wire::Profiles;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SERVICE: &str = "demo";
/// Squares a number.
const SQUARE: u16 = 1;

/// What the other process says of its calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Calls {
    pub(super) calls: u64,
    /// Answers that were not the right ones.
    pub(super) wrong: u64,
    pub(super) seconds: f64,
    pub(super) carrier: String,
    /// Round trips, nanoseconds.
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
}

/// A directory of this user alone, which goes with it.
struct Private(PathBuf);

impl Private {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("ginnel-demo-{:016x}", ginnel_base::random_u64()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::new(format!("cannot make {} for the socket: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves another process for so long, and gives what it says.
pub(super) fn serve(limit: Duration) -> Result<Calls, Failure> {
    let dir = Private::new()?;
    let square = |request: &Request<'_>, response: &mut Vec<u8>| {
        let number = u64::from_le_bytes(request.payload.try_into().map_err(|_| Refusal::Malformed)?);
        response.extend(number.wrapping_mul(number).to_le_bytes());
        Ok(())
    };
    let router = Router::new(Interface::named(SERVICE)).handler(SQUARE, "square", square);
    let options = ServerOptions { introspect: Introspect::Off, ..ServerOptions::default() };
    let server = Server::serve(&Endpoint::seqpacket(&dir.0, SERVICE)?, options, router)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("demo-child").arg("--call").arg(&dir.0).arg("--millis").arg(limit.as_millis().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| Failure::new(format!("cannot start the caller: {error}")))?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said)?;
    }
    let report = child.wait()?;
    server.stop();
    serde_json::from_str(&said).map_err(|_| Failure::new(format!("the calling process said nothing: {}", report.cause)))
}

/// Calls for so long, one call after the other, and says how that went.
pub(super) fn call(dir: &Path, limit: Duration) -> Result<ExitCode, Failure> {
    let options = ClientOptions { introspect: Introspect::Off, ..ClientOptions::default() };
    let client = Client::new(&Endpoint::seqpacket(dir, SERVICE)?, options)?;
    client.connect_with(&CallOptions::default().wait_for_server())?;
    let ring = client.agreement().is_some_and(|agreement| agreement.profile == Profiles::RING);
    let mut trips = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let (mut calls, mut wrong) = (0_u64, 0);
    let started = Instant::now();
    while started.elapsed() < limit || calls == 0 {
        let sent = Instant::now();
        let answer = client.call(SQUARE, &calls.to_le_bytes())?;
        trips.saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1));
        wrong += u64::from(*answer != calls.wrapping_mul(calls).to_le_bytes());
        calls += 1;
    }
    let report = Calls {
        calls,
        wrong,
        seconds: started.elapsed().as_secs_f64(),
        carrier: if ring { "rings of shared memory" } else { "a socket" }.to_owned(),
        p50_ns: trips.value_at_quantile(0.5),
        p99_ns: trips.value_at_quantile(0.99),
    };
    say(serde_json::to_string(&report)?)?;
    Ok(ExitCode::SUCCESS)
}
