//! What one client may not do to the reactor, which serves all of them, and what the parts that a program brings may
//! not.

mod common;

use common::{CODE, Carrier, PATIENCE, echo, eventually, ready};
use ginnel_service::{Execution, Executor, Failure, Job, Rejected, Request, Server, ServerOptions};
use ginnel_session::{Session, Wait};
use ginnel_wire::{Envelope, Hello, Profiles};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

fn start(carrier: Carrier, dir: &tempfile::TempDir, change: impl FnOnce(&mut ServerOptions)) -> Server {
    let mut options = carrier.server();
    change(&mut options);
    Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, echo).unwrap()
}

/// A client of a stream that writes what it likes.
fn raw(server: &Server) -> UnixStream {
    let mut raw = UnixStream::connect(server.endpoint().path().unwrap()).unwrap();
    let hello = Hello {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: 1024,
        max_request_items: 4,
        max_response_payload: 1024,
        max_response_items: 4,
        auth_token: 7,
        packet_size: 4096,
    };
    raw.write_all(&hello.packet()).unwrap();
    raw
}

fn request(payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope { payload_len: payload.len() as u32, ..Envelope::request(CODE, 1, 0) };
    [&envelope.encode()[..], payload].concat()
}

#[test]
fn a_client_that_floods_a_session_that_is_over_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Carrier::Stream, &dir, |_| ());
    let mut other = ready(server.endpoint(), Carrier::Stream.client());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut raw = raw(&server);
        raw.set_write_timeout(Some(PATIENCE)).unwrap();
        // More than was agreed: from here on the server throws away what comes, for a while.
        let too_large = Envelope { payload_len: 2000, ..Envelope::request(CODE, 1, 0) };
        raw.write_all(&too_large.encode()).unwrap();
        for _ in 0..4 {
            let (mut raw, over) = (raw.try_clone().unwrap(), &over);
            scope.spawn(move || {
                let flood = vec![0; 1 << 20];
                while !over.load(Ordering::Relaxed) && raw.write_all(&flood).is_ok() {}
            });
        }
        drop(raw);
        eventually("the flood is over", || {
            let served = other.call(CODE, b"x").is_ok();
            let over = server.counters().active == 1;
            assert!(served, "a client is not served beside a flood");
            over
        });
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_client_that_closes_its_half_and_takes_no_response_keeps_its_place_no_longer_than_the_send_timeout() {
    for carrier in [Carrier::Stream, Carrier::Seqpacket, Carrier::Tcp] {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir, |options| {
            options.send_timeout = Duration::from_millis(200);
            options.session.max_response_payload = 1 << 20;
        });
        let mut options = carrier.client();
        options.session.response.max_payload = 1 << 20;
        let session = Session::connect(server.endpoint(), &options.session, &Wait::at_most(common::PATIENCE)).unwrap();
        for _ in 0..32 {
            rustix::net::send(&session, &request(b"!size 1000000"), rustix::net::SendFlags::NOSIGNAL).unwrap();
        }
        rustix::net::shutdown(&session, rustix::net::Shutdown::Write).unwrap();
        eventually("all requests have come", || server.counters().requests == 32);
        eventually("its place is free", || server.counters().active == 0);
        drop(session);
    }
}

#[test]
fn what_follows_a_whole_request_has_the_message_timeout_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Carrier::Stream, &dir, |options| {
        options.session.message_timeout = Duration::from_millis(50);
    });
    let mut raw = raw(&server);
    // One write, and most likely one read: a request, and half of the next.
    let mut both = request(b"whole");
    both.extend_from_slice(&request(b"half of it")[..36]);
    raw.write_all(&both).unwrap();
    eventually("the first is answered", || server.counters().requests == 1);
    eventually("its place is free", || server.counters().active == 0);
}

#[test]
fn a_budget_of_nothing_takes_one_request_after_the_other() {
    for carrier in common::CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let server = start(carrier, &dir, |options| {
            options.request_budget = 0;
            options.window = 0;
            options.execution = Execution::Executor;
            options.idle_timeout = Duration::ZERO;
        });
        let mut clients = [0, 1].map(|_| ready(server.endpoint(), carrier.client()));
        for _ in 0..50 {
            for client in &mut clients {
                assert_eq!(client.call(CODE, b"request").unwrap(), b"request");
            }
        }
    }
}

