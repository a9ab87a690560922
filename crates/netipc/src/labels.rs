//! Labels of a container and the orchestrator that runs it: the tail of both lookup items.
//!
//! ```text
//! ... last fixed string NUL | zeros to 8 | labels x {u32 key off, len, u32 value off, len} | key NUL value NUL key ...
//! ```
//!
//! Each string starts exactly where the one before it ended, and the last ends the item. Without labels the item ends
//! with its last fixed string. Offsets count from the start of the item.

use crate::bytes::{align8, put_u32, u32_at};
use crate::error::{DecodeError, EncodeError, Fault};
use crate::packed::{StringRange, no_interior_nul, put_string, sendable, string_at};
use std::fmt;

const ENTRY: usize = 16;

/// What runs a cgroup. Values outside the defined ones pass through unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Orchestrator(
    /// The value on the wire.
    pub u16,
);

impl Orchestrator {
    /// Nobody knows.
    pub const UNKNOWN: Self = Self(0);
    /// A unit of systemd.
    pub const SYSTEMD: Self = Self(1);
    /// Docker.
    pub const DOCKER: Self = Self(2);
    /// Kubernetes.
    pub const K8S: Self = Self(3);
    /// A virtual machine under KVM.
    pub const KVM: Self = Self(4);
    /// LXC or LXD.
    pub const LXC: Self = Self(5);
    /// Podman.
    pub const PODMAN: Self = Self(6);
    /// systemd-nspawn.
    pub const NSPAWN: Self = Self(7);
}

impl fmt::Display for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["unknown", "systemd", "docker", "k8s", "kvm", "lxc", "podman", "nspawn"];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.pad(name),
            None => write!(f, "orchestrator-{}", self.0),
        }
    }
}

/// Key and value pairs: given by a server as a slice, read by a client from the bytes of an item.
#[derive(Clone, Copy)]
pub struct Labels<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    Pairs(&'a [(&'a [u8], &'a [u8])]),
    Encoded { item: &'a [u8], table: usize, count: usize },
}

impl<'a> Labels<'a> {
    /// No labels.
    pub const NONE: Self = Self(Source::Pairs(&[]));

    /// Labels to be sent. Keys must not be empty; neither keys nor values may contain NUL.
    #[must_use]
    pub const fn new(pairs: &'a [(&'a [u8], &'a [u8])]) -> Self {
        Self(Source::Pairs(pairs))
    }

    /// Number of labels.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.0 {
            Source::Pairs(pairs) => pairs.len(),
            Source::Encoded { count, .. } => count,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let source = self.0;
        (0..self.len()).map(move |index| match source {
            Source::Pairs(pairs) => pairs[index],
            Source::Encoded { item, table, .. } => {
                let entry = table + index * ENTRY;
                (string_at(item, entry), string_at(item, entry + 8))
            }
        })
    }

    /// Labels of an item that [`check_labels`] accepted; `fixed_end` is where its last fixed string ended.
    pub(crate) fn encoded(item: &'a [u8], fixed_end: usize, count: usize) -> Self {
        Self(Source::Encoded { item, table: align8(fixed_end), count })
    }

    /// Length of an item whose fixed strings end at `fixed_end` and which carries these labels.
    pub(crate) fn item_len(&self, fixed_end: usize) -> Result<usize, EncodeError> {
        if self.is_empty() {
            return Ok(fixed_end);
        }
        if self.len() > usize::from(u16::MAX) {
            return Err(EncodeError::TooManyLabels { count: self.len() });
        }
        let mut len = align8(fixed_end) + self.len() * ENTRY;
        for (key, value) in self.iter() {
            if key.is_empty() {
                return Err(EncodeError::Empty { field: "label key" });
            }
            sendable("label key", key)?;
            sendable("label value", value)?;
            len += key.len() + value.len() + 2;
        }
        Ok(len)
    }

    /// Writes the table and the strings into a zeroed item of [`Labels::item_len`] bytes.
    pub(crate) fn put(&self, item: &mut [u8], fixed_end: usize) {
        let mut entry = align8(fixed_end);
        let mut cursor = entry + self.len() * ENTRY;
        for (key, value) in self.iter() {
            cursor = put_string(item, entry, cursor, key);
            cursor = put_string(item, entry + 8, cursor, value);
            entry += ENTRY;
        }
    }
}

impl PartialEq for Labels<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other.iter()).all(|(ours, theirs)| ours == theirs)
    }
}

impl Eq for Labels<'_> {}

impl fmt::Debug for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(key, value)| (key.escape_ascii(), value.escape_ascii()))).finish()
    }
}

/// Checks everything behind the fixed strings of an item that lies at `at` in its message.
pub(crate) fn check_labels(item: &[u8], at: usize, fixed_end: usize, count: usize) -> Result<(), DecodeError> {
    let mut cursor = fixed_end;
    if count > 0 {
        let table = align8(fixed_end);
        cursor = table + count * ENTRY;
        if cursor > item.len() {
            let fault = Fault::OutOfBounds { start: table as u64, end: cursor as u64, len: item.len() as u64 };
            return Err(DecodeError::new(at + fixed_end, fault));
        }
        if let Some(dirt) = item[fixed_end..table].iter().position(|byte| *byte != 0) {
            return Err(DecodeError::new(at + fixed_end + dirt, Fault::Padding));
        }
        for entry in (0..count).map(|index| table + index * ENTRY) {
            cursor = check_label_string(item, at, entry, cursor)?;
            if u32_at(item, entry + 4) == 0 {
                return Err(DecodeError::new(at + entry + 4, Fault::Empty { field: "label key" }));
            }
            cursor = check_label_string(item, at, entry + 8, cursor)?;
        }
    }
    if cursor != item.len() {
        let fault = Fault::ItemEnd { expected: cursor as u64, found: item.len() as u64 };
        return Err(DecodeError::new(at + cursor, fault));
    }
    Ok(())
}

fn check_label_string(item: &[u8], at: usize, field: usize, cursor: usize) -> Result<usize, DecodeError> {
    let (offset, len) = (u32_at(item, field), u32_at(item, field + 4));
    if offset as usize != cursor {
        return Err(DecodeError::new(at + field, Fault::LabelOffset { expected: cursor as u64, found: offset }));
    }
    let end = u64::from(offset) + u64::from(len) + 1;
    if end > item.len() as u64 {
        let fault = Fault::OutOfBounds { start: u64::from(offset), end, len: item.len() as u64 };
        return Err(DecodeError::new(at + field, fault));
    }
    let range = StringRange { start: cursor, len: len as usize };
    if item[range.end() - 1] != 0 {
        return Err(DecodeError::new(at + range.end() - 1, Fault::NoTerminator));
    }
    no_interior_nul(item, at, range)?;
    Ok(range.end())
}

/// Blanks the range of an empty string at `cursor`: even nothing owns one NUL byte.
pub(crate) fn put_empty(item: &mut [u8], field: usize, cursor: usize) -> usize {
    put_u32(item, field, cursor as u32);
    cursor + 1
}
