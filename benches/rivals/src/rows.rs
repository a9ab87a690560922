//! What is measured: one row is one piece of work, which several contenders do in turn.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing but the calibration around every row.
    Calibration,
    /// A message there and a message back, copied in and out on both sides. Sample: the round trip.
    RoundTrip,
    /// The same with payloads written and read in place. Sample: half the round trip.
    Loan,
    /// A stream to the readers. Sample: time a message, over blocks, at the first reader.
    Throughput,
    /// Publishing to readers that are attached and do not read. Sample: one publication.
    Publish,
    /// The newest value, in one process alone. Samples: one write, or one write and one read of it.
    LatestWrite,
    LatestRead,
    /// From nothing to the first message received by another process.
    SetUp,
    /// The receiving side's share of that: opening what exists, and reading the first message.
    Open,
    /// Copying a payload from private memory to private memory, or from what the other core wrote.
    Copy,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    Spin,
    Park,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Lossless,
    Lossy,
    Latest,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct Row {
    pub id: String,
    pub kind: Kind,
    pub bytes: usize,
    pub mode: Mode,
    pub wait: Wait,
    /// Both sides on the first core.
    pub same_core: bool,
    /// Reader processes, or for `Publish` attached readers in one process.
    pub readers: usize,
    /// Messages a publication.
    pub batch: usize,
    /// Messages that the mechanism may hold.
    pub capacity: usize,
    pub contenders: Vec<String>,
}

impl Row {
    fn new(id: String, kind: Kind, bytes: usize, contenders: &[&str]) -> Self {
        Self {
            id,
            kind,
            bytes,
            mode: Mode::Lossy,
            wait: Wait::Spin,
            same_core: false,
            readers: 1,
            batch: 1,
            capacity: 8,
            contenders: contenders.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Reader processes that the row starts.
    pub fn children(&self) -> usize {
        if self.kind == Kind::Publish { 1 } else { self.readers }
    }

    /// Whether the capacity is part of the work.
    pub fn is_stream(&self) -> bool {
        self.kind == Kind::Throughput
    }

    /// With two cores, more than one reader means that the readers take turns on the second.
    pub fn children_share_a_core(&self) -> bool {
        self.same_core || self.children() > 1
    }

    /// Messages that a stream's ring holds: at 64 B the hand-written ring is fastest with about a thousand.
    fn streaming(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self.capacity = ((256 << 10) / self.bytes).clamp(8, 1024);
        self
    }
}

const MECHANISMS: &[&str] = &["ginnel", "copy", "iceoryx2"];
/// From this size on our channels are also measured as bytes, received into memory that is used again.
const LARGE: usize = 1 << 10;
const BLOCKING: &[&str] = &["ginnel", "futex", "eventfd", "pipe", "seqpacket", "stream", "ipc-channel"];

/// Every row, in the order of the report.
pub fn all() -> Vec<Row> {
    let mut rows = vec![Row::new("calibration".into(), Kind::Calibration, 8, &["line"])];
    for bytes in [8, 48, 64, 1 << 10, 8 << 10, 64 << 10, 1 << 20] {
        let contenders: &[&str] =
            if bytes < LARGE { MECHANISMS } else { &["ginnel", "ginnel-bytes", "copy", "copy-8", "iceoryx2"] };
        rows.push(Row::new(format!("roundtrip/{bytes}"), Kind::RoundTrip, bytes, contenders));
    }
    for bytes in [64, 64 << 10, 1 << 20] {
        let kernel: &[&str] = if bytes > 64 << 10 {
            &["pipe", "stream", "ipc-channel"]
        } else {
            &["pipe", "seqpacket", "stream", "ipc-channel"]
        };
        let mut row = Row::new(format!("roundtrip-kernel/{bytes}"), Kind::RoundTrip, bytes, kernel);
        row.wait = Wait::Park;
        rows.push(row);
    }
    for (name, same_core) in [("same-core", true), ("cross-core", false)] {
        let mut row = Row::new(format!("parked/{name}"), Kind::RoundTrip, 64, BLOCKING);
        row.wait = Wait::Park;
        row.same_core = same_core;
        rows.push(row);
    }
    for bytes in [64, 1 << 10, 64 << 10, 1 << 20, 4 << 20] {
        let row = Row::new(format!("loan/{bytes}"), Kind::Loan, bytes, MECHANISMS);
        rows.push(Row { mode: Mode::Lossless, ..row });
    }
    streams(&mut rows);
    for readers in [0, 1, 64] {
        let mut row = Row::new(format!("publish/{readers}-readers"), Kind::Publish, 64, &["ginnel", "iceoryx2"]);
        row.readers = readers;
        rows.push(row);
    }
    for (name, kind) in [("write", Kind::LatestWrite), ("write-and-read", Kind::LatestRead)] {
        let mut row = Row::new(format!("latest/{name}"), kind, 64, &["ginnel", "copy"]);
        row.mode = Mode::Latest;
        rows.push(row);
    }
    rows.push(Row::new("setup/first-message".into(), Kind::SetUp, 64, &["ginnel", "iceoryx2"]));
    rows.push(Row::new("setup/open".into(), Kind::Open, 64, &["ginnel", "iceoryx2"]));
    for bytes in [64 << 10, 1 << 20] {
        rows.push(Row::new(format!("memcpy/{bytes}"), Kind::Copy, bytes, &["local", "remote"]));
    }
    rows
}

fn streams(rows: &mut Vec<Row>) {
    for bytes in [8, 64, 1 << 10, 64 << 10, 1 << 20] {
        let ours: &[&str] = if bytes < LARGE { &["ginnel"] } else { &["ginnel", "ginnel-bytes"] };
        let contenders = [ours, &["ring", "iceoryx2", "pipe", "stream", "ipc-channel"]].concat();
        let row = Row::new(format!("stream/{bytes}"), Kind::Throughput, bytes, &contenders);
        rows.push(row.streaming(Mode::Lossless));
    }
    let row = Row::new("stream/64-by-64".into(), Kind::Throughput, 64, &["ginnel", "ring", "pipe", "stream"]);
    rows.push(Row { batch: 64, ..row.streaming(Mode::Lossless) });
    let row = Row::new("stream/64-parked".into(), Kind::Throughput, 64, &["ginnel", "pipe", "stream"]);
    rows.push(Row { wait: Wait::Park, ..row.streaming(Mode::Lossless) });
    let row = Row::new("stream/64-lossy".into(), Kind::Throughput, 64, &["ginnel", "iceoryx2"]);
    rows.push(row.streaming(Mode::Lossy));
    for mode in [Mode::Lossless, Mode::Lossy] {
        for readers in [2, 4] {
            let name = if mode == Mode::Lossy { "-lossy" } else { "" };
            let id = format!("stream/64-to-{readers}{name}");
            let row = Row::new(id, Kind::Throughput, 64, &["ginnel", "iceoryx2"]);
            rows.push(Row { readers, wait: Wait::Park, ..row.streaming(mode) });
        }
    }
}
