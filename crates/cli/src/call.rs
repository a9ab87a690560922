//! `ginnel call`: one call of any service.

use crate::outcome::{Failure, conclude, say};
use crate::quantity;
use clap::Args;
use ginnel_memory::RunDir;
use ginnel_service::introspect::Introspection;
use ginnel_service::{CallError, CallOptions, Client, ClientOptions, Introspect};
use ginnel_session::Endpoint;
use ginnel_wire::{MethodHash, Reply};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod known;

use known::Known;

/// Call a method of a service, or list its methods.
#[derive(Args)]
#[command(after_help = "\
Without METHOD the methods are listed: number, form (one answer, a stream, none), hash of their types, and the name
where this command knows them. Names do not travel: other methods are called by their numbers.

Payload and answer are bytes as they are. Each item of a stream is followed by a line end. With --json they are
converted, for methods that this command knows; a stream is one JSON value a line.

Examples:
  ginnel call procs
  ginnel call procs get 1 --json
  ginnel call /run/app/shout.sock 7 hello
  tar c . | ginnel call tcp://127.0.0.1:7000 2 - --token 42 --deadline 5m

Exit codes: 0 done, 1 it failed or the service said no, 2 the command line is wrong")]
pub(crate) struct Call {
    /// A path that ends in .sock or .stream.sock, tcp://ADDRESS, or the name of a service in the runtime directory or
    /// in `ginnel service ls`
    endpoint: String,
    /// Its number, or its name where this command knows it
    method: Option<String>,
    /// The request; - reads standard input [default: nothing]
    #[arg(conflicts_with = "file")]
    payload: Option<String>,
    /// Read the request from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Give the request and print the answer as JSON, where this command knows the method
    #[arg(long)]
    json: bool,
    /// How long it may take, from connecting to the end of the answer
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, default_value = "30s")]
    deadline: Duration,
    /// The method has no answer: end when the request is out
    #[arg(long, conflicts_with = "stream")]
    one_way: bool,
    /// The method answers with a stream
    #[arg(long)]
    stream: bool,
    /// Wait for a service that is not there yet
    #[arg(long)]
    wait: bool,
    /// Number that the service asks for
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    token: u64,
}

impl Call {
    pub(crate) fn run(self) -> ExitCode {
        conclude(self.call())
    }

