//! `ginnel netipc get`: asks a service, once or for as long as one likes to watch.

use super::ask::{Question, Service, advice};
use super::connection::{Connection, raise_on_signal};
use super::print;
use clap::Args;
use ginnel_session::{SessionError, Wait};
use std::ffi::OsString;
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel netipc get cgroups-snapshot --token-from-env
  ginnel netipc get apps-lookup 1 4242 --run-dir /tmp/services --json
  ginnel netipc get cgroups-lookup /system.slice/ssh.service
  ginnel netipc get cgroups-snapshot --watch --json | jq .generation

With --watch an answer is printed when it differs from the last one; a service that is absent, restarts or refuses
is waited for, and said to be so on standard error. With --json each answer is one line.")]
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
    /// Seconds that connecting and answering may take.
    #[arg(long, value_name = "S", default_value_t = 5)]
    timeout: u64,
}

impl Get {
    pub(crate) fn run(mut self) -> Result<(), String> {
        let keys = std::mem::take(&mut self.keys);
        let question = Question::new(self.service, keys, &self.connection, Duration::from_secs(self.timeout))?;
        raise_on_signal(&question.base().abort_handle())?;
        if self.watch { self.watch(question) } else { self.once(question) }
    }

    fn form(&self, shown: &super::render::Shown) -> String {
        if self.json { format!("{}\n", shown.json) } else { shown.text.clone() }
    }

    fn once(&self, mut question: Question) -> Result<(), String> {
        let state = question.refresh();
        if !state.is_ready() {
            return Err(advice(state, self.service, &self.connection));
        }
        let shown = question.show().map_err(|error| error.to_string())?;
        print(&self.form(&shown)).map(drop)
    }

    fn watch(&self, mut question: Question) -> Result<(), String> {
        let abort = question.base().abort_handle();
        let (mut last, mut complaint) = (None, String::new());
        loop {
            let state = question.refresh();
            let trouble = if state.is_ready() {
                match question.show() {
                    Ok(shown) if last.as_ref() == Some(&shown) => None,
                    Ok(shown) => {
                        if !print(&self.form(&shown))? {
                            return Ok(());
                        }
                        last = Some(shown);
                        None
                    }
                    Err(error) => Some(error.to_string()),
                }
            } else {
                Some(advice(state, self.service, &self.connection))
            };
            if abort.is_raised() {
                return Ok(());
            }
            match trouble {
                Some(trouble) if trouble != complaint => {
                    eprintln!("ginnel netipc: {trouble}");
                    complaint = trouble;
                }
                Some(_) => {}
                None => complaint.clear(),
            }
            match Wait::forever().or_abort(&abort).pause(Duration::from_millis(self.interval)) {
                Err(SessionError::Aborted) => return Ok(()),
                paused => paused.map_err(|error| error.to_string())?,
            }
        }
    }
}
