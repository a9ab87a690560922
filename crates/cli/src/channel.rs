//! `ginnel channel`: the channels of this machine from a shell.

use crate::outcome::conclude;
use clap::{Args, Subcommand, ValueEnum};
use ginnel::channel::Mode;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod framing;
mod inspect;
mod publish;
mod subscribe;

/// Arguments of `ginnel channel`.
#[derive(Args)]
pub(crate) struct Channel {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Publish what comes from standard input, one record a line.
    Pub(publish::Publish),
    /// Write a channel's records to standard output.
    Sub(subscribe::Subscribe),
    /// List the channels.
    Ls(inspect::List),
    /// Show one channel: mode, capacity, writer, readers, positions, lag, rate.
    Stat(inspect::Stat),
    /// Remove what dead writers left behind, and nothing else.
    Clean(inspect::Clean),
}

/// Where channels live.
#[derive(Args)]
struct Place {
    /// The runtime directory [default: $GINNEL_RUN_DIR, else $XDG_RUNTIME_DIR/ginnel, else one of this user's own]
    #[arg(long, value_name = "DIR", global = true)]
    run_dir: Option<PathBuf>,
}

impl Channel {
    pub(crate) fn run(self) -> ExitCode {
        conclude(match self.action {
            Action::Pub(publish) => publish.run(),
            Action::Sub(subscribe) => subscribe.run(),
            Action::Ls(list) => list.run(),
            Action::Stat(stat) => stat.run(),
            Action::Clean(clean) => clean.run(),
        })
    }
}

/// [`Mode`], as the command line and JSON spell it.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// The oldest records are overwritten; a reader that misses some is told how many.
    Lossy,
    /// The writer waits for the slowest reader; nothing is lost.
    Lossless,
    /// Only the newest record counts.
    Latest,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Lossy => Self::Lossy,
            ModeName::Lossless => Self::Lossless,
            ModeName::Latest => Self::Latest,
        }
    }
}

/// Parses a number of seconds such as `2` or `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text} seconds are no possible duration"))
}

/// Parses a number of bytes such as `65536`, `64K`, `4M` or `1G` (powers of 1024).
fn size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: usize = digits.parse().map_err(|_| format!("{text:?} is no size: use bytes, or 64K, 4M, 1G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than this machine can address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_suffixes() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64K"), Ok(64 << 10));
        assert_eq!(size("4m"), Ok(4 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        for wrong in ["", "K", "4X", "-1", "4 M", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "-1", "inf", "NaN", "1e300", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
