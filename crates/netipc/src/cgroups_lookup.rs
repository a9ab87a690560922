//! CGROUPS_LOOKUP: what is known about cgroups, asked for by path.
//!
//! ```text
//! key    path NUL                                                              the directory length counts the NUL
//! item   0 u16 layout=1 | 2 u16 status | 4 u16 orchestrator | 6 u16 0
//!        8 u32 path offset, length | 16 u32 name offset, length | 24 u16 labels | 26 u16 0
//!       28 path NUL name NUL, then the labels
//! ```

use crate::bytes::{put_u16, u16_at, u32_at};
use crate::error::{DecodeError, EncodeError, Fault};
use crate::labels::{Labels, Orchestrator, check_labels};
use crate::lookup::{Lookup, Verdict};
use crate::packed::{no_interior_nul, put_string, sendable, string_at, string_range};

const ITEM: usize = 28;

/// The CGROUPS_LOOKUP service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupsLookup;

/// What a provider says about one cgroup path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupOutcome<'a> {
    /// It exists and is identified.
    Known {
        /// What runs it.
        orchestrator: Orchestrator,
        /// The name people know it by; may be empty.
        name: &'a [u8],
        /// What its orchestrator says about it.
        labels: Labels<'a>,
    },
    /// Not known yet; ask again later.
    UnknownRetryLater,
    /// Not known, and asking again is useless until the generation goes back.
    UnknownPermanent,
    /// No room left in the response for this key and all behind it.
    PayloadExceeded,
    /// The answer alone exceeds the response limit.
    OversizedItem,
}

impl CgroupOutcome<'_> {
    const fn status(&self) -> u16 {
        match self {
            Self::Known { .. } => 0,
            Self::UnknownRetryLater => 1,
            Self::UnknownPermanent => 2,
            Self::PayloadExceeded => 3,
            Self::OversizedItem => 4,
        }
    }

    const fn parts(&self) -> (Orchestrator, &[u8], Labels<'_>) {
        match self {
            Self::Known { orchestrator, name, labels } => (*orchestrator, name, *labels),
            _ => (Orchestrator::UNKNOWN, b"", Labels::NONE),
        }
    }
}

impl Lookup for CgroupsLookup {
    type Key<'a> = &'a [u8];
    type Outcome<'a> = CgroupOutcome<'a>;

    const METHOD: u16 = 4;
    const SERVICE: &'static str = "cgroups-lookup";
    const MIN_KEY: u32 = 2;
    const MIN_ITEM: u32 = ITEM as u32;
    const KEYS_VARY: bool = true;

    fn key_len(key: &[u8]) -> Result<usize, EncodeError> {
        if key.is_empty() {
            return Err(EncodeError::Empty { field: "path" });
        }
        sendable("path", key)?;
        Ok(key.len() + 1)
    }

    fn put_key(key: &[u8], bytes: &mut [u8]) {
        bytes[..key.len()].copy_from_slice(key);
    }

    fn check_key(bytes: &[u8], at: usize, _entry: usize) -> Result<(), DecodeError> {
        let nul = bytes.len() - 1;
        if bytes[nul] != 0 {
            return Err(DecodeError::new(at + nul, Fault::NoTerminator));
        }
        match bytes.iter().position(|byte| *byte == 0) {
            Some(found) if found < nul => Err(DecodeError::new(at + found, Fault::InteriorNul)),
            _ => Ok(()),
        }
    }

    fn key(bytes: &[u8]) -> &[u8] {
        &bytes[..bytes.len() - 1]
    }

    fn same_key(one: &[u8], other: &[u8]) -> bool {
        one == other
    }

    fn item_len(key: &[u8], outcome: &CgroupOutcome<'_>) -> Result<usize, EncodeError> {
        let path = Self::key_len(key)?;
        let (_, name, labels) = outcome.parts();
        sendable("name", name)?;
        labels.item_len(ITEM + path + name.len() + 1)
    }

    fn put_item(key: &[u8], outcome: &CgroupOutcome<'_>, item: &mut [u8]) {
        let (orchestrator, name, labels) = outcome.parts();
        put_u16(item, 0, 1);
        put_u16(item, 2, outcome.status());
        put_u16(item, 4, orchestrator.0);
        put_u16(item, 24, labels.len() as u16);
        let cursor = put_string(item, 8, ITEM, key);
        let cursor = put_string(item, 16, cursor, name);
        labels.put(item, cursor);
    }

    fn check_item(item: &[u8], at: usize) -> Result<(), DecodeError> {
        let fail = |field: usize, fault| Err(DecodeError::new(at + field, fault));
        let layout = u16_at(item, 0);
        if layout != 1 {
            return fail(0, Fault::Layout { found: layout });
        }
        let status = u16_at(item, 2);
        if status > 4 {
            return fail(2, Fault::Status { found: status });
        }
        for field in [6, 26] {
            let found = u16_at(item, field);
            if found != 0 {
                return fail(field, Fault::Reserved { found: u32::from(found) });
            }
        }
        let path = string_range(item, at, 8, ITEM)?;
        let name = string_range(item, at, 16, ITEM)?;
        if path.len == 0 {
            return fail(12, Fault::Empty { field: "path" });
        }
        if path.overlaps(name) {
            return fail(16, Fault::StringOverlap);
        }
        no_interior_nul(item, at, path)?;
        no_interior_nul(item, at, name)?;
        let labels = u16_at(item, 24);
        if status != 0 {
            let blanks = [
                (4, u32::from(u16_at(item, 4)), "orchestrator"),
                (20, name.len as u32, "name"),
                (24, u32::from(labels), "labels"),
            ];
            if let Some((field, _, name)) = blanks.into_iter().find(|(_, value, _)| *value != 0) {
                return fail(field, Fault::NotBlank { field: name });
            }
        }
        check_labels(item, at, path.end().max(name.end()), usize::from(labels))
    }

    fn item(item: &[u8]) -> (&[u8], CgroupOutcome<'_>) {
        let outcome = match u16_at(item, 2) {
            0 => {
                let end = |field| (u32_at(item, field) + u32_at(item, field + 4) + 1) as usize;
                CgroupOutcome::Known {
                    orchestrator: Orchestrator(u16_at(item, 4)),
                    name: string_at(item, 16),
                    labels: Labels::encoded(item, end(8).max(end(16)), usize::from(u16_at(item, 24))),
                }
            }
            1 => CgroupOutcome::UnknownRetryLater,
            2 => CgroupOutcome::UnknownPermanent,
            3 => CgroupOutcome::PayloadExceeded,
            _ => CgroupOutcome::OversizedItem,
        };
        (string_at(item, 8), outcome)
    }

    fn verdict(outcome: &CgroupOutcome<'_>) -> Verdict {
        match outcome {
            CgroupOutcome::PayloadExceeded => Verdict::PayloadExceeded,
            CgroupOutcome::OversizedItem => Verdict::OversizedItem,
            _ => Verdict::Final,
        }
    }

    fn payload_exceeded<'a>() -> CgroupOutcome<'a> {
        CgroupOutcome::PayloadExceeded
    }

    fn oversized<'a>() -> CgroupOutcome<'a> {
        CgroupOutcome::OversizedItem
    }
}
