//! No thread of ours takes a signal of the program.

use ginnel::channel::{Aggregator, MergedReader, Reader, Writer};
use ginnel::process::Command;
use ginnel_netipc::host::{Cgroups, Host};
use ginnel_netipc::{AppsLookup, HostProvider, Lookup, ServiceClient, lookup_handler};
use ginnel_service::{BaselineOptions, Server, ServerOptions};
use ginnel_session::Endpoint;
use ginnel_wire::Profiles;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Name and blocked signals of each thread of this process.
fn threads() -> BTreeMap<String, (String, u64)> {
    let entries = std::fs::read_dir("/proc/self/task").unwrap();
    let ids = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let look = |id: String| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).ok()?;
        let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
        Some((id, (field("Name:")?, u64::from_str_radix(&field("SigBlk:")?, 16).ok()?)))
    };
    ids.filter_map(look).collect()
}

#[test]
fn every_thread_of_a_process_that_uses_everything_has_all_signals_blocked() {
    // The one of the test, and the one that runs it.
    let before = threads();
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");

    let input: Writer<u64> = Writer::builder().run_dir(&run).create("in").unwrap();
    let output: Writer<u64> = Writer::builder().run_dir(&run).create("out").unwrap();
    let _reader: Reader<u64> = Reader::builder().run_dir(&run).open("out").unwrap();
    let mut inputs = MergedReader::new().unwrap();
    inputs.push(Reader::builder().run_dir(&run).open("in").unwrap()).unwrap();
    let aggregator = Aggregator::spawn(inputs, output).unwrap();

    let profiles = Profiles::BASELINE | Profiles::SHM_HYBRID;
    let provider = HostProvider::new(Arc::new(Cgroups::new(Host::default(), Duration::from_secs(60))));
    let mut options = ServerOptions::default();
    options.session.supported = profiles;
    options.session.max_response_payload = 1 << 20;
    let endpoint = Endpoint::seqpacket(dir.path(), AppsLookup::SERVICE).unwrap();
    let handler = lookup_handler::<AppsLookup, _>(move |dispatch| provider.apps(dispatch));
    let server = Server::start(&endpoint, options, AppsLookup::METHOD, handler).unwrap();
    let mut options = BaselineOptions::default();
    options.session.supported = profiles;
    let mut client = ServiceClient::<AppsLookup>::new(&endpoint, options).unwrap();
    assert!(client.refresh().is_ready(), "{:?}", client.base().last_error());
    assert!(client.base().agreement().unwrap().profile.is_shared_memory());
    client.lookup(&[std::process::id()]).unwrap();

    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();

    let ours: Vec<_> =
        threads().into_iter().filter(|(id, _)| !before.contains_key(id)).map(|(_, thread)| thread).collect();
    // KILL and STOP cannot be blocked, 32 and 33 belong to the C library, and the signals of a fault are the thread's
    // own.
    let own = [Signal::BUS, Signal::SEGV, Signal::FPE, Signal::ILL, Signal::TRAP, Signal::SYS];
    let numbers = own.into_iter().chain([Signal::KILL, Signal::STOP]).map(Signal::as_raw).chain([32, 33]);
    let never = numbers.fold(0, |mask, number| mask | 1 << (number - 1));
    let open: Vec<_> = ours.iter().filter(|(_, blocked)| blocked | never != u64::MAX).collect();
    child.kill().unwrap();
    drop(client);
    server.stop();
    drop(input);
    let _ = aggregator.join();
    assert!(open.is_empty(), "these take signals of the program: {open:x?}");
    // So that it is known what was looked at.
    let seen = |name: &str| ours.iter().any(|(of_thread, _)| of_thread.starts_with(name));
    for name in ["ginnel-aggrega", "ginnel-files", "ginnel-reactor", "ginnel-pool", "ginnel-watch"] {
        assert!(seen(name), "no thread {name}: {ours:x?}");
    }
}
