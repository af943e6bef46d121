//! `system check`: what the engine's image store finds wrong with itself.

use serde::Deserialize;

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::{harmless, print_line};
use crate::transport::Request;
use crate::tree::Outcome;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Report {
    checked: u64,
    damage: Option<Vec<Damage>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Damage {
    what: String,
    problem: String,
    remedy: String,
    repaired: bool,
}

/// Exit status 1 when damage is left.
pub(crate) async fn check(context: &Context, args: &Parsed) -> Outcome {
    let repair = args.on("repair");
    let request = Request::post("/system/check").query_flag("repair", repair);
    let report: Report = context.json(request).await?;
    for line in lines(&report, repair, &context.program) {
        print_line(&line);
    }
    let left = report.damage.iter().flatten().any(|one| !one.repaired);
    Ok(i32::from(left))
}

fn lines(report: &Report, repair: bool, program: &str) -> Vec<String> {
    let damage = report.damage.as_deref().unwrap_or_default();
    let mut lines: Vec<_> = damage
        .iter()
        .map(|one| {
            let state = if one.repaired { "repaired: " } else { "" };
            harmless(&format!(
                "{}: {}; {state}{}",
                one.what, one.problem, one.remedy
            ))
        })
        .collect();
    let repaired = damage.iter().filter(|one| one.repaired).count();
    lines.push(match damage.len() {
        0 => format!("Checked {}: no damage", report.checked),
        all => format!(
            "Checked {}: {all} damaged, {repaired} repaired",
            report.checked
        ),
    });
    if damage.len() > repaired && !repair {
        lines.push(format!("Run '{program} system check --repair' to repair"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let report: Report = serde_json::from_str(
            r#"{"Checked":12,"Damage":[
                {"What":"layer sha256:1","Problem":"is missing","Remedy":"unpack it from its blob","Repaired":true},
                {"What":"blob sha256:2","Problem":"has another digest","Remedy":"pull the image again","Repaired":false}]}"#,
        )
        .unwrap();
        assert_eq!(
            lines(&report, false, "berth"),
            [
                "layer sha256:1: is missing; repaired: unpack it from its blob",
                "blob sha256:2: has another digest; pull the image again",
                "Checked 12: 2 damaged, 1 repaired",
                "Run 'berth system check --repair' to repair",
            ]
        );
        let fine: Report = serde_json::from_str(r#"{"Checked":3,"Damage":null}"#).unwrap();
        assert_eq!(lines(&fine, true, "berth"), ["Checked 3: no damage"]);
    }
}
