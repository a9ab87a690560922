//! `ginnel channel`: the channels of this machine from a shell.

use crate::outcome::conclude;
use clap::{Args, Subcommand, ValueEnum};
use ginnel::channel::Mode;
use std::path::PathBuf;
use std::process::ExitCode;

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
