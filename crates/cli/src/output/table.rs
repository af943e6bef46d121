//! Columns, aligned by spaces as Go's tabwriter does it in Docker's client.

use std::fmt::Write as _;

/// Spaces between two columns.
const PADDING: usize = 3;
/// No column is narrower, its padding included.
const MINIMUM: usize = 10;

/// Aligns lines whose cells end in tabs. The last cell of a line is not padded.
pub(crate) fn align(lines: &[String]) -> String {
    align_with(lines, MINIMUM, PADDING)
}

/// A column runs over neighbouring lines that have it, as in Go: a line with
/// fewer cells ends the column.
pub(crate) fn align_with(lines: &[String], minimum: usize, padding: usize) -> String {
    let rows: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = rows.iter().map(|row| vec![0; row.len()]).collect();
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..most {
        let mut start = 0;
        while start < rows.len() {
            // A cell is part of a column only when a tab ends it.
            let has = |row: &Vec<&str>| column + 1 < row.len();
            if !has(&rows[start]) {
                start += 1;
                continue;
            }
            let end = start + rows[start..].iter().take_while(|row| has(row)).count();
            let width = rows[start..end]
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0);
            for cell in &mut widths[start..end] {
                cell[column] = (width + padding).max(minimum);
            }
            start = end;
        }
    }
    let mut text = String::new();
    for (row, widths) in rows.iter().zip(&widths) {
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            if at + 1 < row.len() {
                let _ = write!(text, "{cell:<width$}");
            } else {
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = ["NAME\tID\tX", "a-long-name-here\t1\ty"].map(str::to_owned);
        assert_eq!(
            align(&lines),
            "NAME               ID        X\na-long-name-here   1         y\n"
        );
    }
}
