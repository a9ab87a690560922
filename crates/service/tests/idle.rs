//! Nothing wakes up without a reason. Alone in its binary: it watches the threads of its process.

mod common;

use common::{CODE, Carrier, echo, eventually, let_pass, ready};
use ginnel_service::Server;
use std::time::Duration;

#[test]
fn an_idle_server_with_idle_sessions_uses_no_processor_time() {
    // Every thread sleeps until something happens: between two looks at their voluntary context switches, nothing did.
    fn switches() -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
            .filter_map(|status| {
                let field =
                    |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
                let name = field("Name:")?;
                name.starts_with("ginnel").then_some((name, field("voluntary_ctxt_switches:")?.parse().ok()?))
            })
            .collect();
        all.sort();
        all
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&Carrier::Shm.endpoint(dir.path(), 0), Carrier::Shm.server(), CODE, echo).unwrap();
    let shm = ready(server.endpoint(), Carrier::Shm.client());
    let socket = ready(server.endpoint(), Carrier::Seqpacket.client());
    eventually("both sessions are up", || server.counters().active == 2);
    // Until all of them have gone to sleep. What happened last is published within 100 ms.
    let mut before = switches();
    eventually("all threads sleep", || {
        let_pass(Duration::from_millis(250));
        let now = switches();
        now == std::mem::replace(&mut before, now.clone())
    });
    assert_eq!(before.len(), 3, "the reactor, its porter and the watch, however many sessions there are: {before:?}");
    let_pass(Duration::from_millis(400));
    assert_eq!(switches(), before, "something woke up without a reason");
    drop((shm, socket));
}
