//! `--user`: who a command runs as.

use std::fs;

/// A user with its groups, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl Account {
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`. Names are looked up in `/etc/passwd` and `/etc/group`; with a group,
    /// it is the only one.
    pub(super) fn parse(text: &str) -> Result<Account, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
        let groups = || read("/etc/group");
        match text.split_once(':') {
            Some((user, group)) => {
                let uid = match user.parse() {
                    Ok(uid) => uid,
                    Err(_) => user_of(&read("/etc/passwd")?, user).ok_or_else(|| unknown("user", user))?.1,
                };
                let gid = match group.parse() {
                    Ok(gid) => gid,
                    Err(_) => group_of(&groups()?, group).ok_or_else(|| unknown("group", group))?,
                };
                Ok(Account { uid, gid, groups: vec![gid] })
            }
            None => {
                let (name, uid, gid) = user_of(&read("/etc/passwd")?, text)
                    .ok_or_else(|| format!("{}, or write UID:GID", unknown("user", text)))?;
                // A machine without the file has no further groups.
                let groups = groups_with(&groups().unwrap_or_default(), &name, gid);
                Ok(Account { uid, gid, groups })
            }
        }
    }
}

fn unknown(what: &str, name: &str) -> String {
    format!("there is no {what} `{name}` in /etc/{}", if what == "user" { "passwd" } else { "group" })
}

/// Name, uid and gid of a user, by name or number.
fn user_of(passwd: &str, wanted: &str) -> Option<(String, u32, u32)> {
    let users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) =
            (fields.next()?, fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((name.to_owned(), uid, gid))
    });
    let number: Option<u32> = wanted.parse().ok();
    let all: Vec<_> = users.collect();
    all.iter()
        .find(|(name, ..)| name == wanted)
        .or_else(|| all.iter().find(|(_, uid, _)| Some(*uid) == number))
        .cloned()
}

/// Name, gid and members of each line.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_of(group: &str, wanted: &str) -> Option<u32> {
    groups(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid)
}

fn groups_with(group: &str, user: &str, own: u32) -> Vec<u32> {
    let others = groups(group).filter(|(_, gid, members)| *gid != own && members.split(',').any(|name| name == user));
    [own].into_iter().chain(others.map(|(_, gid, _)| gid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:,:/srv:/bin/false\n";
        let group = "root:x:0:\nwww:x:34:\nlogs:x:50:other,web\nvideo:x:51:webmaster\n";
        assert_eq!(user_of(passwd, "web"), Some(("web".to_owned(), 33, 34)));
        assert_eq!(user_of(passwd, "33"), user_of(passwd, "web"));
        assert_eq!(user_of(passwd, "nobody"), None);
        assert_eq!((group_of(group, "logs"), groups_with(group, "web", 34)), (Some(50), vec![34, 50]));
    }

    #[test]
    fn numbers_need_no_files() {
        assert_eq!(Account::parse("7:8"), Ok(Account { uid: 7, gid: 8, groups: vec![8] }));
        assert!(Account::parse("nobody-has-this-name").unwrap_err().contains("UID:GID"));
    }
}
