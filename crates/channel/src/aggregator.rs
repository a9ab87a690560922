//! Many channels into one.

use crate::error::{PublishError, RecvError};
use crate::merged::{Interrupt, MergedReader};
use crate::writer::Writer;
use ginnel_codec::{Codec, Plain};
use std::borrow::Borrow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A thread that copies the records of several channels into one, so that many producers reach many consumers.
///
/// The output keeps each producer's order. The thread ends when all inputs are closed, the output fails, or it is
/// stopped; it sleeps while there is nothing to do.
#[derive(Debug)]
#[must_use = "dropping an aggregator stops it"]
pub struct Aggregator {
    thread: Option<JoinHandle<Result<Aggregated, PublishError>>>,
    stop: Arc<AtomicBool>,
    interrupt: Interrupt,
}

/// What an aggregator did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Aggregated {
    /// Records copied.
    pub records: u64,
    /// Records that were overwritten in an input before they were copied.
    pub missed: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Inputs whose writer died or was corrupt.
    pub failed_inputs: u64,
}

impl Aggregator {
    /// Starts copying from `inputs` to `output`.
    pub fn spawn<T, C>(mut inputs: MergedReader<T, C>, mut output: Writer<T, C>) -> io::Result<Self>
    where
        T: ?Sized + 'static,
        C: Codec<T> + 'static,
        C::Owned: Borrow<T>,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let interrupt = inputs.interrupt();
        let stopped = Arc::clone(&stop);
        output.stop_by(Arc::clone(&stop), interrupt.fd())?;
        let copy = move || {
            let mut done = Aggregated::default();
            while !stopped.load(Ordering::Acquire) {
                let Some(merged) = inputs.recv() else { break };
                match merged.record {
                    Ok(record) => match output.publish(record.borrow()) {
                        Ok(()) => done.records += 1,
                        Err(PublishError::Stopped) => break,
                        Err(error) => return Err(error),
                    },
                    Err(RecvError::Lagged { skipped }) => done.missed += skipped,
                    Err(RecvError::Decode(_)) => done.undecodable += 1,
                    Err(RecvError::Closed { cause: crate::CloseCause::Closed }) => {}
                    Err(error) => {
                        tracing::warn!(source = merged.source, %error, "an input of the aggregator failed");
                        done.failed_inputs += 1;
                    }
                }
            }
            Ok(done)
        };
        let thread = ginnel_base::thread::spawn("ginnel-aggregator", copy)?;
        Ok(Self { thread: Some(thread), stop, interrupt })
    }

    /// Waits until all inputs are closed; says what was copied, or why the output failed.
    pub fn join(mut self) -> Result<Aggregated, PublishError> {
        self.finish().expect("an aggregator is joined once")
    }

    /// Stops at once, leaving unread what has not been copied yet.
    pub fn stop(mut self) -> Result<Aggregated, PublishError> {
        self.halt();
        self.finish().expect("an aggregator is joined once")
    }

    fn halt(&self) {
        self.stop.store(true, Ordering::Release);
        self.interrupt.raise();
    }

    fn finish(&mut self) -> Option<Result<Aggregated, PublishError>> {
        let result = self.thread.take()?.join();
        Some(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.halt();
            let _ = self.finish();
        }
    }
}

const _: fn() = || {
    fn assert_send<T: Send>() {}
    assert_send::<Writer<[u8], Plain>>();
    assert_send::<MergedReader<[u8], Plain>>();
};
