//! `ginnel netipc get`: asks a service, once or for as long as one likes to watch.

use super::ask::{Question, Service};
use super::connection::{Connection, Ended, raise_on_signal, raise_when_unread};
use super::trouble::Trouble;
use super::{End, print, say};
use crate::quantity;
use clap::Args;
use ginnel_session::{SessionError, Wait};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel netipc get cgroups-snapshot --token-from-env
  ginnel netipc get apps-lookup 1 4242 --run-dir /tmp/services --json
  ginnel netipc get cgroups-lookup /system.slice/ssh.service
  ginnel netipc get cgroups-snapshot --watch --json | jq .generation

With --watch an answer is printed when it differs from the last one; a service that is absent, restarts or refuses
is waited for, and said to be so on standard error. With --json each answer is one line, and so is each error on standard
error: {\"error\":{\"kind\":…,\"message\":…}}.

Exit codes:
  0    done, or the reader of standard output went away
  1    no answer
  2    the command line is wrong
  130  Ctrl-C (143: SIGTERM)")]
pub(crate) struct Get {
    /// Which service.
    #[arg(value_enum)]
    service: Service,
    /// What to ask for: paths, pids, a number or a text.
    keys: Vec<OsString>,
    #[command(flatten)]
    connection: Connection,
    /// Ask again and again until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Milliseconds between two questions of --watch.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    interval: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How long connecting and answering may take: 500ms, 5s, 1m; a bare number is seconds.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = quantity::duration)]
    timeout: Duration,
}

impl Get {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    pub(super) fn run(mut self) -> Result<ExitCode, End> {
        let keys = std::mem::take(&mut self.keys);
        let question = Question::new(self.service, keys, &self.connection, self.timeout)?;
        let abort = question.base().abort_handle();
        let ended = raise_on_signal(&abort)?;
        if self.watch {
            raise_when_unread(&abort)?;
            self.watch(question, &ended)
        } else {
            self.once(question).map_err(|trouble| match ended.code() {
                Some(code) => End { trouble: Trouble::interrupted(), code },
                None => trouble.into(),
            })
        }
    }

    fn form(&self, shown: &super::render::Shown) -> String {
        if self.json { format!("{}\n", shown.json) } else { shown.text.clone() }
    }

    fn once(&self, mut question: Question) -> Result<ExitCode, Trouble> {
        if !question.refresh().is_ready() {
            return Err(Trouble::not_ready(&question, self.service, &self.connection));
        }
        let shown = question.show()?;
        print(&self.form(&shown))?;
        Ok(ExitCode::SUCCESS)
    }

    fn watch(&self, mut question: Question, ended: &Ended) -> Result<ExitCode, End> {
        let abort = question.base().abort_handle();
        let over = || Ok(ended.code().unwrap_or(ExitCode::SUCCESS));
        let (mut last, mut complaint) = (None, None);
        loop {
            let trouble = if question.refresh().is_ready() {
                match question.show() {
                    Ok(shown) if last.as_ref() == Some(&shown) => None,
                    Ok(shown) => {
                        if !print(&self.form(&shown))? {
                            return Ok(ExitCode::SUCCESS);
                        }
                        last = Some(shown);
                        None
                    }
                    Err(error) => Some(error.into()),
                }
            } else {
                Some(Trouble::not_ready(&question, self.service, &self.connection))
            };
            if abort.is_raised() {
                return over();
            }
            if trouble != complaint {
                complaint = trouble;
                complaint.iter().for_each(|trouble| say(trouble, self.json));
            }
            match Wait::forever().or_abort(&abort).pause(Duration::from_millis(self.interval)) {
                Err(SessionError::Aborted) => return over(),
                paused => paused.map_err(|error| error.to_string())?,
            }
        }
    }
}
