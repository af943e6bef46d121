//! `--chmod`.

use crate::graph::ModeChange;

/// Octal up to 07777, or symbolic as chmod(1) has it: "u=rwX,go=rX".
pub(super) fn parse(text: &str) -> Result<ModeChange, String> {
    let invalid = || {
        format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )
    };
    if text.starts_with(|char: char| char.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode @ ..=0o7777) => Ok(ModeChange::Octal(mode)),
            _ => Err(invalid()),
        };
    }
    match !text.is_empty() && text.split(',').all(is_clause) {
        true => Ok(ModeChange::Symbolic(text.to_owned())),
        false => Err(invalid() + ", or symbolic like u=rwX,go=rX"),
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`.
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if !actions.starts_with(['+', '-', '=']) {
        return false;
    }
    actions.split(['+', '-', '=']).all(|permissions| {
        matches!(permissions, "u" | "g" | "o")
            || permissions.chars().all(|char| "rwxXst".contains(char))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_symbolic() {
        assert_eq!(parse("0755"), Ok(ModeChange::Octal(0o755)));
        assert_eq!(parse("7777"), Ok(ModeChange::Octal(0o7777)));
        for text in ["u=rwX,go=rX", "a+x", "+t", "u+s-w", "g=u", "o="] {
            assert_eq!(parse(text), Ok(ModeChange::Symbolic(text.to_owned())));
        }
        for text in ["64a", "10000", "u", "u=rw,", "", "u=q", "=ug", "-1"] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("invalid chmod parameter: '"), "{text}");
        }
    }
}
