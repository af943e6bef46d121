//! "did you mean": the nearest of the words that were possible.

/// Edits that a typing error takes at most.
const MAX_DISTANCE: usize = 2;

/// The message with a hint, if one of the possible words is near enough.
pub(crate) fn hinted(message: String, word: &str, possible: &[&str]) -> String {
    let lower = word.to_lowercase();
    let nearest = possible
        .iter()
        .map(|other| (distance(&lower, &other.to_lowercase()), *other))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((1..=MAX_DISTANCE, other)) => format!("{message} (did you mean {other}?)"),
        _ => message,
    }
}

/// The first of the nearest words, letter by letter; none if it is one of them.
pub(crate) fn nearest<'a>(word: &str, possible: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let all = possible.map(|other| (distance(word, other), other));
    match all.min_by_key(|(distance, _)| *distance)? {
        (1..=MAX_DISTANCE, other) => Some(other),
        _ => None,
    }
}

/// Levenshtein's; words here are short, longer ones are not compared.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 32;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_offered_and_others_not() {
        let hint = |word| hinted("unknown".into(), word, &["RUN", "COPY", "WORKDIR"]);
        assert_eq!(hint("RUNN"), "unknown (did you mean RUN?)");
        assert_eq!(hint("wrkdr"), "unknown (did you mean WORKDIR?)");
        assert_eq!(hint("FETCHALL"), "unknown");
        assert_eq!(hint(&"x".repeat(1000)), "unknown");
    }
}
