//! Who `--user` means: Docker's user strings, looked up in the container's own
//! passwd and group files.
//!
//! The files are the image's: opened inside the root without leaving it, only
//! when regular, read up to a limit (CVE-2026-47262), and every number is parsed
//! strictly: an out-of-range or odd one is an error, never user 0
//! (CVE-2026-30892) and never a name (CVE-2026-46680).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::paths;

/// Largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// Most groups a user is made a member of: the kernel's `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65536;
/// Docker's range of user and group numbers.
const MAX_ID: u32 = i32::MAX as u32;

/// A user of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, without duplicates; empty when a group was named.
    pub additional_gids: Vec<u32>,
    /// From passwd; `/` when the user has no entry there.
    pub home: String,
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid` or nothing (root), as Docker
/// does: a number is always an identifier, it needs no entry in passwd, and the
/// groups that list the user are added unless a group is given.
pub fn resolve_user(root: BorrowedFd<'_>, user: &str) -> Result<User> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    resolve(&passwd, &group, user)
}

/// The number of a group given by name or number, as for `--group-add`.
pub fn resolve_group(root: BorrowedFd<'_>, group: &str) -> Result<u32> {
    match parse_id(group)? {
        Some(gid) => Ok(gid),
        None => find_group(&read(root, "etc/group")?, group),
    }
}

/// The home directory of `uid`; `/` without an entry, or when passwd is of no use:
/// a user given by number needs none.
pub(crate) fn home_of(root: BorrowedFd<'_>, uid: u32) -> String {
    let passwd = read(root, "etc/passwd").unwrap_or_default();
    let entry = passwd_entries(&passwd).find(|entry| entry.uid == uid);
    entry.map_or("/", |entry| entry.home()).to_owned()
}

fn read(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let file = match paths::open_file_in(root, Path::new(path)) {
        Ok(file) => file,
        // An image need not have users.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(Error::step(format!("open /{path} in the container"), errno)),
    };
    // Enough for most, in one call.
    let mut bytes = Vec::with_capacity(4096);
    File::from(file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .step(|| format!("read /{path} in the container"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::invalid(format!(
            "/{path} in the container is larger than 16 MiB"
        )));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve(passwd: &str, groups: &str, user: &str) -> Result<User> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (user, ""),
    };
    let wanted = if user.is_empty() {
        Some(0)
    } else {
        parse_id(user)?
    };
    let entry = passwd_entries(passwd).find(|entry| match wanted {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let uid = match (&entry, wanted) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(Error::invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let mut gid = entry.as_ref().map_or(0, |entry| entry.gid);
    let mut additional_gids = Vec::new();
    if !group.is_empty() {
        gid = match parse_id(group)? {
            Some(gid) => gid,
            None => find_group(groups, group)?,
        };
    } else if let Some(entry) = &entry {
        let mut seen = std::collections::HashSet::new();
        additional_gids = group_entries(groups)
            .filter(|group| group.has(entry.name))
            .map(|group| group.gid)
            .filter(|gid| seen.insert(*gid))
            .take(MAX_GROUPS)
            .collect();
    }
    let home = entry.as_ref().map_or("/", |entry| entry.home()).to_owned();
    Ok(User {
        uid,
        gid,
        additional_gids,
        home,
    })
}

fn find_group(groups: &str, name: &str) -> Result<u32> {
    group_entries(groups)
        .find(|group| group.name == name)
        .map(|group| group.gid)
        .ok_or_else(|| {
            Error::invalid(format!(
                "unable to find group {name}: no matching entries in group file"
            ))
        })
}

/// `Some` for a string of digits, `None` for a name. Digits out of range and
/// signed numbers are errors.
fn parse_id(text: &str) -> Result<Option<u32>> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID && unsigned == text => Ok(Some(id)),
        _ => Err(Error::invalid(format!(
            "uids and gids must be in range 0-{MAX_ID}: {text:?} is not"
        ))),
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn home(&self) -> &'a str {
        if self.home.is_empty() { "/" } else { self.home }
    }
}

/// The well-formed lines; the others are skipped, as the C library does.
fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        fields.next()?;
        let uid = fields.next()?.parse().ok().filter(|uid| *uid <= MAX_ID)?;
        let gid = fields.next()?.parse().ok().filter(|gid| *gid <= MAX_ID)?;
        fields.next();
        Some(PasswdEntry {
            name,
            uid,
            gid,
            home: fields.next().unwrap_or_default(),
        })
    })
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl GroupEntry<'_> {
    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().splitn(4, ':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        fields.next()?;
        let gid = fields.next()?.parse().ok().filter(|gid| *gid <= MAX_ID)?;
        Some(GroupEntry {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n\
        bare:x:7:8\n\
        broken:x:notanumber:0::/:\n\
        huge:x:4294967296:0::/huge:\n\
        1234:x:55:66::/numeric:\n";
    const GROUP: &str = "root:x:0:root\n\
        app:x:1001:\n\
        audio:x:29:app, other\n\
        video:x:44:other,app\n\
        again:x:44:app\n\
        bad:x:x:app\n";

    #[track_caller]
    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let found = resolve(PASSWD, GROUP, user).unwrap();
        assert_eq!(
            found,
            User {
                uid,
                gid,
                additional_gids: groups.to_vec(),
                home: home.into()
            },
            "{user:?}"
        );
    }

    #[test]
    fn users_resolve_as_docker_does() {
        check("", 0, 0, &[0], "/root");
        check("root", 0, 0, &[0], "/root");
        check("app", 1000, 1001, &[29, 44], "/home/app");
        check("1000", 1000, 1001, &[29, 44], "/home/app");
        check("app:audio", 1000, 29, &[], "/home/app");
        check("app:5", 1000, 5, &[], "/home/app");
        check("1000:1000", 1000, 1000, &[], "/home/app");
        check(":audio", 0, 29, &[], "/root");
        check("4000", 4000, 0, &[], "/");
        check("4000:4000", 4000, 4000, &[], "/");
        check("bare", 7, 8, &[], "/");
        // CVE-2026-30892: a number is that number.
        check("1", 1, 0, &[], "/");
        check("1234", 1234, 0, &[], "/");
        check("2147483647", 2_147_483_647, 0, &[], "/");
    }

    /// CVE-2026-46680: numbers out of range are neither names nor user 0.
    #[test]
    fn odd_numbers_and_unknown_names_are_errors() {
        for user in [
            "4294967296",
            "4294967295",
            "2147483648",
            "99999999999999999999",
            "-1",
            "+5",
            "0:-1",
        ] {
            let error = resolve(PASSWD, GROUP, user).unwrap_err().to_string();
            assert!(
                error.contains("must be in range 0-2147483647"),
                "{user}: {error}"
            );
        }
        let error = resolve(PASSWD, GROUP, "nobody").unwrap_err().to_string();
        assert_eq!(
            error,
            "unable to find user nobody: no matching entries in passwd file"
        );
        let error = resolve(PASSWD, GROUP, "app:nogroup")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "unable to find group nogroup: no matching entries in group file"
        );
        for user in ["broken", "huge", " 1", "1 ", "0x1"] {
            assert!(resolve(PASSWD, GROUP, user).is_err(), "{user}");
        }
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(passwd in ".{0,200}", group in ".{0,200}", user in ".{0,20}") {
            let _ = resolve(&passwd, &group, &user);
        }

        #[test]
        fn numbers_need_no_entry(uid in 0..=MAX_ID, gid in 0..=MAX_ID) {
            let user = resolve("", "", &format!("{uid}:{gid}")).unwrap();
            prop_assert_eq!((user.uid, user.gid), (uid, gid));
        }
    }
}
