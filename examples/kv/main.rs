//! An ordered store with named forks, as a service: concurrent reads, exclusive writes for each fork, by the scheduler.
//!
//! Run it alone, which starts a server in another process and puts it to the test:
//!
//! ```text
//! cargo run -p ginnel --example kv
//! ```
//!
//! or by hand (`DIR` is any directory of your own; the server ends with its standard input):
//!
//! ```text
//! cargo run -p ginnel --example kv -- DIR serve
//! cargo run -p ginnel --example kv -- DIR put main apple red
//! cargo run -p ginnel --example kv -- DIR get main apple [--committed]
//! cargo run -p ginnel --example kv -- DIR scan main [--committed]
//! cargo run -p ginnel --example kv -- DIR delete main apple
//! cargo run -p ginnel --example kv -- DIR commit main
//! cargo run -p ginnel --example kv -- DIR fork main other
//! cargo run -p ginnel --example kv -- DIR forks
//! ```

mod interface;
mod server;
mod store;
mod trial;

use ginnel::service::{CallOptions, Client, ClientOptions, Server, ServerOptions};
use ginnel::session::Endpoint;
use interface::{COMMIT, FORK, FORKS, Fork, GET, Get, SCAN, Scan, View, WRITE, Write};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((dir, command)) = args.split_first() else { return trial::run() };
    let endpoint = Endpoint::seqpacket(Path::new(dir), "kv")?;
    if let ["serve"] = command {
        return serve(&endpoint);
    }
    ask(&Client::new(&endpoint, ClientOptions::default())?, command)
}

fn serve(endpoint: &Endpoint) -> Result<(), Box<dyn Error>> {
    let server = Server::serve(endpoint, ServerOptions::default(), server::router())?;
    println!("serving at {endpoint}");
    // Until whoever started it ends, or says so.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    let drained = server.drain(Duration::from_secs(5));
    println!("stopped; {} sessions cut off", drained.cut_off);
    Ok(())
}

fn ask(client: &Client, command: &[&str]) -> Result<(), Box<dyn Error>> {
    let (view, command) = match command.split_last() {
        Some((&"--committed", rest)) => (View::Committed, rest),
        _ => (View::Uncommitted, command),
    };
    match *command {
        ["get", fork, key] => match client.call(GET, &Get { fork: fork.into(), view, key: key.into() })? {
            Some(value) => println!("{value}"),
            None => return Err(format!("{fork} has no {key:?}").into()),
        },
        ["put", fork, key, value] => {
            client.call(WRITE, &Write { fork: fork.into(), changes: vec![(key.into(), Some(value.into()))] })?;
        }
        ["delete", fork, key] => {
            client.call(WRITE, &Write { fork: fork.into(), changes: vec![(key.into(), None)] })?;
        }
        ["commit", fork] => println!("commit {}", client.call(COMMIT, &fork.to_owned())?),
        ["fork", from, name] => client.call(FORK, &Fork { from: from.into(), name: name.into() })?,
        ["forks"] => client.call(FORKS, &())?.iter().for_each(|name| println!("{name}")),
        ["scan", fork] => {
            let scan = Scan { fork: fork.into(), view, from: String::new(), to: None };
            for item in client.stream(SCAN, &scan, &CallOptions::default())? {
                let (key, value) = item?;
                println!("{key} {value}");
            }
        }
        _ => return Err("the commands stand at the top of examples/kv/main.rs".into()),
    }
    Ok(())
}
