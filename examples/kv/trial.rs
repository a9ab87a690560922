//! The store put to the test: a server in another process, and many threads that use it at once.

use crate::interface::{COMMIT, FORK, FORKS, Fork, GET, Get, NO_SUCH_FORK, SCAN, Scan, View, WRITE, Write};
use ginnel::service::{CallError, CallOptions, Client, ClientOptions};
use ginnel::session::Endpoint;
use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WORKERS: usize = 8;
const ROUNDS: usize = 200;
const KEYS: usize = 10_000;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut server =
        Command::new(std::env::current_exe()?).arg(dir.path()).arg("serve").stdin(Stdio::piped()).spawn()?;
    let endpoint = Endpoint::seqpacket(dir.path(), "kv")?;
    let outcome = Client::new(&endpoint, ClientOptions::default()).map_err(Into::into).and_then(|client| {
        // The server may not be there yet.
        client.connect_with(&CallOptions::at_most(Duration::from_secs(30)).wait_for_server())?;
        trial(&client)
    });
    end(&mut server)?;
    outcome.map_err(|error: Box<dyn Error + Send + Sync>| error as Box<dyn Error>)
}

/// Closes the server's standard input, which ends it.
fn end(server: &mut Child) -> Result<(), Box<dyn Error>> {
    drop(server.stdin.take());
    let status = server.wait()?;
    if status.success() { Ok(()) } else { Err(format!("the server ended with {status}").into()) }
}

fn trial(client: &Client) -> Outcome<()> {
    views(client)?;
    forks(client)?;
    workers(client)?;
    scans(client)
}

fn get(client: &Client, fork: &str, view: View, key: &str) -> Result<Option<String>, CallError> {
    client.call(GET, &Get { fork: fork.into(), view, key: key.into() })
}

fn put(client: &Client, fork: &str, key: &str, value: &str) -> Result<u64, CallError> {
    client.call(WRITE, &Write { fork: fork.into(), changes: vec![(key.into(), Some(value.into()))] })
}

/// A change is seen at once, and becomes part of the committed state by a commit.
fn views(client: &Client) -> Outcome<()> {
    put(client, "main", "apple", "green")?;
    client.call(COMMIT, &"main".to_owned())?;
    put(client, "main", "apple", "red")?;
    let both = |client| -> Outcome<_> {
        Ok((get(client, "main", View::Committed, "apple")?, get(client, "main", View::Uncommitted, "apple")?))
    };
    assert_eq!(both(client)?, (Some("green".into()), Some("red".into())));
    assert_eq!(client.call(COMMIT, &"main".to_owned())?, 2);
    assert_eq!(both(client)?, (Some("red".into()), Some("red".into())));
    println!("committed and uncommitted state are told apart");
    Ok(())
}

/// A fork goes its own way, and what is asked of one that is not there is an error with a code.
fn forks(client: &Client) -> Outcome<()> {
    client.call(FORK, &Fork { from: "main".into(), name: "draft".into() })?;
    put(client, "draft", "apple", "blue")?;
    assert_eq!(get(client, "main", View::Uncommitted, "apple")?.as_deref(), Some("red"));
    assert_eq!(client.call(FORKS, &())?, ["draft", "main"]);
    match put(client, "elsewhere", "apple", "blue") {
        Err(CallError::Application { code: NO_SUCH_FORK, message, .. }) => println!("refused: {message}"),
        other => return Err(format!("a fork that is not there answered {other:?}").into()),
    }
    Ok(())
}

/// Many threads over one connection: each sees its own writes, although nothing waits for anything but its key.
fn workers(client: &Client) -> Outcome<()> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(client, worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a worker panicked".into())))
    })?;
    let calls = WORKERS * ROUNDS * 3;
    println!("{WORKERS} workers made {calls} calls over one connection in {:.1?}", begun.elapsed());
    Ok(())
}

fn work(client: &Client, worker: usize) -> Outcome<()> {
    let fork = format!("worker-{worker}");
    client.call(FORK, &Fork { from: "main".into(), name: fork.clone() })?;
    for round in 0..ROUNDS {
        let value = format!("{worker}/{round}");
        put(client, &fork, "own", &value)?;
        put(client, "main", &format!("shared-{worker}"), &value)?;
        let seen = get(client, &fork, View::Uncommitted, "own")?;
        if seen.as_deref() != Some(&value) {
            return Err(format!("worker {worker} wrote {value} and read {seen:?}").into());
        }
    }
    Ok(())
}

/// A scan is a stream in the order of the keys, and one that is left early does no harm.
fn scans(client: &Client) -> Outcome<()> {
    let changes = (0..KEYS).map(|key| (format!("key-{key:06}"), Some(key.to_string()))).collect();
    let options = CallOptions::default();
    assert_eq!(client.call(WRITE, &Write { fork: "draft".into(), changes })?, KEYS as u64);
    let scan = |from: &str, to: Option<&str>| Scan {
        fork: "draft".into(),
        view: View::Uncommitted,
        from: from.into(),
        to: to.map(str::to_owned),
    };
    let mut expected = 0;
    for item in client.stream(SCAN, &scan("key-", None), &options)? {
        let (key, value) = item?;
        assert_eq!((key, value), (format!("key-{expected:06}"), expected.to_string()));
        expected += 1;
    }
    assert_eq!(expected, KEYS);
    let few: Vec<_> = client.stream(SCAN, &scan("key-", None), &options)?.take(3).collect::<Result<_, _>>()?;
    assert_eq!(few.len(), 3);
    let range = client.stream(SCAN, &scan("key-000100", Some("key-000200")), &options)?.count();
    println!("scanned {expected} keys in order, then {range} of a range");
    assert_eq!(range, 100);
    Ok(())
}
