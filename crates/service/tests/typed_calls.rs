//! Typed methods from both sides: what the client sends, what comes back, and what goes wrong in between.

use ginnel_service::{
    ApplicationError, CallError, CallOptions, Client, ClientOptions, Context, Failure, Interface, ItemSink, Method,
    OneWay, Plain, Reply, Router, Server, ServerOptions, SinkError, StreamMethod,
};
use ginnel_session::Endpoint;
use ginnel_wire::Status;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

const ADD: Method<(u64, u64), u64> = Method::new(1, "add").idempotent();
const SHOUT: Method<[u8], [u8], Plain> = Method::new(2, "shout");
const LATER: Method<String, String> = Method::new(3, "later");
const NOTE: OneWay<u64> = OneWay::new(4, "note");
const COUNT: StreamMethod<u64, u64> = StreamMethod::new(5, "count");
/// The same numbers, meant otherwise: a client of another version.
const ADD_OF_OTHERS: Method<String, u64> = Method::new(1, "add");
const SHOUT_OF_OTHERS: Method<[u8], u64, Plain> = Method::new(2, "shout");
const COUNT_OF_OTHERS: StreamMethod<u64, String> = StreamMethod::new(5, "count");

struct Service {
    server: Option<Server>,
    client: Client,
    noted: Arc<AtomicU64>,
    counted: mpsc::Receiver<Result<(), SinkError>>,
    _dir: TempDir,
}

impl Service {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::seqpacket(dir.path(), "calls").unwrap();
        let noted = Arc::new(AtomicU64::new(0));
        let sum = Arc::clone(&noted);
        let (ended, counted) = mpsc::channel();
        let router = Router::new(Interface::named("calls"))
            .on(ADD, |(one, other), _: &Context| {
                one.checked_add(other).ok_or_else(|| ApplicationError::new(7, "the sum is too large").into())
            })
            .on(SHOUT, |request, _: &Context| Ok(request.to_ascii_uppercase()))
            .on_responder(LATER, |request: String, reply: Reply<String>| {
                std::thread::spawn(move || match &*request {
                    "never" => reply.fail(Failure::Internal),
                    _ => reply.respond(request.repeat(2)),
                });
            })
            .on_one_way(NOTE, move |number, _: &Context| {
                sum.fetch_add(number, Ordering::Relaxed);
                Ok(())
            })
            .on_stream(COUNT, move |most, mut items: ItemSink<u64>| {
                let outcome = (0..most).try_for_each(|number| items.item(&number));
                let done = outcome.is_ok();
                let _ = ended.send(outcome);
                if done {
                    items.finish();
                }
            });
        let server = Server::serve(&endpoint, ServerOptions::default(), router).unwrap();
        let client = Client::new(&endpoint, ClientOptions::default()).unwrap();
        Self { server: Some(server), client, noted, counted, _dir: dir }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.client.close();
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

#[test]
fn values_go_and_come_whatever_the_form_of_the_method() {
    let service = Service::start();
    let client = &service.client;
    assert_eq!(client.call(ADD, &(20, 22)).unwrap(), 42);
    assert_eq!(client.call(SHOUT, b"hello").unwrap(), b"HELLO");
    assert_eq!(client.call(LATER, &"ab".to_owned()).unwrap(), "abab");
    assert_eq!(&*client.call(SHOUT.id(), b"by number").unwrap(), b"BY NUMBER");
    let options = CallOptions::default();
    assert_eq!(client.batch(ADD, &[(1, 2), (3, 4), (5, 6)], &options).unwrap(), [3, 7, 11]);
    let words: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let doubled: Vec<String> = words.iter().map(|word| word.repeat(2)).collect();
    assert_eq!(client.batch(LATER, &words, &options).unwrap(), doubled);
    let items: Result<Vec<u64>, _> = client.stream(COUNT, &1_000, &options).unwrap().collect();
    assert!(items.unwrap().into_iter().eq(0..1_000));
    for number in 1..=100 {
        client.send(NOTE, &number, &options).unwrap();
    }
    // Requests of one connection begin in their order, and a one-way method runs on the executor at the latest.
    let deadline = ginnel_service::Deadline::after(PATIENCE);
    while service.noted.load(Ordering::Relaxed) < 5050 {
        assert!(!deadline.passed(), "{} of 5050", service.noted.load(Ordering::Relaxed));
        std::thread::yield_now();
    }
}

#[test]
fn a_server_learns_what_clients_of_layout_2_propose() {
    let service = Service::start();
    let large = vec![b'x'; 300_000];
    assert_eq!(service.client.call(SHOUT, &large).unwrap(), large.to_ascii_uppercase());
    assert!(service.client.layout_2().is_some());
    assert!(service.client.agreement().unwrap().request.max_payload >= 300_000);
}

#[test]
fn a_full_server_refuses_clients_of_layout_2_too() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "full").unwrap();
    let router = Router::new(Interface::named("full")).on(SHOUT, |request, _: &Context| Ok(request));
    let options = ServerOptions { max_sessions: 1, ..ServerOptions::default() };
    let server = Server::serve(&endpoint, options, router).unwrap();
    let client = || Client::new(&endpoint, ClientOptions::default()).unwrap();
    let first = client();
    assert_eq!(first.call(SHOUT, b"in").unwrap(), b"in");
    let refused = client().call(SHOUT, b"out").unwrap_err();
    assert!(matches!(refused, CallError::NotReady { .. }), "{refused:?}");
    let counters = server.counters();
    assert_eq!((counters.sessions, counters.active), (1, 1));
    assert!(counters.refused >= 1, "{counters:?}");
    assert_eq!(first.call(SHOUT, b"still").unwrap(), b"still");
    server.stop();
}

