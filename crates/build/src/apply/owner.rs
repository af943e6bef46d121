//! `--chown`: names are looked up in the base.

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
        None => find(base, "passwd", user, |fields| {
            Some((field(fields, 2)?, field(fields, 3)?))
        })?
        .ok_or_else(|| unknown("user", user, "passwd"))?,
    };
    let gid = match group {
        None => own,
        Some(group) => match number(group)? {
            Some(gid) => gid,
            None => find(base, "group", group, |fields| field(fields, 2))?
                .ok_or_else(|| unknown("group", group, "group"))?,
        },
    };
    Ok((uid, gid))
}

/// None if it is a name.
fn number(text: &str) -> io::Result<Option<u32>> {
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
    base: Option<BorrowedFd<'_>>,
    file: &str,
    name: &str,
    read: impl Fn(&[&str]) -> Option<T>,
) -> io::Result<Option<T>> {
    let Some(base) = base else {
        return Ok(None);
    };
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
        ] {
            assert_eq!(lookup(owner, base).unwrap(), wanted, "{owner}");
        }
        for (owner, message) in [
            (
                "x",
                "unable to find user x: no matching entries in passwd file",
            ),
            (
                "web:x",
                "unable to find group x: no matching entries in group file",
            ),
            ("4294967295", "4294967295 is no user or group ID"),
            (
                "broken",
                "unable to find user broken: no matching entries in passwd file",
            ),
        ] {
            assert_eq!(lookup(owner, base).unwrap_err().to_string(), message);
        }
        assert!(lookup("web", None).is_err());
    }
}
