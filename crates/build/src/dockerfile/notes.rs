//! What the checks say of single instructions, as they are read: of their
//! letters and comments, which are not kept.

use super::instruction::Instruction;
use super::lines::Statement;
use super::parse::{Typed, Warning};
use super::words::{fields, leading_flags, split_once};

/// What is said even of an instruction that turns out to be wrong.
pub(super) fn before(statement: &Statement, warnings: &mut Vec<Warning>) {
    let text = statement.text.trim();
    let (name, rest) = split_once(text).unwrap_or((text, ""));
    let mut warn = |rule, message| {
        warnings.push(Warning {
            rule,
            message,
            lines: statement.lines,
        });
    };
    if name.eq_ignore_ascii_case("maintainer") {
        let message = "Maintainer instruction is deprecated in favor of using label";
        warn("MaintainerDeprecated", message.to_owned());
    }
    if !name.eq_ignore_ascii_case("from") {
        return;
    }
    let words = fields(leading_flags(rest).1);
    let [_, keyword, stage] = words.as_slice() else {
        return;
    };
    if stage.to_lowercase() != *stage {
        let message = format!("Stage name '{stage}' should be lowercase");
        warn("StageNameCasing", message);
    }
    let agree = match name {
        "from" => *keyword == keyword.to_lowercase(),
        "FROM" => *keyword == keyword.to_uppercase(),
        _ => true,
    };
    if !agree {
        let message = format!("'{keyword}' and '{name}' keywords' casing do not match");
        warn("FromAsCasing", message);
    }
}

/// The comment right above a stage or argument begins with its name.
pub(super) fn after(statement: &Statement, typed: &Typed, warnings: &mut Vec<Warning>) {
    let (instruction, names): (_, Vec<&str>) = match typed {
        Typed::Stage(stage) => ("FROM", stage.name.iter().map(String::as_str).collect()),
        Typed::Command(Instruction::Arg(args)) => {
            ("ARG", args.iter().map(|arg| arg.name.as_str()).collect())
        }
        Typed::Command(_) => return,
    };
    let (Some(comment), Some(first)) = (statement.comments.last(), names.first()) else {
        return;
    };
    let word = comment.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let name = if names.len() > 1 { "<arg_key>" } else { *first };
    warnings.push(Warning {
        rule: "InvalidDefinitionDescription",
        message: format!(
            "Comment for {instruction} should follow the format: `# {name} <description>`"
        ),
        lines: statement.lines,
    });
}