    fn call(self) -> Result<ExitCode, Failure> {
        let endpoint = endpoint(&self.endpoint)?;
        // It is over before anybody could look.
        let mut options =
            ClientOptions { introspect: Introspect::Off, call_timeout: self.deadline, ..ClientOptions::default() };
        options.session.token = self.token;
        let client = Client::new(&endpoint, options)?;
        let mut options = CallOptions::at_most(self.deadline);
        if self.wait {
            options = options.wait_for_server();
        }
        client.connect_with(&options)?;
        // Of layout 1, or without METHODS: nothing is known of its methods.
        let methods = match client.methods(&options) {
            Ok(methods) => Some(methods),
            Err(CallError::Unsupported { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        match &self.method {
            Some(method) => self.call_method(&client, &options, method, methods.as_deref()),
            None => self.list(methods.as_deref()),
        }
    }

    fn list(&self, methods: Option<&[MethodHash]>) -> Result<ExitCode, Failure> {
        let Some(methods) = methods else {
            return Err(Failure::new("the service does not tell its methods: call one by its number"));
        };
        if self.json {
            let shown = methods.iter().map(|method| {
                let name = Known::of(method).map(Known::name);
                let hash = format!("{:016x}", method.hash);
                serde_json::json!({ "method": method.method, "name": name, "form": form(method.reply), "hash": hash })
            });
            say(serde_json::Value::from_iter(shown))?;
            return Ok(ExitCode::SUCCESS);
        }
        say(format_args!("{:>6}  {:6}  {:16}  NAME", "METHOD", "FORM", "HASH"))?;
        for method in methods {
            let name = Known::of(method).map_or("", Known::name);
            let line = format!("{:>6}  {:6}  {:016x}  {name}", method.method, form(method.reply), method.hash);
            say(line.trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn call_method(
        &self,
        client: &Client,
        options: &CallOptions,
        method: &str,
        methods: Option<&[MethodHash]>,
    ) -> Result<ExitCode, Failure> {
        let told = methods.unwrap_or_default();
        let found = match method.parse::<u16>() {
            Ok(number) => told.iter().find(|told| told.method == number),
            Err(_) => told.iter().find(|told| Known::of(told).is_some_and(|known| known.name() == method)),
        };
        let number = match (method.parse::<u16>(), found) {
            (_, Some(found)) => found.method,
            (Ok(number), None) if methods.is_none() => number,
            _ => {
                return Err(Failure::new(format!(
                    "the service has no method {method:?} that this command knows: `ginnel call {}` lists its methods",
                    self.endpoint
                )));
            }
        };
        let known = found.and_then(Known::of);
        if self.json && known.is_none() {
            return Err(Failure::new(format!(
                "the types of method {method} are not known here, so it has no JSON: leave --json out"
            )));
        }
        let mut payload = self.payload()?;
        if self.json
            && let Some(known) = known
        {
            payload = known.encode(&payload).map_err(|error| Failure::new(format!("the request: {error}")))?;
        }
        // What the service says of its method; the command line where it says nothing.
        let reply = found.map_or(Reply::One, |found| found.reply);
        if self.one_way || reply == Reply::None {
            client.send(number, &payload, options)?;
        } else if self.stream || reply == Reply::Stream {
            for item in client.stream(number, &payload, options)? {
                if !self.show(known, &item?, true)? {
                    break;
                }
            }
        } else {
            self.show(known, &client.call_with(number, &payload, options)?, false)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn payload(&self) -> Result<Vec<u8>, Failure> {
        match (&self.payload, &self.file) {
            (Some(dash), _) if dash == "-" => {
                let mut payload = Vec::new();
                std::io::stdin().lock().read_to_end(&mut payload)?;
                Ok(payload)
            }
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(file)) => {
                std::fs::read(file).map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Prints an answer; whether somebody reads it.
    fn show(&self, known: Option<Known>, answer: &[u8], item: bool) -> Result<bool, Failure> {
        if self.json
            && let Some(known) = known
        {
            return say(known.decode(answer).map_err(|error| Failure::new(format!("the answer: {error}")))?);
        }
        let mut out = std::io::stdout().lock();
        let end: &[u8] = if item { b"\n" } else { b"" };
        match out.write_all(answer).and_then(|()| out.write_all(end)).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
            Ok(()) => Ok(true),
        }
    }
}

fn form(reply: Reply) -> &'static str {
    match reply {
        Reply::One => "one",
        Reply::Stream => "stream",
        Reply::None => "none",
    }
}

/// The endpoint that the command line means.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, Failure> {
    if let Some(address) = text.strip_prefix("tcp://") {
        let address = address.parse().map_err(|error| Failure::new(format!("{text} is no TCP address: {error}")))?;
        return Ok(Endpoint::tcp_beyond_loopback(address));
    }
    if text.contains('/') {
        return by_path(Path::new(text));
    }
    let here = Endpoint::seqpacket(RunDir::user_path(), text)?;
    if here.path().is_some_and(Path::exists) {
        return Ok(here);
    }
    // One that serves elsewhere, and tells about itself.
    let listed = Introspection::list(None).unwrap_or_default();
    let is_meant = |told: &Introspection| told.service == text && told.side == ginnel_service::introspect::Side::Server;
    let alive = listed.into_iter().filter(|listed| listed.alive != Some(false)).filter_map(|listed| listed.told.ok());
    let found: Vec<String> = alive.filter(is_meant).map(|told| told.endpoint).collect();
    match &found[..] {
        [one] if one.contains('/') => endpoint(one),
        [] | [_] => Ok(here),
        several => Err(Failure::new(format!("several services are called {text}: give one of {}", several.join(", ")))),
    }
}

fn by_path(path: &Path) -> Result<Endpoint, Failure> {
    let wrong = || Failure::new(format!("{} is no endpoint: its path ends in .sock or .stream.sock", path.display()));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(wrong)?;
    let dir = path.parent().ok_or_else(wrong)?;
    if let Some(service) = name.strip_suffix(".stream.sock") {
        return Ok(Endpoint::stream(dir, service)?);
    }
    Ok(Endpoint::seqpacket(dir, name.strip_suffix(".sock").ok_or_else(wrong)?)?)
}
