//! Providers against a made-up machine (a directory with its own `/proc` and cgroup mounts) and against this one.

use ginnel_netipc::host::{Cgroups, Host, Processes, fnv1};
use ginnel_netipc::*;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A hybrid machine: version 2 at /sys/fs/cgroup/unified, version 1 memory beside it, a directory on the tmpfs that is
/// no cgroup.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        machine.write("/proc/self/mountinfo", mounts);
        machine.write("/sys/fs/cgroup/not-a-cgroup/cgroup.procs", "1\n");
        machine.cgroup("unified", "", "populated 1\n");
        machine
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn cgroup(&self, mount: &str, path: &str, events: &str) {
        self.write(&format!("/sys/fs/cgroup/{mount}{path}/cgroup.events"), &format!("frozen 0\n{events}"));
    }

    fn process(&self, pid: u32, comm: &str, cgroup: &str) {
        let stat = format!("{pid} ({comm}) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0\n", 1000 + pid);
        self.write(&format!("/proc/{pid}/stat"), &stat);
        self.write(&format!("/proc/{pid}/status"), &format!("Name:\t{comm}\nTgid:\t{pid}\nUid:\t5\t6\t7\t8\n"));
        self.write(&format!("/proc/{pid}/cgroup"), &format!("4:memory:/\n0::{cgroup}\n"));
    }

    fn provider(&self) -> HostProvider {
        HostProvider::new(Arc::new(Cgroups::new(Host::at(self.root.path()), Duration::ZERO)))
    }
}

fn snapshot(provider: &HostProvider) -> Vec<u8> {
    let mut payload = Vec::new();
    provider.snapshot(&mut payload, 1 << 20).unwrap();
    payload
}

fn items(payload: &[u8]) -> Vec<(String, String, u32)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut items: Vec<_> = Snapshot::decode(payload)
        .unwrap()
        .iter()
        .map(|item| {
            assert_eq!(item.hash, fnv1(item.name));
            (text(item.name), text(item.path), item.enabled)
        })
        .collect();
    items.sort();
    items
}

fn ask_cgroups(provider: &HostProvider, paths: &[&[u8]]) -> Vec<u8> {
    let mut request = Vec::new();
    let mut builder = LookupRequestBuilder::<CgroupsLookup>::new(&mut request, 1 << 20, 0).unwrap();
    for path in paths {
        builder.push(path).unwrap();
    }
    builder.finish();
    let mut out = Vec::new();
    let mut dispatch = LookupDispatch::new(LookupRequest::decode(&request).unwrap(), &mut out, 1 << 20).unwrap();
    provider.cgroups(&mut dispatch).unwrap();
    dispatch.finish().unwrap();
    out
}

fn ask_apps(provider: &HostProvider, pids: &[u32]) -> Vec<u8> {
    let mut request = Vec::new();
    let mut builder = LookupRequestBuilder::<AppsLookup>::new(&mut request, 16 << 20, 0).unwrap();
    for pid in pids {
        builder.push(*pid).unwrap();
    }
    builder.finish();
    let mut out = Vec::new();
    let mut dispatch = LookupDispatch::new(LookupRequest::decode(&request).unwrap(), &mut out, 64 << 20).unwrap();
    provider.apps(&mut dispatch).unwrap();
    dispatch.finish().unwrap();
    out
}

#[test]
fn the_snapshot_has_every_cgroup_once_and_nothing_that_is_none() {
    let machine = Machine::new();
    machine.cgroup("unified", "/system.slice", "populated 1\n");
    machine.cgroup("unified", "/system.slice/ssh.service", "populated 0\n");
    machine.write("/sys/fs/cgroup/memory/system.slice/cgroup.procs", "");
    machine.write("/sys/fs/cgroup/memory/jobs/cgroup.procs", "");
    machine.write("/sys/fs/cgroup/memory/jobs/one/cgroup.procs", "77\n");
    let expected = [
        ("jobs", "/sys/fs/cgroup/memory/jobs", 1),
        ("jobs/one", "/sys/fs/cgroup/memory/jobs/one", 1),
        ("system.slice", "/sys/fs/cgroup/unified/system.slice", 1),
        ("system.slice/ssh.service", "/sys/fs/cgroup/unified/system.slice/ssh.service", 0),
    ];
    let expected = expected.map(|(name, path, enabled)| (name.to_owned(), path.to_owned(), enabled));
    assert_eq!(items(&snapshot(&machine.provider())), expected);
}

