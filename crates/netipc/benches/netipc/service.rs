//! The serving side: a process of its own, answering from memory, so that what is measured is the protocol and not the
//! machine's files.

use crate::cores;
use crate::rows::Row;
use ginnel_netipc::{
    App, AppCgroup, AppOutcome, AppsLookup, Cgroup, CgroupOutcome, CgroupsLookup, INCREMENT_METHOD, Labels, Lookup,
    Orchestrator, SNAPSHOT_METHOD, SnapshotBuilder, increment_handler, lookup_handler, snapshot_handler,
};
use ginnel_service::{Server, ServerOptions};
use ginnel_session::{Endpoint, ListenError};
use ginnel_wire::Profiles;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Largest payload of either direction: room for 32,768 keys and their answers where lookups need it.
pub(crate) fn limit(row: &Row) -> u32 {
    if row.mix.is_empty() { 256 << 10 } else { 16 << 20 }
}

pub(crate) fn profile(row: &Row) -> Profiles {
    if row.shared_memory { Profiles::SHM_HYBRID } else { Profiles::BASELINE }
}

/// The cgroups of every snapshot here.
pub(crate) fn cgroup_names(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("docker-container-{index:04}").into_bytes()).collect()
}

pub(crate) fn snapshot(out: &mut Vec<u8>, limit: usize, names: &[Vec<u8>]) -> Result<(), ginnel_netipc::EncodeError> {
    let mut builder = SnapshotBuilder::new(out, limit, 1, 42, names.len())?;
    for (hash, name) in (1000u32..).zip(names) {
        builder.push(&Cgroup {
            hash,
            options: 0,
            enabled: 1,
            name,
            path: b"/sys/fs/cgroup/docker/0123456789abcdef",
        })?;
    }
    builder.finish();
    Ok(())
}

/// Runs as the serving process until its standard input ends.
pub(crate) fn serve(row: &Row, directory: &Path, core: &str) -> Result<(), String> {
    cores::pin(core.parse().map_err(|error| format!("CPU {core}: {error}"))?);
    let endpoint = Endpoint::seqpacket(directory, "bench").map_err(|error| error.to_string())?;
    let server = start(row, &endpoint).map_err(|error| error.to_string())?;
    println!("ready");
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    server.stop();
    Ok(())
}

fn start(row: &Row, endpoint: &Endpoint) -> Result<Server, ListenError> {
    let mut options = ServerOptions::default();
    options.session.supported = profile(row);
    options.session.max_request_payload = limit(row);
    options.session.max_response_payload = limit(row);
    match row.name {
        "snapshot-baseline" | "snapshot-shm" => {
            let names = cgroup_names(row.size);
            let handler = snapshot_handler(move |out, limit| Ok(snapshot(out, limit, &names)?));
            Server::start(endpoint, options, SNAPSHOT_METHOD, handler)
        }
        "cgroups-lookup" => {
            let handler = lookup_handler::<CgroupsLookup, _>(|dispatch| {
                let labels: [(&[u8], &[u8]); 1] = [(b"image", b"nginx:latest")];
                let (orchestrator, labels) = (Orchestrator::DOCKER, Labels::new(&labels));
                let known = CgroupOutcome::Known { orchestrator, name: b"container-web", labels };
                while let Some(path) = dispatch.next_key() {
                    let known = if path.starts_with(b"/docker") { known } else { CgroupOutcome::UnknownPermanent };
                    dispatch.answer(&known)?;
                }
                Ok(())
            });
            Server::start(endpoint, options, CgroupsLookup::METHOD, handler)
        }
        "apps-lookup" => {
            let handler = lookup_handler::<AppsLookup, _>(|dispatch| {
                let cgroup = AppCgroup::Known {
                    path: b"/docker/0123456789abcdef",
                    name: b"container-web",
                    orchestrator: Orchestrator::DOCKER,
                    labels: Labels::NONE,
                };
                while let Some(pid) = dispatch.next_key() {
                    let app = App { ppid: 1, uid: 1000, starttime: u64::from(pid), comm: b"nginx", cgroup };
                    dispatch.answer(&if pid % 2 == 0 { AppOutcome::Known(app) } else { AppOutcome::Unknown })?;
                }
                Ok(())
            });
            Server::start(endpoint, options, AppsLookup::METHOD, handler)
        }
        _ => Server::start(endpoint, options, INCREMENT_METHOD, increment_handler()),
    }
}

/// The serving process, seen from the measuring one. It ends with its standard input, whoever holds the other end and
/// however it ends.
pub(crate) struct Served {
    child: Child,
    directory: tempfile::TempDir,
}

impl Served {
    /// Starts it on `core`: it could not choose itself, since it inherits the one that this process is pinned to.
    pub(crate) fn start(row: &Row, core: usize) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&row.label).arg(directory.path()).arg(core.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("cannot start the server: {error}"))?;
        let mut served = Self { child, directory };
        let mut said = String::new();
        if let Some(stdout) = served.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut said).map_err(|error| error.to_string())?;
        }
        if said == "ready\n" { Ok(served) } else { Err("the server did not start".into()) }
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, String> {
        Endpoint::seqpacket(self.directory.path(), "bench").map_err(|error| error.to_string())
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        cores::cpu_seconds(self.child.id())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
