//! Two byte rings in one sealed memfd.

use super::{BLOCK_WORDS, ByteConsumer, ByteProducer, Shape};
use crate::segment::{Access, Expect, Segment, SegmentError, Spec};
use crate::segment_params::{PARAMS, WORD_PARAMS};
use rustix::fd::{BorrowedFd, OwnedFd};

/// The kind of a segment that holds two rings.
pub const RING_KIND: u32 = u32::from_le_bytes(*b"ring");
/// The layout of its header and records, as `docs/spec/ginnel-wire-2.md` draws them.
pub const LAYOUT: u64 = 2;
const _: () = assert!((WORD_PARAMS + 2 * BLOCK_WORDS) * 8 <= crate::segment::HEADER_BYTES);

/// How large the rings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairSizes {
    /// The ring from client to server.
    pub requests: Shape,
    /// The ring from server to client.
    pub responses: Shape,
}

impl PairSizes {
    /// Rings of so many bytes. `None` unless both are powers of two, whole pages and at most 1 GiB.
    #[must_use]
    pub fn new(requests: usize, responses: usize) -> Option<Self> {
        let page = rustix::param::page_size();
        let shape = |bytes: usize| if bytes >= page { Shape::new(bytes) } else { None };
        Some(Self { requests: shape(requests)?, responses: shape(responses)? })
    }

    fn bytes(self) -> [usize; 2] {
        [self.requests.bytes(), self.responses.bytes()]
    }
}

/// Which end of the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Sends requests.
    Client,
    /// Sends responses.
    Server,
}

/// A mapped pair of rings whose cursors nobody has taken yet.
#[derive(Debug)]
pub struct RingPair {
    segment: Segment,
    sizes: PairSizes,
}

impl RingPair {
    /// Makes the memory: a sealed memfd, backed in full. `instance` ties it to its session.
    ///
    /// # Errors
    /// There is no room for it, or no descriptor.
    pub fn create(sizes: PairSizes, instance: u64) -> Result<Self, SegmentError> {
        let areas = sizes.bytes();
        let mut params = [0; PARAMS];
        (params[0], params[1]) = (areas[0] as u64, areas[1] as u64);
        let spec = Spec { kind: RING_KIND, layout: LAYOUT, instance, params, data: areas[0] + areas[1], mirror: false };
        let segment = Segment::memfd_of_areas("ginnel-ring", &spec)?;
        segment.seal_as_it_is()?;
        Ok(Self { segment, sizes })
    }

    /// Maps what the peer made. Everything that its header says must be what the handshake said.
    ///
    /// # Errors
    /// It is no sealed memfd, or not what was expected.
    pub fn inherit(fd: OwnedFd, sizes: PairSizes, instance: u64) -> Result<Self, SegmentError> {
        let expect = Expect { kind: RING_KIND, layout: Some(LAYOUT), instance: Some(instance), owner: None };
        let segment = Segment::inherit("ginnel-ring", fd, Access::ReadWrite, &expect)?;
        let found = segment.areas();
        let expected = sizes.bytes();
        for (field, index) in [("request ring", 0), ("response ring", 1)] {
            if found.map(|areas| areas[index]) != Some(expected[index]) {
                return Err(SegmentError::Mismatch {
                    name: "ginnel-ring".to_owned(),
                    field,
                    found: found.map_or(0, |areas| areas[index] as u64),
                    expected: expected[index] as u64,
                });
            }
        }
        Ok(Self { segment, sizes })
    }

    /// The memory, to hand to the peer.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// The cursors of one side, once. The descriptor is closed; the memory stays mapped as long as one of them lives.
    #[must_use]
    pub fn split(self, side: Side) -> (ByteProducer, ByteConsumer) {
        let (send, receive, out, back) = match side {
            Side::Client => (0, 1, self.sizes.requests, self.sizes.responses),
            Side::Server => (1, 0, self.sizes.responses, self.sizes.requests),
        };
        let block = |ring: usize| self.segment.header_area(WORD_PARAMS + ring * BLOCK_WORDS, BLOCK_WORDS);
        let producer = ByteProducer::new(out, block(send), self.segment.area(send));
        let consumer = ByteConsumer::new(back, block(receive), self.segment.area(receive));
        // `create` and `inherit` have made the areas as large as the shapes say.
        (producer.expect("an area of its ring's size"), consumer.expect("an area of its ring's size"))
    }
}
