//! Typed methods, called over the wire as bytes: what the server does of itself.

mod common;

use common::PATIENCE;
use ginnel_service::{
    Access, ApplicationError, BaselineClient, BaselineError, BaselineOptions, Codec, Context, Deadline, DecodeError,
    EncodeError, Failure, Interface, KeyedScheduler, Method, Plain, Pool, Postcard, Reply, Router, Server,
    ServerOptions,
};
use ginnel_session::Endpoint;
use ginnel_wire::Status;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use tempfile::TempDir;

const ADD: Method<(u64, u64), u64> = Method::new(1, "add");
const SHOUT: Method<[u8], [u8], Plain> = Method::new(2, "shout");
const LATER: Method<String, String> = Method::new(3, "later");

struct Service {
    server: Option<Server>,
    endpoint: Endpoint,
    _dir: TempDir,
}

impl Service {
    fn start(router: Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::seqpacket(dir.path(), "typed").unwrap();
        let server = Server::serve(&endpoint, ServerOptions::default(), router).unwrap();
        Self { server: Some(server), endpoint, _dir: dir }
    }

    fn client(&self) -> BaselineClient {
        let mut options = BaselineOptions::default();
        options.session.request.max_items = 100;
        let mut client = BaselineClient::new(&self.endpoint, options).unwrap();
        assert!(client.refresh().is_ready());
        client
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

fn bytes<T>(value: &T) -> Vec<u8>
where
    Postcard: Codec<T>,
{
    let mut bytes = Vec::new();
    Postcard::encode(value, &mut bytes).unwrap();
    bytes
}

fn value<T>(bytes: &[u8]) -> <Postcard as Codec<T>>::Owned
where
    Postcard: Codec<T>,
{
    <Postcard as Codec<T>>::decode(bytes).unwrap()
}

fn router() -> Router {
    Router::new(Interface::named("typed"))
        .on(ADD, |(one, other), _: &Context| {
            one.checked_add(other).ok_or_else(|| ApplicationError::new(7, "the sum is too large").into())
        })
        .on(SHOUT, |request, _: &Context| Ok(request.to_ascii_uppercase()))
        .on_responder(LATER, |request: String, reply: Reply<String>| {
            std::thread::spawn(move || match &*request {
                "panic" => panic!("told to"),
                "drop" => drop(reply),
                "fail" => reply.fail(Failure::Internal),
                _ => reply.respond(request.repeat(2)),
            });
        })
}

#[test]
fn requests_come_decoded_and_answers_go_encoded() {
    let service = Service::start(router());
    let mut client = service.client();
    assert_eq!(value::<u64>(client.call(ADD.id(), &bytes(&(20_u64, 22_u64))).unwrap()), 42);
    assert_eq!(client.call(SHOUT.id(), b"hello").unwrap(), b"HELLO");
    assert_eq!(value::<String>(client.call(LATER.id(), &bytes(&"ab".to_owned())).unwrap()), "abab");
}

#[test]
fn a_handler_never_sees_a_request_that_cannot_be_decoded() {
    let service = Service::start(router());
    let refused = service.client().call(ADD.id(), &[0xff; 3]).unwrap_err();
    assert!(matches!(refused, BaselineError::Status(Status::BAD_ENVELOPE)), "{refused:?}");
    let mut other = service.client();
    assert_eq!(other.call(SHOUT.id(), b"on").unwrap(), b"ON", "it was that client's error");
    let trailing = service.client().call(ADD.id(), &[1, 2, 3]).unwrap_err();
    assert!(matches!(trailing, BaselineError::Status(Status::BAD_ENVELOPE)), "{trailing:?}");
}

#[test]
fn every_item_of_a_batch_has_a_reply_of_its_own() {
    let service = Service::start(router());
    let mut client = service.client();
    let items: Vec<Vec<u8>> = (0..20).map(|number: u32| bytes(&format!("{number},"))).collect();
    let deadline = || Deadline::after(PATIENCE);
    let reply = client.call_batch(LATER.id(), items.iter().map(|item| &item[..]), deadline()).unwrap();
    let answers: Vec<String> = (0..reply.len()).map(|at| value::<String>(reply.get(at).unwrap())).collect();
    let expected: Vec<String> = (0..20).map(|number| format!("{number},{number},")).collect();
    assert_eq!(answers, expected, "in the order of the requests");
    for defect in ["panic", "drop", "fail"] {
        let items = [bytes(&"fine".to_owned()), bytes(&defect.to_owned()), bytes(&"fine".to_owned())];
        let failed = client.call_batch(LATER.id(), items.iter().map(|item| &item[..]), deadline());
        assert!(failed.is_err(), "{defect}");
    }
    assert_eq!(value::<String>(client.call(LATER.id(), &bytes(&"x".to_owned())).unwrap()), "xx");
}

#[test]
fn an_answer_that_cannot_be_encoded_is_an_error_of_the_service() {
    enum Picky {}
    impl Codec<u8> for Picky {
        type Owned = u8;
        const KIND: &'static str = "picky";
        const LEN: Option<usize> = Some(1);
        fn encode(value: &u8, out: &mut Vec<u8>) -> Result<(), EncodeError> {
            if *value == 13 {
                return Err(EncodeError::new::<u8>("that brings bad luck"));
            }
            out.push(*value);
            Ok(())
        }
        fn decode(bytes: &[u8]) -> Result<u8, DecodeError> {
            Ok(bytes[0])
        }
    }
    const NEXT: Method<u8, u8, Picky> = Method::new(1, "next");
    let service = Service::start(Router::new(Interface::named("picky")).on(NEXT, |number, _: &Context| Ok(number + 1)));
    let mut client = service.client();
    assert!(client.call(NEXT.id(), &[12]).is_err());
    assert_eq!(client.call(NEXT.id(), &[13]).unwrap(), [14]);
    assert!(client.call(NEXT.id(), &[]).is_err(), "of another length than all values have: the codec is not asked");
}

/// A door that a test holds shut.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let (open, _) = self.opened.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(*open, "nobody opened it");
    }
}

