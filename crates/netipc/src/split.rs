//! The client's side of a lookup: any number of keys, cut into requests that fit, stitched into one answer. No I/O.
//!
//! ```text
//! keys 0..n --next()--> request of keys [a, b) --caller asks the server--> answer(payload)
//!                         |                                                   |
//!                         |   PAYLOAD_EXCEEDED at k: go on from k             |
//!                         |   OVERSIZED_ITEM of many: that key again, alone   |
//!                         +<--------------------------------------------------+
//!                         `-- Done --> finish(): n items in the order of the keys, one generation
//! ```

use crate::bytes::align8;
use crate::error::{DecodeError, EncodeError};
use crate::lookup::{HEADER, Lookup, LookupRequestBuilder, LookupResponse, LookupResponseBuilder, Verdict};
use std::marker::PhantomData;
use std::ops::Range;

/// Bounds of one logical lookup, so that no server can make it endless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LookupCeilings {
    /// Keys of one logical lookup.
    pub items: usize,
    /// Requests that it may take.
    pub subcalls: u32,
    /// Bytes of the stitched answer.
    pub bytes: usize,
}

impl Default for LookupCeilings {
    /// The field's defaults: 65,536 keys, 4,096 requests, 64 MiB.
    fn default() -> Self {
        Self { items: 65_536, subcalls: 4_096, bytes: 64 << 20 }
    }
}

/// Why a logical lookup failed. None of its answers is delivered: an answer is whole or absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// More keys than the ceiling allows.
    #[error("{keys} keys asked; the ceiling is {ceiling}: ask in several lookups")]
    TooManyKeys {
        /// Keys given.
        keys: usize,
        /// [`LookupCeilings::items`].
        ceiling: usize,
    },
    /// A key that no request can carry.
    #[error("key {index} cannot be sent: {source}")]
    Key {
        /// Which one.
        index: usize,
        /// Why.
        source: EncodeError,
    },
    /// More requests needed than the ceiling allows.
    #[error("not answered within {ceiling} requests")]
    TooManySubcalls {
        /// [`LookupCeilings::subcalls`].
        ceiling: u32,
    },
    /// The stitched answer would exceed its ceiling.
    #[error("the answer takes more than {ceiling} bytes")]
    AnswerTooLarge {
        /// [`LookupCeilings::bytes`].
        ceiling: usize,
    },
    /// A response that is not one.
    #[error("malformed response: {0}")]
    Malformed(#[from] DecodeError),
    /// A response with more or fewer items than keys were asked.
    #[error("{answered} answers to {asked} keys")]
    Count {
        /// Keys asked.
        asked: usize,
        /// Items received.
        answered: usize,
    },
    /// An item that answers another key.
    #[error("answer {index} of the response echoes another key")]
    Echo {
        /// Position in the response.
        index: usize,
    },
    /// The provider's data changed between two requests of one lookup.
    #[error("the generation changed from {first} to {now} while asking: ask again")]
    GenerationChanged {
        /// Generation of the first response.
        first: u64,
        /// Generation of the response that differs.
        now: u64,
    },
    /// A response whose exceeded tail has a hole, or which answers nothing at all.
    #[error("answer {index} of the response breaks the PAYLOAD_EXCEEDED rule")]
    NoProgress {
        /// Position in the response.
        index: usize,
    },
    /// The session cannot carry a request for even one key.
    #[error("a request of {needed} bytes is needed; the session cannot carry it")]
    RequestLimit {
        /// Bytes needed.
        needed: usize,
    },
}

/// What one request of a lookup may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of the request payload.
    pub request: usize,
    /// Bytes of the response payload: no more keys are asked at once than it has room to say "too much" to. 0 sets no
    /// limit.
    pub response: usize,
}

/// What [`LookupSplit::next`] wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send the request that was just written, hand the response payload to [`LookupSplit::answer`].
    Ask,
    /// No request for the next key fits. Get a session that takes `payload` bytes and call [`LookupSplit::next`] with
    /// its limit, or call [`LookupSplit::cannot_grow`].
    Grow {
        /// Request payload bytes needed.
        payload: usize,
    },
    /// All keys are answered: [`LookupSplit::finish`].
    Done,
}