#[test]
fn a_server_that_takes_no_batch_takes_single_requests() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Carrier::Seqpacket, &dir, |options| options.max_batch_items = 0);
    let mut client = ready(server.endpoint(), Carrier::Seqpacket.client());
    assert_eq!(client.call(CODE, b"single").unwrap(), b"single");
    assert!(client.call_batch(CODE, [&b"a"[..], b"b"], common::soon()).is_err());
}

#[test]
fn a_hook_that_panics_costs_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    options.execution = Execution::Executor;
    let release = Arc::new(AtomicBool::new(false));
    let (runs, released) = (Arc::new(AtomicBool::new(false)), Arc::clone(&release));
    let after = Arc::new(AtomicBool::new(false));
    let handler = {
        let (runs, after) = (Arc::clone(&runs), Arc::clone(&after));
        move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            if request.payload == b"hook" {
                request.context.on_unwanted(|| panic!("of a hook"));
                let after = Arc::clone(&after);
                request.context.on_unwanted(move || after.store(true, Ordering::Relaxed));
                runs.store(true, Ordering::Relaxed);
                while !released.load(Ordering::Relaxed) {
                    common::let_pass(Duration::from_millis(1));
                }
            }
            response.extend_from_slice(request.payload);
            Ok(())
        }
    };
    let server = Server::start(&Carrier::Seqpacket.endpoint(dir.path(), 0), options, CODE, handler).unwrap();
    let mut other = ready(server.endpoint(), Carrier::Seqpacket.client());
    let leaver =
        Session::connect(server.endpoint(), &Carrier::Seqpacket.client().session, &Wait::at_most(common::PATIENCE))
            .unwrap();
    rustix::net::send(&leaver, &request(b"hook"), rustix::net::SendFlags::NOSIGNAL).unwrap();
    eventually("the handler runs", || runs.load(Ordering::Relaxed));
    drop(leaver);
    eventually("it is told", || after.load(Ordering::Relaxed));
    assert_eq!(other.call(CODE, b"fine").unwrap(), b"fine");
    assert!(server.is_accepting());
    release.store(true, Ordering::Relaxed);
}

/// Does with every job what it is told.
struct Odd {
    jobs: AtomicUsize,
    what: fn(Job) -> Result<(), Rejected>,
}

impl Executor for Odd {
    fn execute(&self, job: Job) -> Result<(), Rejected> {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        (self.what)(job)
    }
}

#[test]
fn whatever_an_executor_does_with_a_job_its_call_is_answered_and_the_server_goes_on() {
    type What = fn(Job) -> Result<(), Rejected>;
    let odd: [(&str, What, bool); 5] = [
        (
            "runs it at once",
            |job| {
                job();
                Ok(())
            },
            true,
        ),
        ("gives it back", |job| Err(Rejected(job)), false),
        (
            "drops it",
            |job| {
                drop(job);
                Ok(())
            },
            false,
        ),
        ("panics", |_| panic!("of an executor"), false),
        (
            "drops it elsewhere",
            |job| {
                std::thread::spawn(move || drop(job));
                Ok(())
            },
            false,
        ),
    ];
    for (name, what, answered) in odd {
        for carrier in [Carrier::Stream, Carrier::Shm] {
            let dir = tempfile::tempdir().unwrap();
            let odd = Arc::new(Odd { jobs: AtomicUsize::new(0), what });
            let server = start(carrier, &dir, |options| {
                options.execution = Execution::Executor;
                options.executor = Some(Arc::clone(&odd) as Arc<dyn Executor>);
                options.request_budget = 1;
            });
            let mut clients = [0, 1].map(|_| ready(server.endpoint(), carrier.client()));
            for _ in 0..20 {
                for client in &mut clients {
                    assert_eq!(client.call(CODE, b"x").is_ok(), answered, "{name}");
                }
            }
            assert!(server.is_accepting() && odd.jobs.load(Ordering::Relaxed) >= 40, "{name}");
            server.stop();
        }
    }
}

#[test]
fn a_scheduler_outlives_an_executor_that_panics() {
    use ginnel_service::{Access, KeyedScheduler};
    let odd = Odd {
        jobs: AtomicUsize::new(0),
        what: |job| {
            job();
            Ok(())
        },
    };
    let scheduler = KeyedScheduler::new(odd, 8);
    let ran = Arc::new(AtomicUsize::new(0));
    for round in 0..3 {
        let ran = Arc::clone(&ran);
        scheduler
            .submit(Access::write("key"), move || {
                assert!(round != 0, "the first one panics, on the thread that hands over");
                ran.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
    }
    assert_eq!(ran.load(Ordering::Relaxed), 2);
    assert_eq!((scheduler.counters().running, scheduler.counters().finished), (0, 3));
}
