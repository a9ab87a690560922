//! What a process has of the system: counted before and after, to see that nothing was left behind.

use crate::outcome::Failure;
use ginnel::channel::{Identity, list};

/// What could be left behind.
pub(super) struct Footprint {
    descriptors: usize,
    mappings: usize,
    /// Channels in the runtime directory that this process or `other` made.
    channels: Vec<String>,
    other: Identity,
}

impl Footprint {
    /// What is there now; `other` is the process besides this one that counts.
    pub(super) fn now(other: u32) -> Result<Self, Failure> {
        let own = std::process::id();
        // A runtime directory that cannot be used holds no channel of ours, and the demo needs none.
        let channels =
            list(None).unwrap_or_default().into_iter().filter(|channel| [own, other].contains(&channel.writer.pid));
        let channels = channels.map(|channel| channel.name).collect();
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let mappings = maps.lines().filter(|line| line.contains("/memfd:") || line.ends_with(".channel")).count();
        let descriptors = std::fs::read_dir("/proc/self/fd")?.count();
        // Start time 0: whoever has that id now.
        Ok(Self { descriptors, mappings, channels, other: Identity { pid: other, start: 0 } })
    }

    /// What is there that was not there before, in words.
    pub(super) fn since(&self, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        if self.other.alive() {
            left.push(self.other.to_string());
        }
        left.extend(self.channels.iter().map(|name| format!("channel {name}")));
        if self.descriptors > before.descriptors {
            left.push(format!("{} open descriptors", self.descriptors - before.descriptors));
        }
        if self.mappings > before.mappings {
            left.push(format!("{} mappings", self.mappings - before.mappings));
        }
        left
    }
}
