//! Where things are in a region.
//!
//! ```text
//!  0 u32 magic 0x4e53484d  4 u16 version 3      6 u16 header_len 64    8 i32 owner_pid   12 u32 owner_generation
//! 16 u32 request_offset   20 u32 request_cap   24 u32 response_offset 28 u32 response_cap
//! 32 u64 req_seq          40 u64 resp_seq      48 u32 req_len         52 u32 resp_len
//! 56 u32 req_signal       60 u32 resp_signal
//! 64 request area (client writes)   then, 64-aligned, the response area (server writes)
//! ```
//!
//! Everything above offset 32 is written once by the server, before the client is told the name. Both sides keep
//! private copies of offsets and capacities and never look at the shared ones again.

use ginnel_wire::ENVELOPE_LEN;

pub(super) const MAGIC: u32 = 0x4e53_484d;
pub(super) const VERSION: u16 = 3;
pub(super) const HEADER_LEN: usize = 64;
/// Lengths and signals: what is accessed as words of 32 bits.
pub(super) const NARROW: std::ops::Range<usize> = 48..64;

pub(super) const AT_MAGIC: usize = 0;
pub(super) const AT_VERSION: usize = 4;
pub(super) const AT_OWNER_PID: usize = 8;
pub(super) const AT_GENERATION: usize = 12;
pub(super) const AT_REQUEST_OFFSET: usize = 16;
pub(super) const AT_REQUEST_CAPACITY: usize = 20;
pub(super) const AT_RESPONSE_OFFSET: usize = 24;
pub(super) const AT_RESPONSE_CAPACITY: usize = 28;

/// One direction: its control words and its area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) seq: usize,
    pub(crate) len: usize,
    pub(crate) signal: usize,
    pub(crate) offset: usize,
    pub(crate) capacity: u32,
}

/// Private copy of a region's geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) request: Lane,
    pub(crate) response: Lane,
}

/// Why a header describes no region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LayoutError {
    /// Not written yet: worth another look.
    #[error("the region is not ready")]
    NotReady,
    #[error("the region's magic is {0:#010x}, not 0x4e53484d")]
    Magic(u32),
    #[error("the region's version is {0}, not 3")]
    Version(u16),
    #[error("the region's header length is {0}, not 64")]
    HeaderLen(u16),
    #[error("an area of the region starts or ends at {0}, not a multiple of 64")]
    Misaligned(u32),
    #[error("the region's areas overlap")]
    Overlap,
    #[error("the region needs {needed} bytes, its file has {len}")]
    TooShort { needed: u64, len: usize },
}

impl Layout {
    /// The geometry for these payload limits; `None` if it exceeds what 32 bits can say.
    pub(crate) fn for_limits(request_payload: u32, response_payload: u32) -> Option<Self> {
        let capacity = |payload: u32| align64(u64::from(payload) + ENVELOPE_LEN as u64);
        let (request, response) = (capacity(request_payload), capacity(response_payload));
        let response_offset = align64(HEADER_LEN as u64 + request);
        u32::try_from(response_offset + response).ok()?;
        Some(Self::new(HEADER_LEN as u32, request as u32, response_offset as u32, response as u32))
    }

    fn new(request_offset: u32, request: u32, response_offset: u32, response: u32) -> Self {
        Self {
            request: Lane { seq: 32, len: 48, signal: 56, offset: request_offset as usize, capacity: request },
            response: Lane { seq: 40, len: 52, signal: 60, offset: response_offset as usize, capacity: response },
        }
    }

    /// Bytes of the whole file.
    pub(crate) fn file_len(&self) -> usize {
        self.response.offset + self.response.capacity as usize
    }

    /// Validates the header of a file of `len` bytes.
    pub(super) fn read(header: &[u8; HEADER_LEN], len: usize) -> Result<Self, LayoutError> {
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        match word(AT_MAGIC) {
            MAGIC => {}
            0 => return Err(LayoutError::NotReady),
            found => return Err(LayoutError::Magic(found)),
        }
        if half(AT_VERSION) != VERSION {
            return Err(LayoutError::Version(half(AT_VERSION)));
        }
        if usize::from(half(AT_VERSION + 2)) != HEADER_LEN {
            return Err(LayoutError::HeaderLen(half(AT_VERSION + 2)));
        }
        let (request, request_capacity) = (word(AT_REQUEST_OFFSET), word(AT_REQUEST_CAPACITY));
        let (response, response_capacity) = (word(AT_RESPONSE_OFFSET), word(AT_RESPONSE_CAPACITY));
        let inside = |offset: u32| offset as usize >= HEADER_LEN;
        if !inside(request) || !inside(response) || request_capacity == 0 || response_capacity == 0 {
            return Err(LayoutError::NotReady);
        }
        if let Some(odd) = [request, request_capacity, response, response_capacity].iter().find(|x| **x % 64 != 0) {
            return Err(LayoutError::Misaligned(*odd));
        }
        if u64::from(response) < u64::from(request) + u64::from(request_capacity) {
            return Err(LayoutError::Overlap);
        }
        let needed = u64::from(response) + u64::from(response_capacity);
        if needed > len as u64 {
            return Err(LayoutError::TooShort { needed, len });
        }
        Ok(Self::new(request, request_capacity, response, response_capacity))
    }

