//! One message in many packets, for carriers that keep packet boundaries.
//!
//! Packet 0 is the envelope and the first payload bytes; every later packet is a chunk header and more payload. All
//! packets but the last are full, since receivers compute the number of chunks from the size of packet 0.
//!
//! ```text
//!  0 u32 magic 0x4e43484b   4 u16 version 1   6 u16 flags 0   8 u64 message_id
//! 16 u32 total_message_len 20 u32 chunk_index (1, 2, ...)  24 u32 chunk_count  28 u32 chunk_payload_len
//! ```

use crate::bytes::{put, u16_at, u32_at, u64_at};
use crate::{ENVELOPE_LEN, Envelope, VERSION};
use core::ops::Range;

/// First four bytes of every packet of a message but the first, as a native integer.
pub const CHUNK_MAGIC: u32 = 0x4e43_484b;
/// Packets must be larger than this: a header and at least one byte.
pub const MIN_PACKET_SIZE: u32 = 33;

const CHUNK_HEADER_LEN: usize = 32;

/// The header of packet 1 and later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Id of the message that is being continued.
    pub message_id: u64,
    /// Envelope and payload of the whole message, in bytes.
    pub total_len: u32,
    /// 1 for the packet after the first.
    pub index: u32,
    /// Packets of the message, the first one included.
    pub count: u32,
    /// Payload bytes of this packet.
    pub payload_len: u32,
}

/// Why a packet does not continue the message that was begun. Any of these ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// Fewer than 32 bytes.
    #[error("chunk header is truncated: {len} of 32 bytes")]
    Truncated {
        /// Bytes there were.
        len: usize,
    },
    /// Not the chunk magic.
    #[error("chunk magic is {found:#010x}, not 0x4e43484b")]
    Magic {
        /// What was there.
        found: u32,
    },
    /// A version other than 1.
    #[error("chunk version is {found}, not 1")]
    Version {
        /// What was there.
        found: u16,
    },
    /// Flags that this version does not know.
    #[error("chunk flags are {found:#x}, not 0")]
    Flags {
        /// What was there.
        found: u16,
    },
    /// A chunk of another message came before the last chunk of this one.
    #[error("chunk belongs to message {found}, not {expected}")]
    MessageId {
        /// Id in the chunk.
        found: u64,
        /// Id in the envelope.
        expected: u64,
    },
    /// The total differs from the envelope's.
    #[error("chunk says the message has {found} bytes, its envelope says {expected}")]
    TotalLen {
        /// Total in the chunk.
        found: u32,
        /// Total by the envelope.
        expected: u32,
    },
    /// A chunk was skipped or repeated.
    #[error("chunk index is {found}, not {expected}")]
    Index {
        /// Index in the chunk.
        found: u32,
        /// The next one due.
        expected: u32,
    },
    /// The count is not the one that packet 0 implies.
    #[error("chunk count is {found}, not {expected}")]
    Count {
        /// Count in the chunk.
        found: u32,
        /// Count computed from packet 0.
        expected: u32,
    },
    /// The chunk's own length is not that of its packet, or is zero.
    #[error("chunk says it carries {found} bytes, its packet carries {actual}")]
    PayloadLen {
        /// Length in the chunk header.
        found: u32,
        /// Bytes behind the header.
        actual: usize,
    },
    /// The chunk carries more than the message has left, or less although it is not the last.
    #[error("chunk {index} carries {found} bytes where {expected} are due")]
    Size {
        /// The chunk.
        index: u32,
        /// Bytes it carries.
        found: u32,
        /// Bytes it must carry.
        expected: u32,
    },
    /// Packet 0 is longer than its envelope says.
    #[error("packet has {len} bytes, its envelope says {total}")]
    TrailingBytes {
        /// Bytes of the packet.
        len: usize,
        /// Bytes of the whole message.
        total: u64,
    },
    /// The envelope announces more than 2^32-1 bytes in all.
    #[error("message of {total} bytes is above 2^32-1")]
    TooLong {
        /// Bytes of the whole message.
        total: u64,
    },
}

impl ChunkHeader {
    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_HEADER_LEN] {
        let mut out = [0; CHUNK_HEADER_LEN];
        put(&mut out, 0, CHUNK_MAGIC.to_ne_bytes());
        put(&mut out, 4, VERSION.to_ne_bytes());
        put(&mut out, 8, self.message_id.to_ne_bytes());
        put(&mut out, 16, self.total_len.to_ne_bytes());
        put(&mut out, 20, self.index.to_ne_bytes());
        put(&mut out, 24, self.count.to_ne_bytes());
        put(&mut out, 28, self.payload_len.to_ne_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// `Truncated`, `Magic`, `Version` or `Flags`, in this order.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        if bytes.len() < CHUNK_HEADER_LEN {
            return Err(ChunkError::Truncated { len: bytes.len() });
        }
        let magic = u32_at(bytes, 0);
        if magic != CHUNK_MAGIC {
            return Err(ChunkError::Magic { found: magic });
        }
        let version = u16_at(bytes, 4);
        if version != VERSION {
            return Err(ChunkError::Version { found: version });
        }
        let flags = u16_at(bytes, 6);
        if flags != 0 {
            return Err(ChunkError::Flags { found: flags });
        }
        Ok(Self {
            message_id: u64_at(bytes, 8),
            total_len: u32_at(bytes, 16),
            index: u32_at(bytes, 20),
            count: u32_at(bytes, 24),
            payload_len: u32_at(bytes, 28),
        })
    }
}

