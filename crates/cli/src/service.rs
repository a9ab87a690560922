//! `ginnel service`: the servers and clients of this user, seen from outside.

use crate::outcome::{Failure, conclude, say};
use clap::{Args, Subcommand};
use ginnel_service::introspect::{Introspection, Listed};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod json;
pub(crate) mod row;
pub(crate) mod table;

use row::{Row, Sample};

/// Over how long `stat` measures rates: ten times what an endpoint waits between two publications.
const GLANCE: Duration = Duration::from_secs(1);

/// Arguments of `ginnel service`.
#[derive(Args)]
pub(crate) struct Service {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the servers and clients that run, and what they have done since they began.
    Ls(List),
    /// Show one: sessions, requests, failures, bytes, rates over a second, how long its handlers take.
    Stat(Stat),
}

/// Where endpoints tell about themselves.
#[derive(Args, Clone)]
pub(crate) struct Place {
    /// The runtime directory [default: $GINNEL_RUN_DIR, else $XDG_RUNTIME_DIR/ginnel, else one of this user's own]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) run_dir: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "\
STATE is alive, drain (it takes no more connections), dead (its process is), or ? (this user may not ask).
What dead ones left is removed by the next server that begins, and by `ginnel channel clean`.

Examples:
  ginnel service ls
  ginnel service ls --json | jq -r '.[] | select(.alive) | .service'

Exit codes: 0 done (also without any endpoint), 1 it failed, 2 the command line is wrong")]
struct List {
    /// Print one JSON array: times in nanoseconds (_ns), sizes in bytes (_bytes)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel service stat cgroups-lookup
  ginnel service stat ginnel.service.4711.0 --json | jq .latency.p99_ns

Exit codes: 0 done, 1 there is no such endpoint, there are several, or it failed, 2 the command line is wrong")]
struct Stat {
    /// The service's name, or its endpoint, or the NAME that `ls --json` shows
    name: String,
    /// Print one JSON object: times in nanoseconds (_ns), sizes in bytes (_bytes), rates per second
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Service {
    pub(crate) fn run(self) -> ExitCode {
        conclude(match self.action {
            Action::Ls(list) => list.run(),
            Action::Stat(stat) => stat.run(),
        })
    }
}

impl List {
    fn run(self) -> Result<ExitCode, Failure> {
        let listed = Introspection::list(self.place.run_dir.as_deref())?;
        if self.json {
            say(serde_json::to_string(&listed.iter().map(json::endpoint).collect::<Vec<_>>())?)?;
        } else if listed.is_empty() {
            say("no server or client of this user tells about itself")?;
        } else {
            let mut rows: Vec<Row> = listed.iter().map(|listed| Row::new(listed, None)).collect();
            rows.sort_by(|a, b| (&a.service, a.side, a.pid, &a.name).cmp(&(&b.service, b.side, b.pid, &b.name)));
            say(table::lines(table::TOTALS, &rows, None).join("\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Stat {
    fn run(self) -> Result<ExitCode, Failure> {
        let dir = self.place.run_dir.as_deref();
        let name = self.choose(dir)?;
        let look = || Introspection::find(dir, &name).map(|found| Sample::new(found.into_iter().collect()));
        let before = look()?;
        // Of what does not live there is nothing to wait for.
        if before.listed.first().is_some_and(|listed| listed.alive != Some(false) && listed.told.is_ok()) {
            std::thread::sleep(GLANCE);
        }
        let after = look()?;
        let Some(listed) = after.listed.first() else { return Err(self.absent()) };
        let row = Row::new(listed, Some((&before, &after)));
        if let Err(error) = &listed.told {
            return Err(Failure::new(format!("{name} cannot be shown: {error}")));
        }
        say(if self.json { json::with_rate(listed, &row).to_string() } else { table::page(listed, &row) })?;
        Ok(ExitCode::SUCCESS)
    }

    /// The one endpoint that is meant.
    fn choose(&self, dir: Option<&Path>) -> Result<String, Failure> {
        let all = Introspection::list(dir)?;
        let is_meant = |listed: &&Listed| match &listed.told {
            _ if listed.name == self.name => true,
            Ok(told) => told.service == self.name || told.endpoint == self.name,
            Err(_) => false,
        };
        let meant: Vec<&Listed> = all.iter().filter(is_meant).collect();
        let alive: Vec<&Listed> = meant.iter().copied().filter(|listed| listed.alive != Some(false)).collect();
        match (&meant[..], &alive[..]) {
            ([one], _) | (_, [one]) => Ok(one.name.clone()),
            ([], _) => Err(self.absent()),
            _ => {
                let names: Vec<&str> = meant.iter().map(|listed| listed.name.as_str()).collect();
                Err(Failure::new(format!("{:?} is several endpoints: give one of {}", self.name, names.join(", "))))
            }
        }
    }

    fn absent(&self) -> Failure {
        Failure::new(format!("there is no endpoint {:?}: see `ginnel service ls`", self.name))
    }
}
