//! Readers under tokio.

use crate::actor::{Actor, Dir, PATIENCE, argument};
use crate::sys;
use futures_core::Stream;
use ginnel_channel::{CloseCause, MergedReader, Mode, Reader, ReaderStream, RecvError, Writer};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn writer(dir: &Dir, name: &str) -> Writer<u64> {
    Writer::builder().run_dir(dir.path()).mode(Mode::Lossless).create(name).unwrap()
}

fn stream(dir: &Dir, name: &str) -> ReaderStream<u64> {
    Reader::builder().run_dir(dir.path()).open(name).unwrap().into_stream().unwrap()
}

async fn next(stream: &mut ReaderStream<u64>) -> Option<Result<u64, RecvError>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("not a hang")
}

/// Role: a kernel that refuses membarrier, as under a filter of system calls.
pub(crate) fn no_barrier() {
    sys::forbid_membarrier();
    let dir = argument("dir");
    let mut writer: Writer<u64> = Writer::builder().run_dir(&dir).create("one").unwrap();
    let open = || Reader::<u64>::builder().run_dir(&dir).open("one").unwrap();
    let mut merged = MergedReader::new().unwrap();
    merged.push(open()).unwrap();
    runtime().block_on(async {
        let mut stream = open().into_stream().unwrap();
        let limit = tokio::time::timeout(Duration::from_millis(200), stream.recv());
        assert!(limit.await.is_err(), "other tasks run, and nothing came");
        writer.publish(&7).unwrap();
        assert_eq!(in_time(stream.recv()).await.unwrap(), 7);
    });
    assert!(merged.recv_timeout(PATIENCE).is_some());
    let before = sys::cpu_time();
    assert!(merged.recv_timeout(Duration::from_secs(1)).is_none());
    let used = sys::cpu_time() - before;
    assert!(used < Duration::from_millis(500), "an idle reader looks now and then, but does not spin: {used:?}");
}

#[test]
fn without_barriers_an_idle_reader_neither_hangs_its_runtime_nor_spins() {
    if !ginnel_testing::is_native("seccomp") {
        return;
    }
    let dir = Dir::new();
    Actor::start("no_barrier", &[("dir", dir.text())]).finish();
}

#[test]
fn two_channels_share_a_runtime_of_one_thread_and_end_with_their_writers() {
    let dir = Dir::new();
    let mut writers = [writer(&dir, "one"), writer(&dir, "two")];
    runtime().block_on(async {
        let streams = [stream(&dir, "one"), stream(&dir, "two")];
        let publisher = std::thread::spawn(move || {
            for n in 0..2000 {
                for writer in &mut writers {
                    writer.publish(&n).unwrap();
                }
                if n % 50 == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            let [one, two] = writers;
            drop(one);
            two.abandon();
        });
        let tasks: Vec<_> = streams
            .into_iter()
            .map(|mut stream| {
                tokio::task::spawn(async move {
                    let mut received = 0;
                    loop {
                        match next(&mut stream).await {
                            Some(Ok(n)) => {
                                assert_eq!(n, received);
                                received += 1;
                            }
                            Some(Err(RecvError::Closed { cause })) => {
                                assert!(next(&mut stream).await.is_none(), "nothing comes after the end");
                                return (received, Some(cause));
                            }
                            Some(Err(other)) => panic!("{other}"),
                            None => return (received, None),
                        }
                    }
                })
            })
            .collect();
        let mut ends = Vec::new();
        for task in tasks {
            ends.push(in_time(task).await.unwrap());
        }
        assert_eq!(ends, [(2000, None), (2000, Some(CloseCause::Died))]);
        publisher.join().unwrap();
    });
}

#[test]
fn a_cancelled_receive_loses_nothing() {
    let dir = Dir::new();
    let mut writer = writer(&dir, "numbers");
    runtime().block_on(async {
        let mut stream = stream(&dir, "numbers");
        let mut cancelled = 0;
        for n in 0..500 {
            // Polled once, so that it is armed and registered, then dropped.
            {
                let mut receive = pin!(stream.recv());
                let pending = poll_fn(|context| Poll::Ready(receive.as_mut().poll(context).is_pending())).await;
                assert!(pending);
                cancelled += 1;
            }
            writer.publish(&n).unwrap();
            assert_eq!(in_time(stream.recv()).await.unwrap(), n);
        }
        assert_eq!(cancelled, 500);
    });
}

/// Counts how often a future is polled.
async fn counting<F: Future>(polls: &AtomicU64, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        polls.fetch_add(1, Ordering::Relaxed);
        future.as_mut().poll(context)
    })
    .await
}

#[test]
fn a_waiting_stream_is_polled_when_there_is_news_and_not_otherwise() {
    let dir = Dir::new();
    let mut writer = writer(&dir, "numbers");
    runtime().block_on(async {
        let mut stream = stream(&dir, "numbers");
        let polls = AtomicU64::new(0);
        for n in 0..20 {
            let before = polls.load(Ordering::Relaxed);
            let wait = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let idle = polls.load(Ordering::Relaxed) - before;
                assert!(idle <= 2, "{idle} polls without news");
                writer.publish(&n).unwrap();
                std::future::pending::<()>().await;
            };
            let receive = counting(&polls, stream.recv());
            let mut wait = pin!(wait);
            let mut receive = pin!(receive);
            let received = in_time(poll_fn(|context| {
                // The receiver is only polled here because both share a task: so the sleeper's wake-ups count as well.
                let _ = wait.as_mut().poll(context);
                receive.as_mut().poll(context)
            }))
            .await
            .unwrap();
            assert_eq!(received, n);
            let polled = polls.load(Ordering::Relaxed) - before;
            assert!(polled <= 5, "{polled} polls for one record");
        }
    });
}

#[test]
fn a_flood_of_records_does_not_starve_the_other_tasks_of_its_thread() {
    let dir = Dir::new();
    let mut flood = writer(&dir, "flood");
    runtime().block_on(async {
        let mut flooded = stream(&dir, "flood");
        for n in 0..5000 {
            flood.publish(&n).unwrap();
        }
        let taken = AtomicU64::new(0);
        let mut drain = pin!(async {
            while taken.load(Ordering::Relaxed) < 5000 {
                flooded.recv().await.unwrap();
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
        // One poll of a task takes so many records, not all that there are.
        let pending = poll_fn(|context| Poll::Ready(drain.as_mut().poll(context).is_pending())).await;
        assert!(pending && (1..1000).contains(&taken.load(Ordering::Relaxed)), "{taken:?} at once");
        in_time(drain).await;
    });
}