    #[cfg(fuzzing)]
    pub(crate) fn check(header: &[u8; HEADER_LEN], len: usize) {
        if let Ok(layout) = Self::read(header, len) {
            assert!(layout.request.offset >= HEADER_LEN && layout.file_len() <= len);
            assert!(layout.request.offset + layout.request.capacity as usize <= layout.response.offset);
        }
    }

    /// The first 64 bytes of a fresh region.
    pub(super) fn header(&self, owner_pid: i32, generation: u32) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, value: [u8; 4]| out[at..at + 4].copy_from_slice(&value);
        put(AT_MAGIC, MAGIC.to_ne_bytes());
        put(AT_OWNER_PID, owner_pid.to_ne_bytes());
        put(AT_GENERATION, generation.to_ne_bytes());
        put(AT_REQUEST_OFFSET, (self.request.offset as u32).to_ne_bytes());
        put(AT_REQUEST_CAPACITY, self.request.capacity.to_ne_bytes());
        put(AT_RESPONSE_OFFSET, (self.response.offset as u32).to_ne_bytes());
        put(AT_RESPONSE_CAPACITY, self.response.capacity.to_ne_bytes());
        out[AT_VERSION..AT_VERSION + 2].copy_from_slice(&VERSION.to_ne_bytes());
        out[AT_VERSION + 2..AT_VERSION + 4].copy_from_slice(&(HEADER_LEN as u16).to_ne_bytes());
        out
    }
}

fn align64(x: u64) -> u64 {
    x.next_multiple_of(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_s_example_has_the_contract_s_offsets() {
        let layout = Layout::for_limits(4096, 65536).unwrap();
        assert_eq!((layout.request.offset, layout.request.capacity), (64, 4160));
        assert_eq!((layout.response.offset, layout.response.capacity), (4224, 65600));
        assert_eq!(layout.file_len(), 69824);
        assert_eq!(Layout::for_limits(u32::MAX - 32, 64), None);
        let header = layout.header(7, 9);
        assert_eq!(header[..8], [0x4d, 0x48, 0x53, 0x4e, 3, 0, 64, 0]);
        assert_eq!(Layout::read(&header, 69824), Ok(layout));
    }

    #[test]
    fn each_lie_of_a_header_is_named() {
        let layout = Layout::for_limits(4096, 65536).unwrap();
        let lied = |at: usize, value: u32| {
            let mut header = layout.header(7, 9);
            header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            Layout::read(&header, 69824).unwrap_err()
        };
        assert_eq!(lied(AT_MAGIC, 0), LayoutError::NotReady);
        assert_eq!(lied(AT_MAGIC, 1), LayoutError::Magic(1));
        assert_eq!(lied(AT_VERSION, 2 | 64 << 16), LayoutError::Version(2));
        assert_eq!(lied(AT_VERSION, 3 | 63 << 16), LayoutError::HeaderLen(63));
        assert_eq!(lied(AT_REQUEST_OFFSET, 63), LayoutError::NotReady);
        assert_eq!(lied(AT_RESPONSE_OFFSET, 0), LayoutError::NotReady);
        assert_eq!(lied(AT_REQUEST_CAPACITY, 0), LayoutError::NotReady);
        assert_eq!(lied(AT_RESPONSE_CAPACITY, 0), LayoutError::NotReady);
        assert_eq!(lied(AT_REQUEST_OFFSET, 65), LayoutError::Misaligned(65));
        assert_eq!(lied(AT_RESPONSE_CAPACITY, 65601), LayoutError::Misaligned(65601));
        assert_eq!(lied(AT_REQUEST_CAPACITY, 4224), LayoutError::Overlap);
        assert_eq!(lied(AT_REQUEST_CAPACITY, u32::MAX - 63), LayoutError::Overlap);
        let needed = u64::from(u32::MAX - 63) + 4224;
        assert_eq!(lied(AT_RESPONSE_CAPACITY, u32::MAX - 63), LayoutError::TooShort { needed, len: 69824 });
    }
}
