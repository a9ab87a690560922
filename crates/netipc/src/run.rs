//! What both faces of the typed clients do with answers, and when they ask for more: no I/O.

use crate::client::NetipcError;
use crate::lookup::Lookup;
use crate::plain::decode_increment;
use crate::split::{LookupAnswer, LookupCeilings, LookupError, LookupSplit, RequestLimits, Step};
use ginnel_session::Limits;

/// Requests that a lookup client asks its server to take when its keys do not fit: thousands of keys a request. A
/// server that refuses is asked in smaller requests from then on.
const LOOKUP_REQUEST: usize = 64 << 10;
/// How often a lookup starts again because the provider's data changed under it.
pub(crate) const LOOKUP_ATTEMPTS: u32 = 3;

/// The answers to a batch of increments; `answers` is emptied first.
pub(crate) fn increments<'a>(
    items: impl IntoIterator<Item = &'a [u8]>,
    asked: usize,
    answers: &mut Vec<u64>,
) -> Result<(), NetipcError> {
    answers.clear();
    for item in items {
        answers.push(decode_increment(item)?);
    }
    if answers.len() != asked {
        return Err(NetipcError::Count { asked, answered: answers.len() });
    }
    Ok(())
}

/// One lookup: its requests, one after the other, and how large they may be.
#[derive(Debug)]
pub(crate) struct LookupRun<'k, L: Lookup> {
    split: LookupSplit<'k, L>,
    /// Bytes that the key in front needs and the session does not have.
    needed: usize,
}

impl<'k, L: Lookup> LookupRun<'k, L> {
    pub(crate) fn new(keys: &'k [L::Key<'k>], ceilings: LookupCeilings) -> Result<Self, LookupError> {
        Ok(Self { split: LookupSplit::new(keys, ceilings)?, needed: 0 })
    }

    /// Writes the next request; false if there is none. It keeps to the limits of the session (requests, responses), or
    /// goes beyond them while the server may still agree to more.
    pub(crate) fn next(
        &mut self,
        session: Option<(Limits, Limits)>,
        may_grow: bool,
        request: &mut Vec<u8>,
    ) -> Result<bool, LookupError> {
        let (requests, responses) = session
            .map_or((0, 0), |(requests, responses)| (requests.max_payload as usize, responses.max_payload as usize));
        let wanted = if may_grow { LOOKUP_REQUEST } else { 0 };
        loop {
            let limits = RequestLimits { request: requests.max(wanted).max(self.needed), response: responses };
            match self.split.next(limits, request)? {
                Step::Done => return Ok(false),
                Step::Ask => return Ok(true),
                Step::Grow { payload } => self.needed = payload,
            }
        }
    }

    pub(crate) fn answer(&mut self, payload: &[u8]) -> Result<(), LookupError> {
        self.needed = 0;
        self.split.answer(payload)
    }

    /// The server does not take the request. Whether another may do.
    pub(crate) fn too_large(&mut self, may_grow: &mut bool) -> Result<bool, LookupError> {
        if self.needed > 0 {
            self.split.cannot_grow(std::mem::take(&mut self.needed))?;
            return Ok(true);
        }
        Ok(std::mem::take(may_grow))
    }

    pub(crate) fn finish(self) -> Result<LookupAnswer<L>, LookupError> {
        self.split.finish()
    }
}
