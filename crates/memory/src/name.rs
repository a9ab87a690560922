//! Names of segments and channels.

use std::fmt;
use std::str::FromStr;

/// A checked name: 1 to [`Name::MAX`] characters of `A-Z a-z 0-9 . _ -`, not starting with a dot.
///
/// Such a name is a single file name on every system, so that no name can leave the runtime directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("a name must not be empty: use 1 to {} characters of A-Z a-z 0-9 . _ -", Name::MAX)]
    Empty,
    /// Longer than a file name can safely be.
    #[error("a name of {len} characters is too long: use at most {}", Name::MAX)]
    TooLong {
        /// The length that was given, in bytes.
        len: usize,
    },
    /// A character that could mean something to a file system or a shell.
    #[error("the name {name:?} has {found:?} at byte {at}: use only A-Z a-z 0-9 . _ -, and no dot at the start")]
    Character {
        /// The text that was given.
        name: String,
        /// The offending character.
        found: char,
        /// Where it stands.
        at: usize,
    },
}

impl Name {
    /// The longest name, in bytes: leaves room for suffixes within the 255 bytes of a file name.
    pub const MAX: usize = 128;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX {
            return Err(NameError::TooLong { len: name.len() });
        }
        let allowed =
            |(at, c): (usize, char)| c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || c == '.' && at > 0;
        match name.char_indices().find(|&each| !allowed(each)) {
            None => Ok(Self(name.to_owned())),
            Some((at, found)) => Err(NameError::Character { name: name.to_owned(), found, at }),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tricks_with_paths_are_refused_and_the_error_says_where() {
        let refused = |name: &str| name.parse::<Name>().unwrap_err();
        assert_eq!(refused(""), NameError::Empty);
        assert_eq!(refused(&"x".repeat(300)), NameError::TooLong { len: 300 });
        for (name, found, at) in
            [("../x", '.', 0), (".", '.', 0), (".hidden", '.', 0), ("a/b", '/', 1), ("a\0b", '\0', 1), ("aé", 'é', 1)]
        {
            assert_eq!(refused(name), NameError::Character { name: name.into(), found, at });
        }
    }

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "overlay_7_control", "x.y-z", &"x".repeat(Name::MAX)] {
            assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
        }
    }
}
