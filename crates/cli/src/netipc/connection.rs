//! What all `netipc` commands must know to find a service: where, with which token, over what.

use crate::interrupt;
use clap::{Args, ValueEnum};
use ginnel_session::{Abort, Endpoint, token_from_invocation_id};
use ginnel_wire::Profiles;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where Netdata's plugins meet.
const RUN_DIR: &str = "/run/netdata";

#[derive(Args)]
pub(crate) struct Connection {
    /// Directory of the services' sockets.
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// Accept a directory that its group or others may write to, and so put their own sockets into.
    #[arg(long)]
    pub(crate) allow_writable_dir: bool,
    /// Name of the socket, where it is not the service's own.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Auth token: a number, decimal or 0x….
    #[arg(long, value_name = "TOKEN", value_parser = parse_token, conflicts_with = "token_from_env")]
    token: Option<u64>,
    /// Derive the auth token from the invocation id in this environment variable, as Netdata does.
    #[arg(long, value_name = "VARIABLE", num_args = 0..=1, default_missing_value = "NETDATA_INVOCATION_ID")]
    token_from_env: Option<String>,
    /// What carries the messages.
    #[arg(long, value_enum, default_value_t = Profile::Auto)]
    profile: Profile,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    /// Shared memory where both sides can, else the socket.
    Auto,
    /// The socket alone.
    Baseline,
    /// Shared memory or nothing (profile 0x02).
    Shm,
    /// Shared memory or nothing, by its other number (profile 0x04).
    ShmFutex,
}

impl Connection {
    pub(crate) fn endpoint(&self, service: &str) -> Result<Endpoint, String> {
        let name = self.name.as_deref().unwrap_or(service);
        Endpoint::seqpacket(&self.run_dir, name).map_err(|error| error.to_string())
    }

    pub(crate) fn token(&self) -> Result<u64, String> {
        let Some(variable) = &self.token_from_env else { return Ok(self.token.unwrap_or(0)) };
        let id = std::env::var(variable)
            .map_err(|_| format!("the environment has no {variable}: export it, or give --token"))?;
        token_from_invocation_id(&id).map_err(|error| format!("{variable}: {error}"))
    }

    /// Supported and preferred profiles.
    pub(crate) fn profiles(&self) -> (Profiles, Profiles) {
        let all = Profiles(Profiles::BASELINE.0 | Profiles::SHM_HYBRID.0 | Profiles::SHM_FUTEX.0);
        match self.profile {
            Profile::Auto => (all, Profiles::SHM_HYBRID),
            Profile::Baseline => (Profiles::BASELINE, Profiles::BASELINE),
            Profile::Shm => (Profiles::SHM_HYBRID, Profiles::SHM_HYBRID),
            Profile::ShmFutex => (Profiles::SHM_FUTEX, Profiles::SHM_FUTEX),
        }
    }
}

/// The profile as the command line spells it.
pub(crate) fn profile_name(profile: Profiles) -> String {
    match profile {
        Profiles::BASELINE => "baseline".into(),
        Profiles::SHM_HYBRID => "shm".into(),
        Profiles::SHM_FUTEX => "shm-futex".into(),
        other => other.to_string(),
    }
}

fn parse_token(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("a token is a 64-bit number such as 12345 or 0xDEADBEEF ({error})"))
}

/// What may end a command before it is done: Ctrl-C, SIGTERM, a standard output that nobody reads any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    signal: Arc<AtomicU8>,
}

impl Ended {
    /// The exit code of a command that a signal ended: 128 and its number, as shells have it.
    pub(crate) fn code(&self) -> Option<ExitCode> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| ExitCode::from(128 + signal))
    }
}

/// Lets Ctrl-C and SIGTERM raise `abort`: the library's waits end at once, and what was opened is cleaned up on the way
/// out.
pub(crate) fn raise_on_signal(abort: &Abort) -> Result<Ended, String> {
    let fail = |error: std::io::Error| format!("cannot watch for Ctrl-C: {error}");
    let mut signals = interrupt::signals(&[SIGINT, SIGTERM]).map_err(fail)?;
    let (raised, ended) = (abort.clone(), Ended::default());
    let of_thread = ended.clone();
    let wait = move || {
        for signal in signals.forever() {
            of_thread.signal.store(signal as u8, Ordering::Relaxed);
            raised.raise();
        }
    };
    ginnel_base::thread::spawn("signals", wait).map_err(fail)?;
    Ok(ended)
}

/// Raises `abort` once nobody reads standard output any more, also while there is nothing to write.
pub(crate) fn raise_when_unread(abort: &Abort) -> Result<(), String> {
    let abort = abort.clone();
    let wait = move || {
        let out = rustix::stdio::stdout();
        loop {
            // No events are asked for: an error and a hang-up come unasked.
            let mut fds = [PollFd::new(&out, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return abort.raise(),
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    };
    ginnel_base::thread::spawn("stdout", wait)
        .map(drop)
        .map_err(|error| format!("cannot watch standard output: {error}"))
}
