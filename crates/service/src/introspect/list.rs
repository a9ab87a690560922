//! The looking half.

use super::PREFIX;
use super::record::{Introspection, Record, RecordError, TYPE_NAME};
use ginnel_base::identity::Identity;
use ginnel_channel::{ChannelInfo, Reader, inspect, list};
use ginnel_memory::RunDirError;
use std::path::Path;

/// One endpoint that was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The name of its channel: unique in its directory.
    pub name: String,
    /// Its process, in that process's own pid namespace.
    pub owner: Identity,
    /// Whether that process lives: asked of the kernel, so it holds across pid namespaces. `None` if this user may not
    /// ask.
    pub alive: Option<bool>,
    /// What it tells; of a dead one, what it told last.
    pub told: Result<Introspection, RecordError>,
}

impl Introspection {
    /// All endpoints in a runtime directory (`None`: this user's), sorted by the names of their channels. Never blocks,
    /// and costs the endpoints nothing.
    ///
    /// # Errors
    /// If the directory cannot be read, or is not safe. One that does not exist has no endpoints.
    pub fn list(dir: Option<&Path>) -> Result<Vec<Listed>, RunDirError> {
        let channels = list(dir)?;
        let ours = channels.into_iter().filter(|channel| channel.name.starts_with(PREFIX));
        Ok(ours.map(|channel| Listed::look(dir, channel)).collect())
    }

    /// The endpoint with this channel in a runtime directory (`None`: this user's); `None` if there is none.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn find(dir: Option<&Path>, name: &str) -> Result<Option<Listed>, RunDirError> {
        if !name.starts_with(PREFIX) {
            return Ok(None);
        }
        Ok(inspect(dir, name)?.map(|channel| Listed::look(dir, channel)))
    }
}

impl Listed {
    fn look(dir: Option<&Path>, channel: ChannelInfo) -> Self {
        let told = read(dir, &channel.name);
        Self { name: channel.name, owner: channel.writer, alive: channel.alive, told }
    }
}

fn read(dir: Option<&Path>, name: &str) -> Result<Introspection, RecordError> {
    let mut reader = Reader::<Record>::builder().type_name(TYPE_NAME);
    if let Some(dir) = dir {
        reader = reader.run_dir(dir);
    }
    reader.glimpse(name)?.newest()?.ok_or(RecordError::Empty)?.read()
}
