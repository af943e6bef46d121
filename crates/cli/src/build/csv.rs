//! "type=local,dest=out": one line of comma-separated values, quoted as in Go.

use std::collections::BTreeMap;

/// The fields of one line.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => {
                        return Err(format!("extraneous or missing \" in quoted-field: {text}"));
                    }
                }
            }
        } else {
            while let Some(letter) = letters.next_if(|&letter| letter != ',') {
                if letter == '"' {
                    return Err(format!("bare \" in non-quoted-field: {text}"));
                }
                field.push(letter);
            }
        }
        fields.push(field);
        match letters.next() {
            Some(',') => {}
            None => return Ok(fields),
            Some(_) => return Err(format!("extraneous or missing \" in quoted-field: {text}")),
        }
    }
}

/// Fields that are all "key=value"; keys in lower case.
pub(super) fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    fields(text)?
        .into_iter()
        .map(|field| {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| format!("invalid value {field}"))?;
            Ok((key.trim().to_lowercase(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas() {
        let read = |text| fields(text).unwrap();
        assert_eq!(read("a=1,b=2"), ["a=1", "b=2"]);
        assert_eq!(
            read(r#"type=local,"dest=a,""b""",c"#),
            ["type=local", r#"dest=a,"b""#, "c"]
        );
        assert_eq!(read(""), [""]);
        assert!(fields("a\"b").is_err() && fields("\"a").is_err() && fields("\"a\"b").is_err());
        assert_eq!(pairs("Type=x,y=a=b").unwrap()["y"], "a=b");
        assert_eq!(pairs("x").unwrap_err(), "invalid value x");
    }
}
