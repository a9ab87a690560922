//! APPS_LOOKUP: what is known about processes and the cgroups they live in, asked for by pid.
//!
//! ```text
//! key    0 u32 pid | 4 u32 0
//! item   0 u16 layout=1 | 2 u16 status | 4 u16 orchestrator | 6 u16 cgroup status
//!        8 u32 pid | 12 u32 ppid | 16 u32 uid | 20 u32 0 | 24 u64 starttime
//!       32 u32 comm offset, length | 40 u32 cgroup path offset, length | 48 u32 cgroup name offset, length
//!       56 u16 labels | 58 u16 0
//!       60 comm NUL path NUL name NUL, then the labels                         60, not 64: the u64 does not pad the end
//! ```

use crate::bytes::{put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::error::{DecodeError, EncodeError, Fault};
use crate::labels::{Labels, Orchestrator, check_labels, put_empty};
use crate::lookup::{Lookup, Verdict};
use crate::packed::{no_interior_nul, put_string, sendable, string_at, string_range};

const ITEM: usize = 60;
const KEY: usize = 8;
const NO_UID: u32 = u32::MAX;

/// Longest `comm`: the kernel's TASK_COMM_LEN without its NUL.
pub const COMM_MAX: usize = 15;

/// The APPS_LOOKUP service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppsLookup;

/// What a provider says about one pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppOutcome<'a> {
    /// The process lives.
    Known(App<'a>),
    /// There is no such process, or nothing can be said about it.
    Unknown,
    /// No room left in the response for this key and all behind it.
    PayloadExceeded,
    /// The answer alone exceeds the response limit.
    OversizedItem,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct App<'a> {
    /// The parent's pid.
    pub ppid: u32,
    /// The user it acts as.
    pub uid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`. With the pid it names the process
    /// for good.
    pub starttime: u64,
    /// Its command name, 1 to [`COMM_MAX`] bytes.
    pub comm: &'a [u8],
    /// Where it lives.
    pub cgroup: AppCgroup<'a>,
}

/// The cgroup of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppCgroup<'a> {
    /// An identified cgroup.
    Known {
        /// Its path, not empty.
        path: &'a [u8],
        /// The name people know it by; may be empty.
        name: &'a [u8],
        /// What runs it.
        orchestrator: Orchestrator,
        /// What its orchestrator says about it.
        labels: Labels<'a>,
    },
    /// Not identified yet; ask again later.
    UnknownRetryLater {
        /// Its path, if that much is known.
        path: &'a [u8],
    },
    /// Cannot be identified.
    UnknownPermanent {
        /// Its path, not empty.
        path: &'a [u8],
    },
    /// The root: a process of the host itself.
    HostRoot,
}

struct Parts<'a> {
    status: u16,
    path: &'a [u8],
    name: &'a [u8],
    orchestrator: Orchestrator,
    labels: Labels<'a>,
}

impl AppCgroup<'_> {
    const fn parts(&self) -> Parts<'_> {
        let (status, path): (u16, &[u8]) = match self {
            Self::Known { path, name, orchestrator, labels } => {
                return Parts { status: 0, path, name, orchestrator: *orchestrator, labels: *labels };
            }
            Self::UnknownRetryLater { path } => (1, path),
            Self::UnknownPermanent { path } => (2, path),
            Self::HostRoot => (3, b""),
        };
        Parts { status, path, name: b"", orchestrator: Orchestrator::UNKNOWN, labels: Labels::NONE }
    }
}

impl Lookup for AppsLookup {
    type Key<'a> = u32;
    type Outcome<'a> = AppOutcome<'a>;

    const METHOD: u16 = 5;
    const SERVICE: &'static str = "apps-lookup";
    const MIN_KEY: u32 = KEY as u32;
    const MIN_ITEM: u32 = ITEM as u32;
    const KEYS_VARY: bool = false;

    fn key_len(_pid: u32) -> Result<usize, EncodeError> {
        Ok(KEY)
    }

    fn put_key(pid: u32, bytes: &mut [u8]) {
        put_u32(bytes, 0, pid);
    }

    fn check_key(bytes: &[u8], at: usize, entry: usize) -> Result<(), DecodeError> {
        if bytes.len() != KEY {
            let fault = Fault::ItemLength { expected: KEY as u32, found: bytes.len() as u32 };
            return Err(DecodeError::new(entry + 4, fault));
        }
        let reserved = u32_at(bytes, 4);
        if reserved != 0 {
            return Err(DecodeError::new(at + 4, Fault::Reserved { found: reserved }));
        }
        Ok(())
    }

    fn key(bytes: &[u8]) -> u32 {
        u32_at(bytes, 0)
    }

    fn same_key(one: u32, other: u32) -> bool {
        one == other
    }

    fn item_len(_pid: u32, outcome: &AppOutcome<'_>) -> Result<usize, EncodeError> {
        let AppOutcome::Known(app) = outcome else { return Ok(ITEM + 3) };
        if app.comm.is_empty() {
            return Err(EncodeError::Empty { field: "comm" });
        }
        if app.comm.len() > COMM_MAX {
            return Err(EncodeError::TooLong { field: "comm", len: app.comm.len(), max: COMM_MAX });
        }
        let Parts { path, name, labels, .. } = app.cgroup.parts();
        if path.is_empty() && matches!(app.cgroup, AppCgroup::Known { .. } | AppCgroup::UnknownPermanent { .. }) {
            return Err(EncodeError::Empty { field: "cgroup path" });
        }
        sendable("comm", app.comm)?;
        sendable("cgroup path", path)?;
        sendable("cgroup name", name)?;
        labels.item_len(ITEM + app.comm.len() + path.len() + name.len() + 3)
    }

    fn put_item(pid: u32, outcome: &AppOutcome<'_>, item: &mut [u8]) {
        put_u16(item, 0, 1);
        put_u32(item, 8, pid);
        let status = match outcome {
            AppOutcome::Known(app) => return put_known(app, item),
            AppOutcome::Unknown => 1,
            AppOutcome::PayloadExceeded => 2,
            AppOutcome::OversizedItem => 3,
        };
        put_u16(item, 2, status);
        put_u32(item, 16, NO_UID);
        let mut cursor = ITEM;
        for field in [32, 40, 48] {
            cursor = put_empty(item, field, cursor);
        }
    }

    fn check_item(item: &[u8], at: usize) -> Result<(), DecodeError> {
        let fail = |field: usize, fault| Err(DecodeError::new(at + field, fault));
        let layout = u16_at(item, 0);
        if layout != 1 {
            return fail(0, Fault::Layout { found: layout });
        }
        let (status, cgroup_status) = (u16_at(item, 2), u16_at(item, 6));
        if status > 3 {
            return fail(2, Fault::Status { found: status });
        }
        if cgroup_status > 3 {
            return fail(6, Fault::CgroupStatus { found: cgroup_status });
        }
        for (field, found) in [(20, u32_at(item, 20)), (58, u32::from(u16_at(item, 58)))] {
            if found != 0 {
                return fail(field, Fault::Reserved { found });
            }
        }
        let comm = string_range(item, at, 32, ITEM)?;
        let path = string_range(item, at, 40, ITEM)?;
        let name = string_range(item, at, 48, ITEM)?;
        for (field, overlap) in [(40, comm.overlaps(path)), (48, comm.overlaps(name) || path.overlaps(name))] {
            if overlap {
                return fail(field, Fault::StringOverlap);
            }
        }
        for range in [comm, path, name] {
            no_interior_nul(item, at, range)?;
        }
        let labels = u16_at(item, 56);
        let lengths = Lengths { comm: comm.len, path: path.len, name: name.len, labels };
        if status == 0 { check_known(item, at, &lengths) } else { check_blank(item, at, &lengths) }?;
        check_labels(item, at, comm.end().max(path.end()).max(name.end()), usize::from(labels))
    }

    fn item(item: &[u8]) -> (u32, AppOutcome<'_>) {
        let outcome = match u16_at(item, 2) {
            0 => AppOutcome::Known(known(item)),
            1 => AppOutcome::Unknown,
            2 => AppOutcome::PayloadExceeded,
            _ => AppOutcome::OversizedItem,
        };
        (u32_at(item, 8), outcome)
    }

    fn verdict(outcome: &AppOutcome<'_>) -> Verdict {
        match outcome {
            AppOutcome::PayloadExceeded => Verdict::PayloadExceeded,
            AppOutcome::OversizedItem => Verdict::OversizedItem,
            _ => Verdict::Final,
        }
    }

    fn payload_exceeded<'a>() -> AppOutcome<'a> {
        AppOutcome::PayloadExceeded
    }

    fn oversized<'a>() -> AppOutcome<'a> {
        AppOutcome::OversizedItem
    }
}

fn put_known(app: &App<'_>, item: &mut [u8]) {
    let Parts { status, path, name, orchestrator, labels } = app.cgroup.parts();
    put_u16(item, 4, orchestrator.0);
    put_u16(item, 6, status);
    put_u32(item, 12, app.ppid);
    put_u32(item, 16, app.uid);
    put_u64(item, 24, app.starttime);
    put_u16(item, 56, labels.len() as u16);
    let cursor = put_string(item, 32, ITEM, app.comm);
    let cursor = put_string(item, 40, cursor, path);
    let cursor = put_string(item, 48, cursor, name);
    labels.put(item, cursor);
}

/// Reads an item whose status is KNOWN and which was checked.
fn known(item: &[u8]) -> App<'_> {
    let path = string_at(item, 40);
    let end = |field| (u32_at(item, field) + u32_at(item, field + 4) + 1) as usize;
    let cgroup = match u16_at(item, 6) {
        0 => AppCgroup::Known {
            path,
            name: string_at(item, 48),
            orchestrator: Orchestrator(u16_at(item, 4)),
            labels: Labels::encoded(item, end(32).max(end(40)).max(end(48)), usize::from(u16_at(item, 56))),
        },
        1 => AppCgroup::UnknownRetryLater { path },
        2 => AppCgroup::UnknownPermanent { path },
        _ => AppCgroup::HostRoot,
    };
    let (ppid, uid, starttime) = (u32_at(item, 12), u32_at(item, 16), u64_at(item, 24));
    App { ppid, uid, starttime, comm: string_at(item, 32), cgroup }
}

struct Lengths {
    comm: usize,
    path: usize,
    name: usize,
    labels: u16,
}

fn check_known(item: &[u8], at: usize, len: &Lengths) -> Result<(), DecodeError> {
    let fail = |field: usize, fault| Err(DecodeError::new(at + field, fault));
    if len.comm == 0 {
        return fail(36, Fault::Empty { field: "comm" });
    }
    if len.comm > COMM_MAX {
        return fail(36, Fault::TooLong { field: "comm", len: len.comm as u32, max: COMM_MAX as u32 });
    }
    let cgroup_status = u16_at(item, 6);
    if len.path == 0 && matches!(cgroup_status, 0 | 2) {
        return fail(44, Fault::Empty { field: "cgroup path" });
    }
    let blank_unless_known = cgroup_status != 0;
    for (blank, field, filled, name) in [
        (blank_unless_known, 4, u16_at(item, 4) != 0, "orchestrator"),
        (cgroup_status == 3, 44, len.path != 0, "cgroup path"),
        (blank_unless_known, 52, len.name != 0, "cgroup name"),
        (blank_unless_known, 56, len.labels != 0, "labels"),
    ] {
        if blank && filled {
            return fail(field, Fault::NotBlank { field: name });
        }
    }
    Ok(())
}

fn check_blank(item: &[u8], at: usize, len: &Lengths) -> Result<(), DecodeError> {
    for (field, filled, name) in [
        (4, u16_at(item, 4) != 0, "orchestrator"),
        (6, u16_at(item, 6) != 0, "cgroup status"),
        (12, u32_at(item, 12) != 0, "ppid"),
        (16, u32_at(item, 16) != NO_UID, "uid"),
        (24, u64_at(item, 24) != 0, "starttime"),
        (36, len.comm != 0, "comm"),
        (44, len.path != 0, "cgroup path"),
        (52, len.name != 0, "cgroup name"),
        (56, len.labels != 0, "labels"),
    ] {
        if filled {
            return Err(DecodeError::new(at + field, Fault::NotBlank { field: name }));
        }
    }
    Ok(())
}
