//! CGROUPS_SNAPSHOT: every cgroup of a machine in one response.
//!
//! ```text
//! request    0 u16 layout=1 | 2 u16 flags=0                                  longer payloads are accepted
//! response   0 u16 layout=1 | 2 u16 flags=0 | 4 u32 items | 8 u32 systemd | 12 u32 0 | 16 u64 generation
//!           24 items x {u32 offset, u32 length}, then the items on multiples of 8
//! item       0 u16 layout=1 | 2 u16 flags=0 | 4 u32 hash | 8 u32 options | 12 u32 enabled
//!           16 u32 name offset, length | 24 u32 path offset, length | 32 name NUL path NUL
//! ```

use crate::bytes::{align8, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::error::{DecodeError, EncodeError, Fault};
use crate::packed::{Directory, EntryRule, Packed, put_string, sendable, string_at, string_range};

const REQUEST: usize = 4;
const HEADER: usize = 24;
const ITEM: usize = 32;
const LAYOUT: u16 = 1;

/// One cgroup of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroup<'a> {
    /// The provider's hash of the name; with the name it is the key of the [cache](crate::cache).
    pub hash: u32,
    /// The provider's option bits, opaque here.
    pub options: u32,
    /// Whether the provider collects this cgroup; the wire carries any `u32`, 0 means no.
    pub enabled: u32,
    /// The name that people know it by. Any bytes but NUL.
    pub name: &'a [u8],
    /// Where it lies in the file system. Any bytes but NUL.
    pub path: &'a [u8],
}

impl Cgroup<'_> {
    fn encoded_len(&self) -> usize {
        ITEM + self.name.len() + 1 + self.path.len() + 1
    }
}

/// Appends the request.
pub fn encode_snapshot_request(out: &mut Vec<u8>) {
    out.extend_from_slice(&LAYOUT.to_ne_bytes());
    out.extend_from_slice(&0u16.to_ne_bytes());
}

/// Checks a request; it carries nothing but its version.
///
/// # Errors
/// [`Fault::Truncated`], [`Fault::Layout`], [`Fault::Flags`].
pub fn decode_snapshot_request(payload: &[u8]) -> Result<(), DecodeError> {
    DecodeError::need(payload.len(), REQUEST, 0)?;
    check_version(payload, 0)
}

pub(crate) fn check_version(bytes: &[u8], at: usize) -> Result<(), DecodeError> {
    let (layout, flags) = (u16_at(bytes, 0), u16_at(bytes, 2));
    if layout != LAYOUT {
        return Err(DecodeError::new(at, Fault::Layout { found: layout }));
    }
    if flags != 0 {
        return Err(DecodeError::new(at + 2, Fault::Flags { found: flags }));
    }
    Ok(())
}

/// A snapshot, borrowed from the bytes it came in. All of it was checked by [`Snapshot::decode`]; reading cannot fail.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    bytes: &'a [u8],
    directory: Directory<'a>,
}

impl<'a> Snapshot<'a> {
    /// Checks a response payload in full, item by item.
    ///
    /// # Errors
    /// The first fault, with its position.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        DecodeError::need(payload.len(), HEADER, 0)?;
        check_version(payload, 0)?;
        let reserved = u32_at(payload, 12);
        if reserved != 0 {
            return Err(DecodeError::new(12, Fault::Reserved { found: reserved }));
        }
        let rule = EntryRule { min_len: ITEM as u32, ordered: false };
        let directory = Directory::decode(payload, HEADER, rule)?;
        for index in 0..directory.len() {
            let (at, item) = directory.item(index);
            check_version(item, at)?;
            let name = string_range(item, at, 16, ITEM)?;
            let path = string_range(item, at, 24, ITEM)?;
            if name.overlaps(path) {
                return Err(DecodeError::new(at + 24, Fault::StringOverlap));
            }
        }
        Ok(Self { bytes: payload, directory })
    }

    /// Number of cgroups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directory.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the whole payload.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the provider's machine runs systemd; the wire carries any `u32`.
    #[must_use]
    pub fn systemd_enabled(&self) -> u32 {
        u32_at(self.bytes, 8)
    }

    /// The provider's generation of this data.
    #[must_use]
    pub fn generation(&self) -> u64 {
        u64_at(self.bytes, 16)
    }

    /// Cgroup `index`, or `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Cgroup<'a>> {
        (index < self.len()).then(|| self.view(index))
    }

    /// All cgroups in the provider's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Cgroup<'a>> + use<'a> {
        let this = *self;
        (0..this.len()).map(move |index| this.view(index))
    }

    fn view(&self, index: usize) -> Cgroup<'a> {
        let (_, item) = self.directory.item(index);
        Cgroup {
            hash: u32_at(item, 4),
            options: u32_at(item, 8),
            enabled: u32_at(item, 12),
            name: string_at(item, 16),
            path: string_at(item, 24),
        }
    }
}

/// Bytes of the response that carries these cgroups: what a server must offer to be able to send it.
pub fn snapshot_len<'a>(cgroups: impl IntoIterator<Item = Cgroup<'a>>) -> usize {
    let (mut count, mut packed) = (0, 0);
    for cgroup in cgroups {
        count += 1;
        packed = align8(packed) + cgroup.encoded_len();
    }
    HEADER + 8 * count + packed
}

/// Writes a snapshot response. Whatever is pushed, the bytes are valid; dropped unfinished, it takes them back.
///
/// ```
/// use ginnel_netipc::{Cgroup, Snapshot, SnapshotBuilder};
///
/// let mut payload = Vec::new();
/// let mut builder = SnapshotBuilder::new(&mut payload, 4096, 1, 999, 1)?;
/// builder.push(&Cgroup { hash: 7, options: 0, enabled: 1, name: b"web", path: b"/sys/fs/cgroup/web" })?;
/// builder.finish();
/// assert_eq!(Snapshot::decode(&payload)?.get(0).unwrap().name, b"web");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SnapshotBuilder<'o> {
    packed: Packed<'o>,
}

impl<'o> SnapshotBuilder<'o> {
    /// Starts a response of at most `limit` bytes at the end of `out`, with room for `expected` cgroups (a hint).
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if not even the header fits.
    pub fn new(
        out: &'o mut Vec<u8>,
        limit: usize,
        systemd_enabled: u32,
        generation: u64,
        expected: usize,
    ) -> Result<Self, EncodeError> {
        let mut packed = Packed::new(out, HEADER, expected, limit)?;
        let header = packed.header_mut();
        put_u16(header, 0, LAYOUT);
        put_u32(header, 8, systemd_enabled);
        put_u64(header, 16, generation);
        Ok(Self { packed })
    }

    /// Adds one cgroup.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] beyond the limit, [`EncodeError::InteriorNul`]; the snapshot stays as it was.
    pub fn push(&mut self, cgroup: &Cgroup<'_>) -> Result<(), EncodeError> {
        sendable("name", cgroup.name)?;
        sendable("path", cgroup.path)?;
        let item = self.packed.item(cgroup.encoded_len())?;
        put_u16(item, 0, LAYOUT);
        put_u32(item, 4, cgroup.hash);
        put_u32(item, 8, cgroup.options);
        put_u32(item, 12, cgroup.enabled);
        let cursor = put_string(item, 16, ITEM, cgroup.name);
        put_string(item, 24, cursor, cgroup.path);
        Ok(())
    }

    /// Completes the payload and returns its length.
    pub fn finish(self) -> usize {
        self.packed.finish()
    }
}
