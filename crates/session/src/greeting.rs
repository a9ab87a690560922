//! The first message of a connection, before limits are known: never more than 128 bytes, and on a stream never a byte of
//! what follows it.

use ginnel_wire::{ENVELOPE_LEN, Envelope};

/// What the known servers receive a HELLO into; a longer packet is cut, and its tail ignored.
const MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Greeting {
    bytes: [u8; MAX],
    len: usize,
    packets: bool,
    complete: bool,
}

impl Greeting {
    pub(crate) fn new(packets: bool) -> Self {
        Self { bytes: [0; MAX], len: 0, packets, complete: false }
    }

    /// Where the next bytes go.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let end = if self.packets { MAX } else { self.due() };
        &mut self.bytes[self.len..end]
    }

    /// `len` bytes were received; more than fit, if a packet was cut.
    pub(crate) fn received(&mut self, len: usize) {
        self.len = (self.len + len).min(MAX);
        self.complete = self.packets || self.len == self.due();
    }

    /// The whole message, once it is there.
    pub(crate) fn packet(&self) -> Option<&[u8]> {
        self.complete.then_some(&self.bytes[..self.len])
    }

    /// Length of the message as far as it is known. What is no envelope is complete as it stands: there is no more to say.
    fn due(&self) -> usize {
        if self.len < ENVELOPE_LEN {
            return ENVELOPE_LEN;
        }
        let payload = Envelope::decode(&self.bytes).map_or(0, |envelope| envelope.payload_len as usize);
        ENVELOPE_LEN + payload.min(MAX - ENVELOPE_LEN)
    }
}