#[test]
fn reads_of_a_key_run_together_and_wait_for_its_write() {
    const WRITE: Method<(String, u64), ()> = Method::new(1, "write");
    const READ: Method<String, u64> = Method::new(2, "read");
    let values = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
    let gate = Arc::new(Gate::default());
    let scheduler = KeyedScheduler::new(Pool::with(NonZeroUsize::new(4).unwrap(), 100), 100);
    let (began, begun) = mpsc::channel();
    let (to_write, to_read, shut) = (Arc::clone(&values), values, Arc::clone(&gate));
    let router = Router::new(Interface::named("keyed"))
        .on_scheduled(
            WRITE,
            &scheduler,
            |(key, _): &(String, u64)| Access::write(key.clone()),
            move |(key, value), _: &Context| {
                began.send(()).unwrap();
                if key == "gated" {
                    shut.pass();
                }
                to_write.lock().unwrap().insert(key, value);
                Ok(())
            },
        )
        .on_scheduled(
            READ,
            &scheduler,
            |key: &String| Access::read(key.clone()),
            move |key, _: &Context| Ok(to_read.lock().unwrap().get(&key).copied().unwrap_or_default()),
        );
    let service = Service::start(router);
    let service = &service;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| service.client().call(WRITE.id(), &bytes(&("gated".to_owned(), 5_u64))).map(drop));
        begun.recv_timeout(PATIENCE).unwrap();
        let read = |key: &'static str| {
            move || value::<u64>(service.client().call(READ.id(), &bytes(&key.to_owned())).unwrap())
        };
        let waits = scope.spawn(read("gated"));
        assert_eq!(read("other")(), 0, "another key does not wait");
        assert_eq!(value::<()>(service.client().call(WRITE.id(), &bytes(&("free".to_owned(), 1_u64))).unwrap()), ());
        assert!(!waits.is_finished(), "its key is being written");
        gate.open();
        writing.join().unwrap().unwrap();
        assert_eq!(waits.join().unwrap(), 5);
    });
    assert_eq!(scheduler.counters().lanes, 0);
}

#[test]
fn a_scheduled_request_whose_client_leaves_never_starts() {
    const HOLD: Method<(), ()> = Method::new(1, "hold");
    const COUNT: Method<(), ()> = Method::new(2, "count");
    let (gate, counted) = (Arc::new(Gate::default()), Arc::new(AtomicU64::new(0)));
    let scheduler = KeyedScheduler::new(Pool::with(NonZeroUsize::new(2).unwrap(), 100), 100);
    let (shut, count) = (Arc::clone(&gate), Arc::clone(&counted));
    let key = |(): &()| Access::write("only");
    let router = Router::new(Interface::named("leaving"))
        .on_scheduled(HOLD, &scheduler, key, move |(), _: &Context| {
            shut.pass();
            Ok(())
        })
        .on_scheduled(COUNT, &scheduler, key, move |(), _: &Context| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
    let service = Service::start(router);
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Deadline::after(PATIENCE);
        while !done() {
            assert!(!deadline.passed(), "{what}: {:?}", scheduler.counters());
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let holding = scope.spawn(|| service.client().call(HOLD.id(), &[]).map(drop));
        until("it holds the key", &|| scheduler.counters().running == 1);
        let mut impatient = {
            let call_timeout = std::time::Duration::from_millis(50);
            let options = BaselineOptions { call_timeout, ..BaselineOptions::default() };
            BaselineClient::new(&service.endpoint, options).unwrap()
        };
        assert!(impatient.refresh().is_ready());
        assert!(impatient.call(COUNT.id(), &[]).is_err());
        drop(impatient);
        until("its request is taken back", &|| scheduler.counters().cancelled >= 1);
        until("nothing waits", &|| scheduler.counters().waiting == 0);
        gate.open();
        holding.join().unwrap().unwrap();
    });
    assert_eq!(counted.load(Ordering::Relaxed), 0);
    service.client().call(COUNT.id(), &[]).unwrap();
    assert_eq!(counted.load(Ordering::Relaxed), 1);
}

#[cfg(feature = "tokio")]
#[test]
fn an_async_function_is_a_handler() {
    const SLOW: Method<u64, u64> = Method::new(1, "slow");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let router =
        Router::new(Interface::named("tasks")).on_async(SLOW, runtime.handle(), |millis: u64, _: Context| async move {
            match millis {
                0 => panic!("told to"),
                millis => tokio::time::sleep(std::time::Duration::from_millis(millis)).await,
            }
            Ok(millis)
        });
    let service = Service::start(router);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (1..=8_u64)
            .map(|millis| {
                let service = &service;
                scope.spawn(move || value::<u64>(service.client().call(SLOW.id(), &bytes(&millis)).unwrap()))
            })
            .collect();
        assert!(calls.into_iter().map(|call| call.join().unwrap()).eq(1..=8));
    });
    let mut client = service.client();
    assert!(client.call(SLOW.id(), &bytes(&0_u64)).is_err(), "a panic is answered");
    assert_eq!(value::<u64>(client.call(SLOW.id(), &bytes(&3_u64)).unwrap()), 3);
    drop(service);
}
