//! The server's side of a lookup: fit as many answers as possible under the response limit, and say so for the rest.
//!
//! Every key gets an item. While adding answer `i`, the room behind it must still hold *minimal* PAYLOAD_EXCEEDED items
//! for all that follow; the first answer that breaks this starts the exceeded tail, which the client asks for again. An
//! answer that does not even fit as the first of its response never will: it becomes OVERSIZED_ITEM, and the rest goes
//! on as usual.

use crate::bytes::{align8, put_u64};
use crate::error::EncodeError;
use crate::lookup::{HEADER, Lookup, LookupRequest, LookupResponseBuilder};

/// Answers one lookup request, key by key, within a limit.
///
/// ```
/// use ginnel_netipc::{CgroupOutcome, CgroupsLookup, LookupDispatch, LookupRequest, LookupRequestBuilder, LookupResponse};
///
/// let mut request = Vec::new();
/// let mut builder = LookupRequestBuilder::<CgroupsLookup>::new(&mut request, 1024, 1)?;
/// builder.push(b"/gone")?;
/// builder.finish();
///
/// let mut response = Vec::new();
/// let request = LookupRequest::<CgroupsLookup>::decode(&request)?;
/// let mut dispatch = LookupDispatch::new(request, &mut response, 1024)?;
/// dispatch.set_generation(7);
/// while let Some(_path) = dispatch.next_key() {
///     dispatch.answer(&CgroupOutcome::UnknownPermanent)?;
/// }
/// dispatch.finish()?;
/// let answer = LookupResponse::<CgroupsLookup>::decode(&response)?.get(0).unwrap();
/// assert_eq!(answer.outcome, CgroupOutcome::UnknownPermanent);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LookupDispatch<'r, 'o, L> {
    request: LookupRequest<'r, L>,
    response: LookupResponseBuilder<'o, L>,
    /// Room for items, the directory of all keys taken off.
    area: usize,
    /// Bytes of minimal items for the keys not yet answered, the next one included.
    tail: usize,
    next: usize,
    exceeded: bool,
}

impl<'r, 'o, L: Lookup> LookupDispatch<'r, 'o, L> {
    /// Starts the response to `request` at the end of `out`: at most `limit` bytes of payload, generation 0.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if not even minimal items for all keys fit: the server answers LIMIT_EXCEEDED.
    pub fn new(request: LookupRequest<'r, L>, out: &'o mut Vec<u8>, limit: usize) -> Result<Self, EncodeError> {
        let fixed = HEADER + 8 * request.len();
        let mut tail = 0;
        for key in request.keys() {
            tail = align8(tail) + L::item_len(key, &L::payload_exceeded())?;
        }
        let limit = limit.min(u32::MAX as usize);
        if fixed + tail > limit {
            return Err(EncodeError::TooLarge { needed: (fixed + tail) as u64, limit: limit as u64 });
        }
        let response = LookupResponseBuilder::new(out, limit, 0, request.len())?;
        Ok(Self { request, response, area: limit - fixed, tail, next: 0, exceeded: false })
    }

    /// States the generation of the data that the answers come from.
    pub fn set_generation(&mut self, generation: u64) {
        put_u64(self.response.packed.header_mut(), 8, generation);
    }

    /// The key to be answered next, or `None` when all are. Keys behind a full response are not asked for: they are
    /// marked PAYLOAD_EXCEEDED by [`LookupDispatch::finish`], so that no work is done for answers that cannot be sent.
    pub fn next_key(&self) -> Option<L::Key<'r>> {
        if self.exceeded { None } else { self.request.get(self.next) }
    }

    /// Answers the key that [`LookupDispatch::next_key`] shows. An answer without a key to it is ignored.
    ///
    /// # Errors
    /// What makes the answer unfit to be sent at all (NUL in a string, empty `comm`); the key is still to be answered.
    pub fn answer(&mut self, outcome: &L::Outcome<'_>) -> Result<(), EncodeError> {
        let Some(key) = self.next_key() else { return Ok(()) };
        let len = L::item_len(key, outcome)?;
        let minimal = L::item_len(key, &L::payload_exceeded())?;
        let last = self.next + 1 == self.request.len();
        let tail_behind = if last { 0 } else { self.tail - align8(minimal) };
        let start = align8(self.response.packed.used());
        let end = start.saturating_add(len);
        let fits = end <= self.area && (last || align8(end) + tail_behind <= self.area);
        if fits {
            self.response.push(key, outcome)?;
        } else if self.next == 0 {
            self.response.push(key, &L::oversized())?;
        } else {
            self.exceeded = true;
            return Ok(());
        }
        self.tail = tail_behind;
        self.next += 1;
        Ok(())
    }

    /// Completes the response and returns its length.
    ///
    /// # Errors
    /// [`EncodeError::Unanswered`] if keys that had room were not answered: a defect of the handler.
    pub fn finish(mut self) -> Result<usize, EncodeError> {
        let asked = self.request.len();
        if !self.exceeded && self.next < asked {
            return Err(EncodeError::Unanswered { asked, answered: self.next });
        }
        for index in self.next..asked {
            if let Some(key) = self.request.get(index) {
                self.response.push(key, &L::payload_exceeded())?;
            }
        }
        Ok(self.response.finish())
    }
}
