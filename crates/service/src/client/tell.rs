//! What a client tells other processes about itself. See [`crate::introspect`].

use super::core::Core;
use super::options::ClientOptions;
use super::shared::Shared;
use crate::counters::Carriers;
use crate::introspect::{BUCKETS, EVERY, Figures, Histogram, Publisher, Side, Teller, remind};
use ginnel_session::Endpoint;
use std::sync::Weak;
use std::time::Instant;

/// The part of it in the client's state.
#[derive(Debug)]
pub(super) struct Telling {
    /// Not here while it publishes; `None` for good where it is switched off.
    publisher: Option<Publisher>,
    me: Weak<Shared>,
    /// It will be reminded.
    reminded: bool,
    /// Something has changed since the last look.
    touched: bool,
    latency: Histogram,
    refused: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Telling {
    pub(super) fn new(endpoint: &Endpoint, options: &ClientOptions) -> Option<Box<Self>> {
        let publisher = Publisher::new(&options.introspect, Side::Client, endpoint)?;
        Some(Box::new(Self {
            publisher: Some(publisher),
            me: Weak::new(),
            reminded: false,
            touched: false,
            latency: Histogram::default(),
            refused: 0,
            bytes_in: 0,
            bytes_out: 0,
        }))
    }

    pub(super) fn belongs_to(&mut self, me: Weak<Shared>) {
        self.me = me;
    }

    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    pub(super) fn received(&mut self, bytes: u32) {
        self.bytes_in += u64::from(bytes);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// A call is over.
    pub(super) fn ended(&mut self, begun: Instant, now: Instant) {
        self.latency.record(now.saturating_duration_since(begun));
    }

    /// Something has changed: it is published a little later. Clients that are gone by then never publish at all.
    pub(super) fn touch(&mut self, now: Instant) {
        self.touched = true;
        if !self.reminded
            && let Some(publisher) = &mut self.publisher
        {
            publisher.touch();
            if let Some(due) = publisher.due() {
                self.reminded = remind(due.max(now + EVERY), self.me.clone());
            }
        }
    }

    /// Left to the parent of this process, which was made by `fork`: the channel is the parent's.
    pub(super) fn leave(&mut self) {
        std::mem::forget(self.publisher.take());
    }
}

impl Core {
    fn figures(&self, endpoint: &Endpoint) -> Figures {
        let mut figures = Figures::default();
        let counters = &self.counters;
        figures.sessions = counters.connects + counters.reconnects;
        figures.requests = counters.calls + counters.errors;
        (figures.failures, figures.retries) = (counters.errors, counters.retries);
        let carriers = Carriers::default();
        for link in self.links() {
            carriers.of(endpoint, &link.agreement).add(1);
            figures.active += 1;
        }
        carriers.tell(&mut figures);
        figures.window = self.link.as_ref().map_or(0, |link| link.connection.window() as u64);
        figures.in_flight = self.in_flight() as u64;
        if let Some(telling) = &self.telling {
            (figures.bytes_in, figures.bytes_out) = (telling.bytes_in, telling.bytes_out);
            figures.refused = telling.refused;
        }
        figures
    }
}

impl Teller for Shared {
    fn tell(&self, now: Instant) {
        let Ok(mut core) = self.enter() else { return };
        let figures = core.figures(&self.endpoint);
        let Some(telling) = &mut core.telling else { return };
        let Some(mut publisher) = telling.publisher.take() else { return };
        let mut latency = [0; BUCKETS];
        telling.latency.read(&mut latency);
        telling.touched = false;
        drop(core);
        // Without the lock: it may have to make the channel.
        publisher.publish(now, false, |of, buckets| (*of, *buckets) = (figures, latency));
        let Ok(mut core) = self.enter() else { return std::mem::forget(publisher) };
        let now = core.now;
        let Some(telling) = &mut core.telling else { return };
        let again = telling.touched || publisher.due().is_some();
        (telling.publisher, telling.reminded) = (Some(publisher), false);
        if again {
            telling.touch(now);
        }
        self.alarm(&mut core);
    }
}
