//! Slash paths of images and contexts, without looking at any file.

/// Go's `path.Clean` of an absolute path: no empty, `.` or `..` component, none
/// above the root.
pub(super) fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` as seen from the absolute `directory`.
pub(super) fn join(directory: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => absolute(path),
        false => absolute(&format!("{directory}/{path}")),
    }
}

/// The same for a target: a slash at its end stays, "." is a directory.
pub(super) fn target(directory: &str, path: &str) -> String {
    let joined = join(directory, path);
    let is_directory = path.ends_with('/') || matches!(path, "" | ".");
    match is_directory && joined != "/" {
        true => joined + "/",
        false => joined,
    }
}

/// A source from the root of what it is copied from, without a slash at its
/// beginning; "." is the root itself.
pub(super) fn source(path: &str) -> String {
    match absolute(path).trim_start_matches('/') {
        "" => ".".to_owned(),
        path => path.to_owned(),
    }
}

/// The same name, none of its characters a wildcard.
pub(super) fn escaped(name: &str) -> String {
    let mut out = String::new();
    for char in name.chars() {
        if matches!(char, '*' | '?' | '[' | '\\') {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(absolute("/a/../../b//./c/"), "/b/c");
        assert_eq!(join("/w", "x"), "/w/x");
        assert_eq!(join("/w", "/x/"), "/x");
        for (path, wanted) in [
            (".", "/w/"),
            ("", "/w/"),
            ("./", "/w/"),
            ("a/", "/w/a/"),
            ("a", "/w/a"),
            ("/", "/"),
            ("..", "/"),
        ] {
            assert_eq!(target("/w", path), wanted, "{path}");
        }
        assert_eq!(source("../a/"), "a");
        assert_eq!(source("/"), ".");
        assert_eq!(escaped("a*[b]"), "a\\*\\[b]");
    }
}