#[test]
fn the_generation_grows_with_every_change_and_only_then() {
    let machine = Machine::new();
    let provider = machine.provider();
    let generation = || Snapshot::decode(&snapshot(&provider)).unwrap().generation();
    assert_eq!((generation(), generation()), (1, 1));
    machine.cgroup("unified", "/a", "populated 0\n");
    assert_eq!((generation(), generation()), (2, 2));
    machine.cgroup("unified", "/a", "populated 1\n");
    assert_eq!(generation(), 3);
    fs::remove_dir_all(machine.path("/sys/fs/cgroup/unified/a")).unwrap();
    assert_eq!((generation(), items(&snapshot(&provider)).len()), (4, 0));
}

#[test]
fn two_containers_of_one_name_stay_two_cgroups() {
    let machine = Machine::new();
    machine.cgroup("unified", "/lxc/web", "populated 1\n");
    machine.cgroup("unified", "/lxc.payload.web", "populated 1\n");
    // Even one whose own path is the name that another took.
    machine.cgroup("unified", "/web", "populated 1\n");
    let names: Vec<_> = items(&snapshot(&machine.provider())).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.contains(&"web".to_owned()));
    let mut unique = names.clone();
    unique.dedup();
    assert_eq!(unique, names);
}

#[test]
fn a_snapshot_beyond_the_limit_is_an_error_that_says_how_much_is_needed() {
    let machine = Machine::new();
    machine.cgroup("unified", "/a", "populated 0\n");
    let provider = machine.provider();
    let needed = snapshot(&provider).len();
    let mut payload = Vec::new();
    match provider.snapshot(&mut payload, needed - 1).unwrap_err() {
        ProviderError::Encode(EncodeError::TooLarge { needed: found, limit }) => {
            assert_eq!((found, limit), (needed as u64, needed as u64 - 1));
        }
        other => panic!("{other}"),
    }
    assert!(payload.is_empty());
}

#[test]
fn cgroups_are_found_by_hierarchy_path_and_by_directory() {
    let machine = Machine::new();
    machine.cgroup("unified", "/system.slice/ssh.service", "populated 1\n");
    machine.write("/etc/secret", "no cgroup");
    let provider = machine.provider();
    let container = format!("/docker/{}/init.scope", "ab".repeat(32));
    let keys: [&[u8]; 7] = [
        b"/system.slice/ssh.service",
        b"/sys/fs/cgroup/unified/system.slice/ssh.service",
        b"/sys/fs/cgroup/not-a-cgroup",
        b"/system.slice/../../../../etc",
        b"relative",
        b"/stopped.service",
        container.as_bytes(),
    ];
    let response = ask_cgroups(&provider, &keys);
    let response = LookupResponse::<CgroupsLookup>::decode(&response).unwrap();
    let known = CgroupOutcome::Known {
        orchestrator: Orchestrator::SYSTEMD,
        name: b"system.slice/ssh.service",
        labels: Labels::NONE,
    };
    let outcomes: Vec<_> = response.iter().map(|answer| answer.outcome).collect();
    let (never, not_now) = (CgroupOutcome::UnknownPermanent, CgroupOutcome::UnknownRetryLater);
    assert_eq!(outcomes, [known, known, not_now, never, never, not_now, never]);
    assert!(response.iter().map(|answer| answer.key).eq(keys));
}

#[test]
fn a_cgroup_has_one_name_however_its_path_is_spelled() {
    let machine = Machine::new();
    machine.cgroup("unified", "/system.slice/ssh.service", "populated 1\n");
    let provider = machine.provider();
    snapshot(&provider);
    // Made after the scan, so that its directory is looked at.
    machine.cgroup("unified", "/jobs/late", "populated 1\n");
    for (spellings, orchestrator, name) in [
        (
            [
                &b"/system.slice/ssh.service"[..],
                b"//system.slice/ssh.service",
                b"/system.slice///ssh.service/",
                b"/sys/fs/cgroup/unified//system.slice/ssh.service//",
                b"//sys/fs//cgroup/unified/system.slice/ssh.service",
            ],
            Orchestrator::SYSTEMD,
            &b"system.slice/ssh.service"[..],
        ),
        (
            [b"/jobs/late", b"//jobs/late", b"/jobs/late/", b"/sys/fs/cgroup/unified/jobs//late", b"/jobs//late//"],
            Orchestrator::UNKNOWN,
            b"jobs/late",
        ),
    ] {
        let response = ask_cgroups(&provider, &spellings);
        let response = LookupResponse::<CgroupsLookup>::decode(&response).unwrap();
        for (answer, spelling) in response.iter().zip(spellings) {
            assert_eq!(answer.key, spelling, "the key comes back as it was asked");
            let known = CgroupOutcome::Known { orchestrator, name, labels: Labels::NONE };
            assert_eq!(answer.outcome, known, "{}", spelling.escape_ascii());
        }
    }
    let climbing: [&[u8]; 2] = [b"/system.slice/./ssh.service", b"/jobs/.."];
    let response = ask_cgroups(&provider, &climbing);
    let response = LookupResponse::<CgroupsLookup>::decode(&response).unwrap();
    assert!(response.iter().all(|answer| answer.outcome == CgroupOutcome::UnknownPermanent));
}