/// One logical lookup in progress.
#[derive(Debug)]
pub struct LookupSplit<'k, L: Lookup> {
    keys: &'k [L::Key<'k>],
    ceilings: LookupCeilings,
    /// Where the item of each key lies in `items`; empty until it is answered.
    answered: Vec<Range<usize>>,
    items: Vec<u8>,
    /// Size of the stitched answer so far.
    stitched: usize,
    generation: Option<u64>,
    subcalls: u32,
    /// First key never asked, or to be asked again behind an exceeded tail.
    next: usize,
    /// Keys called oversized in company: to be asked alone. A queue in the order of the keys.
    alone: Vec<usize>,
    /// The keys of the request in flight.
    asked: Option<Range<usize>>,
    asking_alone: bool,
    /// The response that answered all keys at once: the usual case, in which nothing needs stitching.
    whole: Option<Vec<u8>>,
}

impl<'k, L: Lookup> LookupSplit<'k, L> {
    /// Starts a lookup of `keys`, which may repeat.
    ///
    /// # Errors
    /// [`LookupError::TooManyKeys`]; [`LookupError::Key`] for a key that no request can carry.
    pub fn new(keys: &'k [L::Key<'k>], ceilings: LookupCeilings) -> Result<Self, LookupError> {
        if keys.len() > ceilings.items {
            return Err(LookupError::TooManyKeys { keys: keys.len(), ceiling: ceilings.items });
        }
        for (index, key) in keys.iter().enumerate() {
            L::key_len(*key).map_err(|source| LookupError::Key { index, source })?;
        }
        Ok(Self {
            keys,
            ceilings,
            answered: vec![0..0; keys.len()],
            items: Vec::new(),
            stitched: HEADER + 8 * keys.len(),
            generation: None,
            subcalls: 0,
            next: 0,
            alone: Vec::new(),
            asked: None,
            asking_alone: false,
            whole: None,
        })
    }

    /// Writes the next request, within `limits`, into the emptied `request`.
    ///
    /// Called again without an answer in between, it writes the same keys anew: a request may be cut to the limit of a
    /// fresh session. A lookup of no keys still asks once, for the generation.
    ///
    /// # Errors
    /// [`LookupError::TooManySubcalls`].
    pub fn next(&mut self, limits: RequestLimits, request: &mut Vec<u8>) -> Result<Step, LookupError> {
        request.clear();
        let alone = self.alone.first().copied();
        let first = alone.unwrap_or(self.next);
        if first == self.keys.len() && self.generation.is_some() {
            return Ok(Step::Done);
        }
        if self.subcalls >= self.ceilings.subcalls {
            return Err(LookupError::TooManySubcalls { ceiling: self.ceilings.subcalls });
        }
        let end = if alone.is_some() { first + 1 } else { self.keys.len() };
        let grow = |payload| Ok(Step::Grow { payload });
        let Ok(mut builder) = LookupRequestBuilder::<L>::new(request, limits.request, 0) else { return grow(HEADER) };
        let mut count = 0;
        let mut smallest_response = HEADER;
        for (index, key) in self.keys[first..end].iter().enumerate() {
            let minimal = L::item_len(*key, &L::payload_exceeded()).unwrap_or(usize::MAX / 2);
            smallest_response += 8 + align8(minimal);
            if count > 0 && limits.response > 0 && smallest_response > limits.response {
                break;
            }
            match builder.push(*key) {
                Ok(()) => count += 1,
                Err(EncodeError::TooLarge { needed, .. }) if count == 0 => return grow(needed as usize),
                Err(EncodeError::TooLarge { .. }) => break,
                Err(source) => return Err(LookupError::Key { index: first + index, source }),
            }
        }
        builder.finish();
        self.asked = Some(first..first + count);
        self.asking_alone = alone.is_some();
        Ok(Step::Ask)
    }

    /// No session can carry the key that [`Step::Grow`] was about. A path that long gets its OVERSIZED_ITEM from here
    /// and the lookup goes on; a pid cannot be too long, so the session is useless.
    ///
    /// # Errors
    /// [`LookupError::RequestLimit`], [`LookupError::AnswerTooLarge`].
    pub fn cannot_grow(&mut self, payload: usize) -> Result<(), LookupError> {
        let alone = self.alone.first().copied();
        let index = alone.unwrap_or(self.next);
        if !L::KEYS_VARY || index >= self.keys.len() || payload <= HEADER {
            return Err(LookupError::RequestLimit { needed: payload });
        }
        let fail = |source| LookupError::Key { index, source };
        let len = L::item_len(self.keys[index], &L::oversized()).map_err(fail)?;
        let start = self.reserve(len)?;
        L::put_item(self.keys[index], &L::oversized(), &mut self.items[start..]);
        self.answered[index] = start..start + len;
        self.leave(alone.is_some());
        Ok(())
    }

    /// Takes the response payload to the request last written.
    ///
    /// # Errors
    /// Whatever makes the response useless; the lookup is then over.
    pub fn answer(&mut self, payload: &[u8]) -> Result<(), LookupError> {
        let asked = self.asked.take().unwrap_or(self.next..self.next);
        self.subcalls += 1;
        let response = LookupResponse::<L>::decode(payload)?;
        if response.len() != asked.len() {
            return Err(LookupError::Count { asked: asked.len(), answered: response.len() });
        }
        let now = response.generation();
        match self.generation {
            Some(first) if first != now => return Err(LookupError::GenerationChanged { first, now }),
            _ => self.generation = Some(now),
        }
        let verdicts = response.iter().map(|answer| (answer.key, L::verdict(&answer.outcome)));
        if asked.len() == self.keys.len()
            && payload.len() <= self.ceilings.bytes
            && verdicts
                .zip(self.keys)
                .all(|((echo, verdict), key)| verdict == Verdict::Final && L::same_key(echo, *key))
        {
            self.whole = Some(payload.to_vec());
            self.next = asked.end;
            return Ok(());
        }
        let mut exceeded_from = None;
        for (index, answer) in response.iter().enumerate() {
            let key = asked.start + index;
            if !L::same_key(answer.key, self.keys[key]) {
                return Err(LookupError::Echo { index });
            }
            match (L::verdict(&answer.outcome), exceeded_from) {
                (Verdict::PayloadExceeded, None) if index == 0 => return Err(LookupError::NoProgress { index }),
                (Verdict::PayloadExceeded, None) => exceeded_from = Some(key),
                (Verdict::PayloadExceeded, Some(_)) => {}
                (_, Some(_)) => return Err(LookupError::NoProgress { index }),
                (Verdict::OversizedItem, None) if asked.len() > 1 => self.alone.push(key),
                (_, None) => self.keep(key, response.raw_item(index))?,
            }
        }
        if self.asking_alone {
            self.leave(true);
        } else {
            self.next = exceeded_from.unwrap_or(asked.end);
        }
        Ok(())
    }

    /// Stitches the items of all keys into one response.
    ///
    /// # Errors
    /// [`LookupError::NoProgress`] before [`Step::Done`].
    pub fn finish(self) -> Result<LookupAnswer<L>, LookupError> {
        if let Some(payload) = self.whole {
            return Ok(LookupAnswer { payload, lookup: PhantomData });
        }
        let mut payload = Vec::with_capacity(self.stitched);
        let full = |_| LookupError::AnswerTooLarge { ceiling: self.ceilings.bytes };
        let generation = self.generation.unwrap_or_default();
        let mut builder =
            LookupResponseBuilder::<L>::new(&mut payload, self.ceilings.bytes, generation, self.keys.len())
                .map_err(full)?;
        for (index, range) in self.answered.iter().enumerate() {
            if range.is_empty() {
                return Err(LookupError::NoProgress { index });
            }
            builder.push_raw(&self.items[range.clone()]).map_err(full)?;
        }
        builder.finish();
        Ok(LookupAnswer { payload, lookup: PhantomData })
    }

    /// The number of requests answered so far.
    #[must_use]
    pub fn subcalls(&self) -> u32 {
        self.subcalls
    }

    fn leave(&mut self, alone: bool) {
        if alone {
            self.alone.remove(0);
        } else {
            self.next += 1;
        }
    }

    fn keep(&mut self, key: usize, item: &[u8]) -> Result<(), LookupError> {
        let start = self.reserve(item.len())?;
        self.items[start..].copy_from_slice(item);
        self.answered[key] = start..start + item.len();
        Ok(())
    }

    /// Room for one more item, within the ceiling on what will be stitched.
    fn reserve(&mut self, len: usize) -> Result<usize, LookupError> {
        let stitched = align8(self.stitched) + len;
        if stitched > self.ceilings.bytes {
            return Err(LookupError::AnswerTooLarge { ceiling: self.ceilings.bytes });
        }
        self.stitched = stitched;
        let start = self.items.len();
        self.items.resize(start + len, 0);
        Ok(start)
    }
}

/// The answer to one logical lookup: an item for every key, in the order of the keys.
#[derive(Debug, Clone)]
pub struct LookupAnswer<L> {
    payload: Vec<u8>,
    lookup: PhantomData<L>,
}

impl<L: Lookup> LookupAnswer<L> {
    /// The answer as one response, whatever number of requests it took.
    #[must_use]
    pub fn response(&self) -> LookupResponse<'_, L> {
        LookupResponse::checked(&self.payload)
    }

    /// The stitched payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}
