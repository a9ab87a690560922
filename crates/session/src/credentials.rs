//! Who is at the other end, and whether to talk to them.

/// Process and user at the other end of a Unix socket, as the kernel recorded them when it connected (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    /// Process id in our pid namespace; 0 if it is not visible there.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Which users are accepted at the other end of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UidPolicy {
    /// The user of this process.
    SameUser,
    /// The user of this process, and root.
    SameUserOrRoot,
    /// The user of this process, root, and the owner of the run directory. The owner can replace every socket in there,
    /// so whoever uses the directory trusts it already.
    #[default]
    DirectoryOwner,
    /// These users and nobody else.
    Only(Vec<u32>),
    /// Everybody whom the socket's permissions let connect.
    Any,
}

impl UidPolicy {
    /// Whether a peer with this user id is accepted, where `owner` is the user id of the run directory's owner if there
    /// is a directory. The user of this process is its effective one, as it is for a peer.
    #[must_use]
    pub fn accepts(&self, uid: u32, owner: Option<u32>) -> bool {
        let same = || own_uid() == Some(uid);
        match self {
            Self::SameUser => same(),
            Self::SameUserOrRoot => same() || uid == 0,
            Self::DirectoryOwner => same() || uid == 0 || owner == Some(uid),
            Self::Only(users) => users.contains(&uid),
            Self::Any => true,
        }
    }
}

/// The effective user of this process, where users have numbers.
fn own_uid() -> Option<u32> {
    #[cfg(target_os = "linux")]
    let own = Some(rustix::process::geteuid().as_raw());
    #[cfg(not(target_os = "linux"))]
    let own = None;
    own
}

/// Why a text is not an invocation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an invocation id is 32 hexadecimal digits, with or without dashes, not {text:?}")]
pub struct InvocationIdError {
    /// What was given.
    pub text: String,
}

/// The token that Netdata's processes derive from their common `NETDATA_INVOCATION_ID`: XXH3-64 of its 16 bytes.
///
/// # Errors
/// [`InvocationIdError`] unless `id` is 32 hexadecimal digits, dashes aside.
pub fn token_from_invocation_id(id: &str) -> Result<u64, InvocationIdError> {
    let refuse = || InvocationIdError { text: id.to_owned() };
    let digits: Vec<u8> = id
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()
        .ok_or_else(refuse)?;
    let bytes: [u8; 16] = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0))
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| refuse())?;
    if digits.len() != 32 {
        return Err(refuse());
    }
    Ok(xxhash_rust::xxh3::xxh3_64(&bytes))
}

/// Compares secrets in a time that does not depend on where they differ: one operation on the whole word, no early
/// exit.
pub(crate) fn same_token(ours: u64, theirs: u64) -> bool {
    std::hint::black_box(ours ^ theirs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_id_becomes_the_hash_of_its_sixteen_bytes() {
        let bytes: Vec<u8> = (0..16).collect();
        let expected = xxhash_rust::xxh3::xxh3_64(&bytes);
        assert_eq!(token_from_invocation_id("000102030405060708090a0b0c0d0e0f"), Ok(expected));
        assert_eq!(token_from_invocation_id("00010203-0405-0607-0809-0A0B0C0D0E0F"), Ok(expected));
        for wrong in [
            "",
            "0",
            "000102030405060708090a0b0c0d0e",
            "000102030405060708090a0b0c0d0e0",
            "x00102030405060708090a0b0c0d0e0f",
        ] {
            assert_eq!(token_from_invocation_id(wrong), Err(InvocationIdError { text: wrong.to_owned() }));
        }
    }

    #[test]
    fn a_policy_accepts_the_users_it_names() {
        let me = own_uid().unwrap();
        let owner = Some(me + 1);
        let accepts = |policy: UidPolicy, uid| policy.accepts(uid, owner);
        assert!(accepts(UidPolicy::SameUser, me) && !accepts(UidPolicy::SameUser, me + 1));
        assert!(accepts(UidPolicy::SameUserOrRoot, 0) && !accepts(UidPolicy::SameUserOrRoot, me + 1));
        for uid in [0, me, me + 1] {
            assert!(accepts(UidPolicy::DirectoryOwner, uid));
        }
        assert!(!accepts(UidPolicy::DirectoryOwner, me + 2) && !UidPolicy::DirectoryOwner.accepts(me + 1, None));
        assert!(accepts(UidPolicy::Only(vec![7]), 7) && !accepts(UidPolicy::Only(vec![7]), me));
        assert!(accepts(UidPolicy::Any, me + 2));
    }
}