#[test]
fn errors_of_the_service_say_what_they_are() {
    let service = Service::start();
    let refused = service.client.call(ADD, &(u64::MAX, 1)).unwrap_err();
    let CallError::Application { code: 7, message, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(message, "the sum is too large");
    let failed = service.client.call(LATER, &"never".to_owned()).unwrap_err();
    assert!(matches!(failed, CallError::Status { status: Status::INTERNAL_ERROR, .. }), "{failed:?}");
    let batch = service.client.batch(ADD, &[(1, 1), (u64::MAX, 1)], &CallOptions::default()).unwrap_err();
    assert!(matches!(batch, CallError::Application { code: 7, .. }), "{batch:?}");
}

#[test]
fn a_request_that_cannot_be_decoded_is_that_clients_error_with_the_reason_and_the_session_goes_on() {
    let service = Service::start();
    let client = &service.client;
    assert_eq!(client.call(ADD, &(1, 1)).unwrap(), 2);
    let session = client.agreement().unwrap().session_id;
    let refused = client.call(ADD_OF_OTHERS, &"five and seven".to_owned()).unwrap_err();
    let CallError::Status { status: Status::BAD_ENVELOPE, message, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(message, "15 bytes are no (u64, u64): 13 bytes follow its value");
    let batch = client.batch(ADD_OF_OTHERS, &["five and seven".to_owned()], &CallOptions::default()).unwrap_err();
    assert!(matches!(batch, CallError::Status { status: Status::BAD_ENVELOPE, .. }), "{batch:?}");
    assert_eq!(client.call(ADD, &(1, 2)).unwrap(), 3);
    assert_eq!(client.agreement().unwrap().session_id, session, "it is the same session");
}

#[test]
fn an_answer_that_cannot_be_decoded_is_an_error_of_that_call() {
    let service = Service::start();
    let client = &service.client;
    let wrong = client.call(SHOUT_OF_OTHERS, b"abc").unwrap_err();
    assert!(matches!(wrong, CallError::Decode(_)), "{wrong:?}");
    assert_eq!(wrong.to_string(), "the answer cannot be decoded: 3 bytes are no u64: it has 8 bytes");
    let mut items = client.stream(COUNT_OF_OTHERS, &1_000_000, &CallOptions::default()).unwrap();
    let wrong = items.find_map(Result::err).unwrap();
    assert!(matches!(wrong, CallError::Decode(_)), "{wrong:?}");
    assert!(items.next().is_none(), "an error is the last that comes");
    let ended = service.counted.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(ended, Err(SinkError::Over(_))), "the server is told: {ended:?}");
    assert_eq!(client.call(ADD, &(1, 2)).unwrap(), 3);
}

#[test]
fn the_hashes_of_typed_methods_are_told() {
    let service = Service::start();
    let told = service.client.methods(&CallOptions::default()).unwrap();
    let told: Vec<(u16, u64)> = told.into_iter().map(|method| (method.method, method.hash)).collect();
    let own = [ADD.hash(), SHOUT.hash(), LATER.hash(), NOTE.hash(), COUNT.hash()];
    assert_eq!(told, [1, 2, 3, 4, 5].into_iter().zip(own).collect::<Vec<_>>());
    assert_ne!(ADD.hash(), 0);
}

#[cfg(feature = "tokio")]
#[test]
fn values_go_and_come_in_futures() {
    let service = Service::start();
    let client = service.client.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let (one, other) = tokio::join!(client.call_async(ADD, &(1, 2)), client.call_async(SHOUT, b"both"));
        assert_eq!((one.unwrap(), other.unwrap()), (3, b"BOTH".to_vec()));
        let options = CallOptions::default();
        assert_eq!(client.batch_async(ADD, &[(1, 2), (3, 4)], &options).await.unwrap(), [3, 7]);
        client.send_async(NOTE, &1, &options).await.unwrap();
        let mut items = client.stream_async(COUNT, &100, &options).await.unwrap();
        let mut expected = 0;
        while let Some(item) = items.next().await {
            assert_eq!(item.unwrap(), expected);
            expected += 1;
        }
        assert_eq!(expected, 100);
        let mut wrong = client.stream_async(COUNT_OF_OTHERS, &1_000_000, &options).await.unwrap();
        let error = loop {
            match wrong.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CallError::Decode(_)), "{error:?}");
        assert!(wrong.next().await.is_none());
    });
}
