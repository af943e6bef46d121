//! `--chown`, and the user WORKDIR works for: names are looked up in the base.
//! One that is not there is root's, as BuildKit has it; without a base there is
//! nothing to look in, and only "root" is known.

use std::io;
use std::os::fd::BorrowedFd;

use crate::draft::{invalid, read_all};

/// Longest `/etc/passwd` and `/etc/group` that is read.
const MAX_FILE: u64 = 16 << 20;

/// User and group of "user[:group]".
pub(super) fn lookup(owner: &str, base: Option<BorrowedFd<'_>>) -> io::Result<(u32, u32)> {
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (owner, None),
    };
    let (uid, own) = match number(user)? {
        _ if user.is_empty() => (0, 0),
        // A group of the same number, as Docker has it.
        Some(uid) => (uid, uid),
        None => {
            let base = base.ok_or_else(|| unknown("user", user, "passwd"))?;
            let ids = |fields: &[&str]| Some((field(fields, 2)?, field(fields, 3)?));
            find(base, "passwd", user, ids)?.unwrap_or_default()
        }
    };
    let Some(group) = group else {
        return Ok((uid, own));
    };
    let gid = match number(group)? {
        Some(gid) => gid,
        None => {
            let base = base.ok_or_else(|| unknown("group", group, "group"))?;
            find(base, "group", group, |fields| field(fields, 2))?.unwrap_or(own)
        }
    };
    Ok((uid, gid))
}

/// None if it is a name.
fn number(text: &str) -> io::Result<Option<u32>> {
    if text == "root" {
        return Ok(Some(0));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        // The kernel takes the last for "unchanged".
        Ok(number) if number < u32::MAX => Ok(Some(number)),
        _ => Err(invalid(format!("{text} is no user or group ID"))),
    }
}

fn find<T>(
    base: BorrowedFd<'_>,
    file: &str,
    name: &str,
    read: impl Fn(&[&str]) -> Option<T>,
) -> io::Result<Option<T>> {
    let path = format!("etc/{file}");
    let Some(bytes) = read_all(base, path.as_bytes(), MAX_FILE)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields[0].trim() == name).then(|| read(&fields)).flatten()
    }))
}

fn field(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.trim().parse().ok()
}

fn unknown(kind: &str, name: &str, file: &str) -> io::Error {
    invalid(format!(
        "unable to find {kind} {name}: no matching entries in {file} file"
    ))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn names_and_numbers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/:/bin/sh\nbroken\nweb:x:33:34:,,:/:/bin/sh\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nstaff:x:50:web\n").unwrap();
        let root = File::open(dir.path()).unwrap();
        let base = Some(root.as_fd());
        for (owner, wanted) in [
            ("web", (33, 34)),
            ("web:staff", (33, 50)),
            ("web:7", (33, 7)),
            ("5", (5, 5)),
            ("5:6", (5, 6)),
            ("5:", (5, 5)),
            (":staff", (0, 50)),
            ("0:staff", (0, 50)),
            // No such names: root's, and the group that the user has.
            ("x", (0, 0)),
            ("broken", (0, 0)),
            ("web:x", (33, 34)),
            ("7:x", (7, 7)),
            ("x:staff", (0, 50)),
        ] {
            assert_eq!(lookup(owner, base).unwrap(), wanted, "{owner}");
        }
        let refused = lookup("4294967295", base).unwrap_err();
        assert_eq!(refused.to_string(), "4294967295 is no user or group ID");
    }

    #[test]
    fn without_a_base_only_root_has_a_name() {
        assert_eq!(lookup("root:root", None).unwrap(), (0, 0));
        assert_eq!(lookup("5:root", None).unwrap(), (5, 0));
        for (owner, message) in [
            (
                "web",
                "unable to find user web: no matching entries in passwd file",
            ),
            (
                "root:web",
                "unable to find group web: no matching entries in group file",
            ),
        ] {
            assert_eq!(lookup(owner, None).unwrap_err().to_string(), message);
        }
    }
}
