//! Two byte rings as a carrier of packets: see [`crate::ring`].

use super::{Carrier, Source};
use crate::error::SessionError;
use crate::ring::Ring;
use std::os::fd::BorrowedFd;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct RingLink {
    ring: Ring,
    // What was wrong when it was armed: the next receive says it.
    wrong: Option<SessionError>,
}

impl RingLink {
    pub(crate) fn new(ring: Ring) -> Self {
        Self { ring, wrong: None }
    }
}

impl Carrier for RingLink {
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
        self.ring.try_send(head, body)
    }

    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        if let Some(len) = self.ring.try_recv(space)? {
            return Ok(Some(len));
        }
        let due = self.ring.due();
        if space.is_empty() || due <= space.len() {
            return Ok(None);
        }
        // More than the session's packets may have: cut, as a socket does, and its length told.
        let mut whole = vec![0; due];
        let received = self.ring.try_recv(&mut whole)?;
        if received.is_some() {
            space.copy_from_slice(&whole[..space.len()]);
        }
        Ok(received)
    }

    fn due(&mut self) -> usize {
        self.ring.due()
    }

    fn source(&self) -> Source<'_> {
        Source::Ring { bell: self.ring.bell(), socket: self.ring.socket() }
    }

    fn arm(&mut self) -> bool {
        match self.ring.arm() {
            Ok(quiet) => quiet && self.wrong.is_none(),
            Err(error) => {
                self.wrong = Some(error);
                false
            }
        }
    }

    fn has_news(&mut self) -> Option<bool> {
        Some(self.wrong.is_some() || self.ring.has_news())
    }

    fn nap_limit(&self) -> Option<Duration> {
        self.ring.nap_limit()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.ring.socket()
    }
}