/// One packet to send: 32 header bytes and a range of the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Envelope or chunk header.
    pub header: [u8; 32],
    /// Which payload bytes follow it.
    pub payload: Range<usize>,
}

/// The packets of one message, in sending order. Cutting copies nothing.
#[derive(Debug, Clone)]
pub struct Packets {
    envelope: Envelope,
    budget: u32,
    count: u32,
    index: u32,
    sent: u32,
}

impl Packets {
    /// Cuts a message for packets of `packet_size` bytes, or `None` if that is below [`MIN_PACKET_SIZE`] or the whole
    /// message would exceed 2^32-1 bytes.
    #[must_use]
    #[inline]
    pub fn new(envelope: &Envelope, packet_size: u32) -> Option<Self> {
        if packet_size < MIN_PACKET_SIZE || envelope.total_len() > u64::from(u32::MAX) {
            return None;
        }
        let budget = packet_size - CHUNK_HEADER_LEN as u32;
        let count = envelope.payload_len.div_ceil(budget).max(1);
        Some(Self { envelope: *envelope, budget, count, index: 0, sent: 0 })
    }

    /// Packets of the whole message, at least 1.
    #[must_use]
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether all of them were handed out.
    #[must_use]
    #[inline]
    pub fn is_over(&self) -> bool {
        self.index == self.count
    }
}

impl Iterator for Packets {
    type Item = Packet;

    #[inline]
    fn next(&mut self) -> Option<Packet> {
        if self.index == self.count {
            return None;
        }
        let length = self.budget.min(self.envelope.payload_len - self.sent);
        let header = if self.index == 0 {
            self.envelope.encode()
        } else {
            ChunkHeader {
                message_id: self.envelope.message_id,
                // Fits: checked by `new`.
                total_len: self.envelope.total_len() as u32,
                index: self.index,
                count: self.count,
                payload_len: length,
            }
            .encode()
        };
        let start = self.sent as usize;
        self.index += 1;
        self.sent += length;
        Some(Packet { header, payload: start..start + length as usize })
    }
}

/// Checks the packets of one message as they arrive. It holds no payload: the caller appends what is handed back.
#[derive(Debug, Clone)]
pub struct Assembler {
    message_id: u64,
    total_len: u32,
    budget: u32,
    count: u32,
    next: u32,
    missing: u32,
}

impl Assembler {
    /// Begins with packet 0, `len` bytes long with its envelope, for packets of `packet_size` bytes.
    ///
    /// # Errors
    /// `TooLong` or `TrailingBytes`.
    ///
    /// # Panics
    /// If `packet_size` is below [`MIN_PACKET_SIZE`] or `len` below 32: both are the caller's, never the peer's.
    #[inline]
    pub fn new(envelope: &Envelope, len: usize, packet_size: u32) -> Result<Self, ChunkError> {
        assert!(packet_size >= MIN_PACKET_SIZE && len >= ENVELOPE_LEN);
        let total = envelope.total_len();
        let total_len = u32::try_from(total).map_err(|_| ChunkError::TooLong { total })?;
        if len as u64 > total {
            return Err(ChunkError::TrailingBytes { len, total });
        }
        let budget = packet_size - CHUNK_HEADER_LEN as u32;
        let missing = total_len - len as u32;
        let count = 1 + missing.div_ceil(budget);
        Ok(Self { message_id: envelope.message_id, total_len, budget, count, next: 1, missing })
    }

    /// Payload bytes that have not arrived.
    #[must_use]
    #[inline]
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// Length of the next packet, header included; 0 when the message is complete.
    #[must_use]
    #[inline]
    pub fn next_packet_len(&self) -> usize {
        match self.missing.min(self.budget) {
            0 => 0,
            due => CHUNK_HEADER_LEN + due as usize,
        }
    }

    /// Checks the next packet and hands back its payload bytes.
    ///
    /// # Errors
    /// The first field that does not continue this message.
    pub fn accept<'a>(&mut self, packet: &'a [u8]) -> Result<&'a [u8], ChunkError> {
        let header = ChunkHeader::decode(packet)?;
        let payload = &packet[CHUNK_HEADER_LEN..];
        if header.message_id != self.message_id {
            return Err(ChunkError::MessageId { found: header.message_id, expected: self.message_id });
        }
        if header.total_len != self.total_len {
            return Err(ChunkError::TotalLen { found: header.total_len, expected: self.total_len });
        }
        if header.index != self.next {
            return Err(ChunkError::Index { found: header.index, expected: self.next });
        }
        if header.count != self.count {
            return Err(ChunkError::Count { found: header.count, expected: self.count });
        }
        if header.payload_len as usize != payload.len() || payload.is_empty() {
            return Err(ChunkError::PayloadLen { found: header.payload_len, actual: payload.len() });
        }
        let due = self.missing.min(self.budget);
        if header.payload_len != due {
            return Err(ChunkError::Size { index: header.index, found: header.payload_len, expected: due });
        }
        self.next += 1;
        self.missing -= due;
        Ok(payload)
    }
}
