//! `--env-file` and `--label-file`.

use crate::failure::path_error;

fn lines(path: &str) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(path).map_err(|error| path_error("open", path, &error))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("env file {path} contains invalid utf8 bytes"))?;
    Ok(text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(|line| line.trim_start().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect())
}

/// Splits "name=value" and checks the name.
fn entry(line: &str) -> Result<(&str, Option<&str>), String> {
    let (name, value) = match line.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (line.trim_end(), None),
    };
    if name.is_empty() {
        return Err(format!("no variable name on line '{line}'"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("variable '{name}' contains whitespaces"));
    }
    Ok((name, value))
}

/// Variables of the files, then those of the flags; a name without a value takes
/// the caller's.
pub(crate) fn environment(files: &[String], flags: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for path in files {
        for line in lines(path)? {
            let (name, value) = entry(&line)?;
            let value = value
                .map(str::to_owned)
                .or_else(|| std::env::var(name).ok());
            all.extend(value.map(|value| format!("{name}={value}")));
        }
    }
    for flag in flags {
        all.push(match std::env::var(flag) {
            Ok(value) if !flag.contains('=') => format!("{flag}={value}"),
            _ => flag.clone(),
        });
    }
    Ok(all)
}

pub(crate) fn labels(files: &[String], flags: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for path in files {
        for line in lines(path)? {
            let (name, value) = entry(&line)?;
            all.push(format!("{name}={}", value.unwrap_or_default()));
        }
    }
    all.extend(flags.iter().cloned());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_flags() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        std::fs::write(
            &path,
            "\u{feff}# c\n\nA=1\n  B=x y \nHOME\nNOT_SET_ANYWHERE\n",
        )
        .unwrap();
        let path = path.display().to_string();
        let home = std::env::var("HOME").unwrap();
        let all = environment(
            std::slice::from_ref(&path),
            &["C=3".to_owned(), "NOT_SET".to_owned()],
        )
        .unwrap();
        assert_eq!(
            all,
            ["A=1", "B=x y ", &format!("HOME={home}"), "C=3", "NOT_SET"]
        );
        std::fs::write(&path, "a b=1").unwrap();
        assert_eq!(
            environment(std::slice::from_ref(&path), &[]).unwrap_err(),
            "variable 'a b' contains whitespaces"
        );
        std::fs::write(&path, "=1").unwrap();
        assert_eq!(
            environment(&[path], &[]).unwrap_err(),
            "no variable name on line '=1'"
        );
        assert_eq!(
            environment(&["/no".to_owned()], &[]).unwrap_err(),
            "open /no: no such file or directory"
        );
    }
}