/// Runs this test binary again, for its test `short_of_descriptors` alone: a limit is one of the whole process.
#[test]
fn what_cannot_be_looked_at_for_want_of_descriptors_is_never_said_to_be_unknown() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "short_of_descriptors", "--nocapture"])
        .env("GINNEL_TEST_SHORT", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("was short"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn short_of_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if std::env::var_os("GINNEL_TEST_SHORT").is_none() {
        return;
    }
    let machine = Machine::new();
    machine.cgroup("unified", "/lxc/web", "populated 1\n");
    machine.process(10, "sshd", "/");
    let cgroups = Arc::new(Cgroups::new(Host::at(machine.root.path()), Duration::ZERO));
    let provider = HostProvider::new(Arc::clone(&cgroups));
    let snapshot_now = || {
        let mut payload = Vec::new();
        provider.snapshot(&mut payload, 1 << 20).map(|()| items(&payload))
    };
    let expected = snapshot_now().unwrap();
    let processes = Processes::new(Host::at(machine.root.path()));
    let process = processes.get(10).unwrap().unwrap();
    let usual = getrlimit(Resource::Nofile);
    let limit_to = |number| setrlimit(Resource::Nofile, Rlimit { current: Some(number), ..usual });
    // Every number of free descriptors: the whole truth or an error.
    let lowest = std::os::fd::AsRawFd::as_raw_fd(&fs::File::open("/").unwrap()) as u64;
    let mut failed = 0;
    for free in 0..5 {
        limit_to(lowest + free).unwrap();
        let (found, gone, cgroups, listed) =
            (processes.get(10), processes.get(11), cgroups.index().map(|_| ()), snapshot_now());
        setrlimit(Resource::Nofile, usual).unwrap();
        for result in [
            found.map(|found| assert_eq!(found.as_ref(), Some(&process), "{free} free")).err(),
            gone.map(|gone| assert_eq!(gone, None)).err(),
            cgroups.err(),
        ] {
            failed += usize::from(result.is_some());
        }
        match listed {
            Ok(listed) => assert_eq!(listed, expected, "{free} free"),
            Err(ProviderError::Read(_)) => failed += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(failed >= 4, "the limit was felt {failed} times");
    println!("it was short");
}

#[test]
fn a_cgroup_made_after_the_scan_is_found_all_the_same() {
    let machine = Machine::new();
    let cgroups = Cgroups::new(Host::at(machine.root.path()), Duration::from_secs(3600));
    let provider = HostProvider::new(Arc::new(cgroups));
    snapshot(&provider);
    machine.cgroup("unified", "/fresh", "populated 0\n");
    let response = ask_cgroups(&provider, &[b"/fresh"]);
    let answer = LookupResponse::<CgroupsLookup>::decode(&response).unwrap().get(0).unwrap();
    let name = &b"fresh"[..];
    assert_eq!(
        answer.outcome,
        CgroupOutcome::Known { orchestrator: Orchestrator::UNKNOWN, name, labels: Labels::NONE }
    );
}

#[test]
fn processes_are_told_with_the_cgroup_they_live_in() {
    let machine = Machine::new();
    machine.cgroup("unified", "/lxc/web", "populated 1\n");
    machine.process(10, "sshd", "/");
    machine.process(11, "nginx", "/lxc/web/init.scope");
    machine.process(12, "left", "/vanished (deleted)");
    let response = ask_apps(&machine.provider(), &[10, 11, 12, 13, 0]);
    let response = LookupResponse::<AppsLookup>::decode(&response).unwrap();
    let app = |pid: u64, comm, cgroup| AppOutcome::Known(App { ppid: 1, uid: 6, starttime: 1000 + pid, comm, cgroup });
    let outcomes: Vec<_> = response.iter().map(|answer| answer.outcome).collect();
    let expected = [
        app(10, b"sshd", AppCgroup::HostRoot),
        app(11, b"nginx", AppCgroup::UnknownRetryLater { path: b"/lxc/web/init.scope" }),
        app(12, b"left", AppCgroup::UnknownPermanent { path: b"/vanished (deleted)" }),
        AppOutcome::Unknown,
        AppOutcome::Unknown,
    ];
    assert_eq!(outcomes, expected);

    machine.cgroup("unified", "/lxc/web/init.scope", "populated 1\n");
    let response = ask_apps(&machine.provider(), &[11]);
    let answer = LookupResponse::<AppsLookup>::decode(&response).unwrap().get(0).unwrap();
    let cgroup = AppCgroup::Known {
        path: b"/lxc/web/init.scope",
        name: b"web/init.scope",
        orchestrator: Orchestrator::LXC,
        labels: Labels::NONE,
    };
    assert_eq!(answer.outcome, app(11, b"nginx", cgroup));
}

#[test]
fn a_machine_without_a_mount_table_is_an_error_not_an_empty_answer() {
    let machine = Machine::new();
    fs::remove_file(machine.path("/proc/self/mountinfo")).unwrap();
    let error = machine.provider().snapshot(&mut Vec::new(), 4096).unwrap_err();
    assert!(matches!(error, ProviderError::Read(_)), "{error}");
}

/// Directories of all mounted cgroup hierarchies, found without the library: `mount` paths from the text, then a plain
/// walk.
fn cgroup_directories() -> std::collections::BTreeSet<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let kinds = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let mut open: Vec<_> =
        mounts.lines().filter(kinds).map(|line| Path::new(line.split(' ').nth(4).unwrap()).to_owned()).collect();
    let mut found = std::collections::BTreeSet::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && found.insert(entry.path()) {
                open.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn every_cgroup_of_this_machine_is_in_the_snapshot() {
    // Other programs come and go: what was there before and after must be there in between.
    let before = cgroup_directories();
    let cgroups = Cgroups::new(Host::default(), Duration::ZERO);
    let index = cgroups.index().unwrap();
    let after = cgroup_directories();
    for directory in before.intersection(&after) {
        let name = directory.file_name().unwrap().to_str().unwrap();
        assert!(index.records().iter().any(|record| record.path.ends_with(name.as_bytes())), "{}", directory.display());
    }
    let provider = HostProvider::new(Arc::new(cgroups));
    for record in index.records() {
        let directory: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&record.directory[..]);
        if !after.contains(Path::new(directory)) {
            continue;
        }
        let response = ask_cgroups(&provider, &[&record.path, &record.directory]);
        for answer in LookupResponse::<CgroupsLookup>::decode(&response).unwrap().iter() {
            let known = matches!(answer.outcome, CgroupOutcome::Known { .. });
            assert!(known || !Path::new(directory).exists(), "{answer:?}");
        }
    }
}

#[test]
fn this_machines_own_processes_are_known() {
    let host = Host::default();
    let processes = Processes::new(host.clone());
    let me = processes.get(std::process::id()).unwrap().expect("this process lives");
    let comm = fs::read("/proc/self/comm").unwrap();
    assert_eq!(me.comm, comm.strip_suffix(b"\n").unwrap());
    assert_eq!(me.ppid, std::os::unix::process::parent_id());
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let found = processes.get(child.id()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let found = found.expect("the child lived");
    assert_eq!(found.ppid, std::process::id());
    assert!(found.starttime >= me.starttime);
    assert_eq!(processes.get(child.id()).unwrap(), None, "it is gone");
}

#[test]
fn processes_that_die_while_they_are_read_harm_nobody() {
    let provider = HostProvider::new(Arc::new(Cgroups::new(Host::default(), Duration::from_secs(60))));
    for _ in 0..20 {
        let mut children: Vec<_> = (0..8).map(|_| std::process::Command::new("true").spawn().unwrap()).collect();
        let pids: Vec<u32> = children.iter().map(std::process::Child::id).collect();
        let response = ask_apps(&provider, &pids);
        for child in &mut children {
            child.wait().unwrap();
        }
        for answer in LookupResponse::<AppsLookup>::decode(&response).unwrap().iter() {
            if let AppOutcome::Known(app) = answer.outcome {
                assert_eq!(app.ppid, std::process::id());
            }
        }
    }
}

#[test]
fn every_process_of_this_machine_has_an_answer() {
    let entries = fs::read_dir("/proc").unwrap();
    let pids: Vec<u32> = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
    assert!(pids.contains(&std::process::id()));
    let provider = HostProvider::new(Arc::new(Cgroups::new(Host::default(), Duration::from_secs(60))));
    let response = ask_apps(&provider, &pids);
    for answer in LookupResponse::<AppsLookup>::decode(&response).unwrap().iter() {
        let known = matches!(answer.outcome, AppOutcome::Known(_));
        assert!(known || !Path::new(&format!("/proc/{}", answer.key)).exists(), "{answer:?}");
    }
}
