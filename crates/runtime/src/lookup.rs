//! Finding the program, with the words of Go's `exec.LookPath`, which Docker's
//! clients and daemon match to choose the exit codes 126 and 127.

use std::ffi::CString;

use rustix::fs::{Access, FileType};
use rustix::io::Errno;

use crate::error::{Error, Result, reason};

/// The container's `PATH` when its environment has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file that `name` stands for. Run inside the container's root, in its
/// working directory, as the user who will run it.
pub(crate) fn find(name: &str, env: &[CString]) -> Result<CString> {
    if name.is_empty() {
        return Err(Error::NotFound(
            r#"exec: "": executable file not found in $PATH"#.into(),
        ));
    }
    if name.contains('/') {
        let path = c_string(name)?;
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(errno) => Err(refused(name, errno)),
        };
    }
    for directory in path_of(env).split(':') {
        // An empty entry would mean the working directory: Go refuses that.
        if directory.is_empty() {
            continue;
        }
        let path = c_string(&format!("{}/{name}", directory.trim_end_matches('/')))?;
        if check(&path).is_ok() {
            return Ok(path);
        }
    }
    Err(Error::NotFound(format!(
        "exec: {name:?}: executable file not found in $PATH"
    )))
}

/// Why execve of a file that was found failed.
pub(crate) fn exec_failed(path: &CString, error: &std::io::Error) -> Error {
    let text = format!("exec {}: {}", path.to_string_lossy(), reason(error));
    match error.raw_os_error() {
        // The file is there: its interpreter is not.
        Some(libc::ENOENT | libc::ENOTDIR) => Error::NotFound(text),
        _ => Error::NotExecutable(text),
    }
}

fn path_of(env: &[CString]) -> String {
    env.iter()
        .rev()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="))
        .map_or_else(
            || DEFAULT_PATH.into(),
            |path| String::from_utf8_lossy(path).into_owned(),
        )
}

fn check(path: &CString) -> std::result::Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    // Effective identity: AT_EACCESS needs Linux 5.8, so no fallback.
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    )
}

fn refused(name: &str, errno: Errno) -> Error {
    let why = reason(&errno.into());
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => {
            Error::NotFound(format!("exec: {name:?}: stat {name}: {why}"))
        }
        _ => Error::NotExecutable(format!("exec: {name:?}: {why}")),
    }
}

pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?} contains a NUL byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(path: &str) -> Vec<CString> {
        vec![
            c"PATH=/nowhere".into(),
            CString::new(format!("PATH={path}")).unwrap(),
        ]
    }

    #[test]
    fn the_words_are_gos() {
        let text = |name: &str| find(name, &env("/bin:/usr/bin")).unwrap_err().to_string();
        assert_eq!(
            text("nope"),
            r#"exec: "nope": executable file not found in $PATH"#
        );
        assert_eq!(text(""), r#"exec: "": executable file not found in $PATH"#);
        assert_eq!(
            text("/foo"),
            r#"exec: "/foo": stat /foo: no such file or directory"#
        );
        assert_eq!(
            text("/etc/passwd"),
            r#"exec: "/etc/passwd": permission denied"#
        );
        assert_eq!(text("/etc"), r#"exec: "/etc": is a directory"#);
        assert_eq!(
            text("/etc/passwd/x"),
            r#"exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory"#
        );
    }

    #[test]
    fn the_last_path_wins_and_empty_entries_are_skipped() {
        let found = find("sh", &env("::/nowhere:/bin/")).unwrap();
        assert_eq!(found.to_str().unwrap(), "/bin/sh");
        assert!(matches!(find("sh", &env("")), Err(Error::NotFound(_))));
        assert!(
            find("sh", &[]).is_ok(),
            "the default path is used without one"
        );
    }

    #[test]
    fn a_missing_interpreter_is_not_found_and_junk_is_not_executable() {
        let path = c"/x".into();
        let failed = |errno| exec_failed(&path, &std::io::Error::from_raw_os_error(errno));
        assert!(matches!(failed(libc::ENOENT), Error::NotFound(_)));
        assert_eq!(
            failed(libc::ENOEXEC).to_string(),
            "exec /x: exec format error"
        );
        assert!(matches!(failed(libc::ENOEXEC), Error::NotExecutable(_)));
    }
}
