//! Statements become typed instructions, and those fall into stages.

use super::flags::{Flags, Kind};
use super::instruction::{
    Add, Arg, Command, Copy, Instruction, Line, Network, Run, Security, Source, Sources, Stage,
};
use super::lines::{Directives, Heredoc, Statement, statements};
use super::suggest::hinted;
use super::words::{
    Form, fields, leading_flags, maybe_json, maybe_json_list, pairs, split_once, words,
};
use super::{Error, Expander, Health, Lines, Mount, notes};

const NAMES: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    /// ARG before the first FROM.
    pub global_args: Vec<Arg>,
    pub stages: Vec<Stage>,
    pub warnings: Vec<Warning>,
}

/// Something that a check found while reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The check's name, as `docker build --check` shows it.
    pub rule: &'static str,
    pub message: String,
    pub lines: Lines,
}

/// Reads a Dockerfile.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(text: &str) -> Result<Dockerfile, Error> {
    read(text).file
}

/// What came of a text.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The directive, as far as the text could be read.
    pub check: Option<String>,
    /// All up to an error.
    pub warnings: Vec<Warning>,
    pub file: Result<Dockerfile, Error>,
}

/// Reads a Dockerfile; tells what the checks found before an error as well.
pub fn read(text: &str) -> Reading {
    let mut warnings = Vec::new();
    let (directives, statements) = match statements(text) {
        Ok(read) => read,
        Err(error) => {
            return Reading {
                check: None,
                warnings,
                file: Err(error),
            };
        }
    };
    for statement in &statements {
        if let Some(line) = statement.empty_continuation {
            warnings.push(Warning {
                rule: "NoEmptyContinuation",
                message: "Empty continuation line".to_owned(),
                lines: Lines {
                    start: line,
                    end: line,
                },
            });
        }
    }
    let check = directives.check.clone();
    let file = of_statements(directives, &statements, &mut warnings);
    Reading {
        check,
        file: file.map(|file| Dockerfile {
            warnings: warnings.clone(),
            ..file
        }),
        warnings,
    }
}

fn of_statements(
    directives: Directives,
    statements: &[Statement],
    warnings: &mut Vec<Warning>,
) -> Result<Dockerfile, Error> {
    let Some(last) = statements.last() else {
        return Err(Error::new(
            "file with no instructions",
            Lines { start: 1, end: 1 },
        ));
    };
    let end = last.lines;
    let mut file = Dockerfile {
        directives,
        global_args: Vec::new(),
        stages: Vec::new(),
        warnings: Vec::new(),
    };
    for statement in statements {
        let lines = statement.lines;
        let escape = file.directives.escape;
        notes::before(statement, warnings);
        let typed = typed(statement, escape).map_err(|message| Error::new(message, lines))?;
        notes::after(statement, &typed, warnings);
        match typed {
            Typed::Stage(stage) => file.stages.push(*stage),
            Typed::Command(Instruction::Arg(args)) if file.stages.is_empty() => {
                file.global_args.extend(args);
            }
            Typed::Command(instruction) => {
                let Some(stage) = file.stages.last_mut() else {
                    return Err(Error::new("no build stage in current context", lines));
                };
                stage.commands.push(Command {
                    instruction,
                    lines,
                    text: statement.text.trim().to_owned(),
                });
            }
        }
    }
    if file.stages.is_empty() {
        return Err(Error::new("dockerfile contains no stages to build", end));
    }
    Ok(file)
}

/// Reads one instruction: a trigger of ONBUILD, a `--change`.
///
/// # Errors
/// It is none, or FROM, or more than one.
pub fn instruction(text: &str, escape: char) -> Result<Instruction, Error> {
    let (_, statements) = statements(text)?;
    let first = Lines { start: 1, end: 1 };
    let [statement] = statements.as_slice() else {
        return Err(Error::new(
            format!("{} instructions where one is needed", statements.len()),
            first,
        ));
    };
    match typed(statement, escape).map_err(|message| Error::new(message, first))? {
        Typed::Command(instruction) => Ok(instruction),
        Typed::Stage(_) => Err(Error::new("FROM is not allowed here", first)),
    }
}

pub(super) enum Typed {
    Stage(Box<Stage>),
    Command(Instruction),
}

fn typed(statement: &Statement, escape: char) -> Result<Typed, String> {
    let text = statement.text.trim();
    let (name, rest) = split_once(text).unwrap_or((text, ""));
    let (given, rest) = leading_flags(rest);
    let rest = rest.trim();
    let upper = name.to_ascii_uppercase();
    let no_flags = || Flags::parse(&given, &[]).map(drop);
    let all = |list: Vec<String>| match list.is_empty() {
        true => Err(format!("{upper} requires at least one argument")),
        false => Ok(list),
    };
    let one = || match rest {
        "" => Err(format!("{upper} requires exactly one argument")),
        rest => Ok(rest.to_owned()),
    };
    let instruction = match upper.as_str() {
        "FROM" => return stage(statement, &given, rest).map(|s| Typed::Stage(Box::new(s))),
        "RUN" => Instruction::Run(run(statement, &given, rest)?),
        "COPY" => Instruction::Copy(copy(statement, &given, rest, escape)?),
        "ADD" => Instruction::Add(add(statement, &given, rest, escape)?),
        "HEALTHCHECK" => Instruction::Healthcheck(Health::parse(&given, rest)?),
        "ONBUILD" => Instruction::Onbuild(onbuild(statement, rest, escape)?),
        other if !NAMES.contains(&other) => {
            return Err(hinted(format!("unknown instruction: {name}"), other, NAMES));
        }
        // None of the others takes a flag.
        other => {
            no_flags()?;
            match other {
                "ARG" => Instruction::Arg(args(statement, rest, escape)?),
                "CMD" => Instruction::Cmd(line(rest)?),
                "ENTRYPOINT" => Instruction::Entrypoint(line(rest)?),
                "ENV" => Instruction::Env(pairs(rest, "ENV", escape)?),
                "LABEL" => Instruction::Label(pairs(rest, "LABEL", escape)?),
                "EXPOSE" => {
                    let mut ports = all(fields(rest))?;
                    ports.sort();
                    Instruction::Expose(ports)
                }
                "MAINTAINER" => Instruction::Maintainer(one()?),
                "SHELL" => match maybe_json(rest)? {
                    Form::List(list) => Instruction::Shell(all(list)?),
                    Form::Text(_) => {
                        return Err(format!(
                            "SHELL requires the arguments to be in JSON form, such as SHELL [\"/bin/sh\", \"-c\"], not: {rest}"
                        ));
                    }
                },
                "STOPSIGNAL" => Instruction::Stopsignal(one()?),
                "USER" => Instruction::User(one()?),
                "VOLUME" => {
                    let paths: Vec<String> = all(maybe_json_list(rest)?)?
                        .iter()
                        .map(|path| path.trim().to_owned())
                        .collect();
                    if paths.iter().any(String::is_empty) {
                        return Err("VOLUME specified can not be an empty string".to_owned());
                    }
                    Instruction::Volume(paths)
                }
                _ => Instruction::Workdir(one()?),
            }
        }
    };
    Ok(Typed::Command(instruction))
}

fn stage(statement: &Statement, given: &[String], rest: &str) -> Result<Stage, String> {
    let flags = Flags::parse(given, &[("platform", Kind::Text)])?;
    let words = fields(rest);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => (base, Some(name)),
        _ => return Err("FROM requires either one or three arguments".to_owned()),
    };
    let name = name.map(|name| stage_name(name)).transpose()?;
    Ok(Stage {
        base: base.clone(),
        comment: name.as_deref().and_then(|name| comment(statement, name)),
        name,
        platform: flags.owned("platform"),
        lines: statement.lines,
        text: statement.text.trim().to_owned(),
        commands: Vec::new(),
    })
}

fn stage_name(given: &str) -> Result<String, String> {
    let name = given.to_lowercase();
    let starts_well = name.starts_with(|char: char| char.is_ascii_lowercase());
    let is_plain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if starts_well && name.bytes().all(is_plain) {
        return Ok(name);
    }
    Err(format!(
        "invalid name for build stage: {given:?}, name can't start with a number or contain symbols"
    ))
}

/// "NAME is …" above the instruction describes NAME.
fn comment(statement: &Statement, name: &str) -> Option<String> {
    statement.comments.iter().find_map(|line| {
        let text = line.strip_prefix(name)?.strip_prefix(' ')?;
        Some(text.to_owned())
    })
}

fn args(statement: &Statement, rest: &str, escape: char) -> Result<Vec<Arg>, String> {
    let words = words(rest, escape);
    if words.is_empty() {
        return Err("ARG requires at least one argument".to_owned());
    }
    words
        .iter()
        .map(|word| {
            let (name, default) = match word.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return Err("ARG names can not be blank".to_owned());
            }
            Ok(Arg {
                name: name.to_owned(),
                default,
                comment: comment(statement, name),
                lines: statement.lines,
            })
        })
        .collect()
}

fn line(rest: &str) -> Result<Line, String> {
    Ok(match maybe_json(rest)? {
        Form::List(list) => Line::Exec(list),
        Form::Text(text) => Line::Shell(text),
    })
}

fn run(statement: &Statement, given: &[String], rest: &str) -> Result<Run, String> {
    let flags = Flags::parse(
        given,
        &[
            ("mount", Kind::List),
            ("network", Kind::Text),
            ("security", Kind::Text),
        ],
    )?;
    let mounts: Vec<String> = flags.all("mount").map(str::to_owned).collect();
    for mount in &mounts {
        // Values with variables are checked when they are known.
        if !mount.contains('$') {
            Mount::parse(mount, &mut |value| Ok(value.to_owned()))?;
        }
    }
    let network = match flags.text("network") {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => {
            let message = format!("invalid network mode {other:?}");
            return Err(hinted(message, other, &["default", "none", "host"]));
        }
    };
    let security = match flags.text("security") {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            let message = format!("security {other:?} is not valid");
            return Err(hinted(message, other, &["sandbox", "insecure"]));
        }
    };
    let line = line(rest)?;
    if matches!(&line, Line::Shell(text) if text.is_empty())
        || matches!(&line, Line::Exec(list) if list.is_empty())
    {
        return Err("RUN requires at least one argument".to_owned());
    }
    Ok(Run {
        line,
        heredocs: statement.heredocs.clone(),
        mounts,
        network,
        security,
    })
}

fn sources(
    statement: &Statement,
    rest: &str,
    instruction: &str,
    escape: char,
) -> Result<Sources, String> {
    let mut words = maybe_json_list(rest)?;
    let target = match (words.pop(), words.is_empty()) {
        (Some(target), false) => target,
        _ => {
            return Err(format!(
                "{instruction} requires at least two arguments, but only one was provided. Destination could not be determined"
            ));
        }
    };
    if Heredoc::of_word(&target, escape).is_some() {
        return Err(format!(
            "{instruction} cannot accept a heredoc as a destination"
        ));
    }
    let sources = words
        .into_iter()
        .map(|word| {
            let found = Heredoc::of_word(&word, escape).and_then(|doc| {
                let mut documents = statement.heredocs.iter();
                documents.find(|known| known.name == doc.name).cloned()
            });
            found.map_or(Source::Path(word), Source::Inline)
        })
        .collect();
    Ok(Sources { sources, target })
}

fn copy(statement: &Statement, given: &[String], rest: &str, escape: char) -> Result<Copy, String> {
    let flags = Flags::parse(
        given,
        &[
            ("from", Kind::Text),
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("parents", Kind::Bool),
            ("exclude", Kind::List),
        ],
    )?;
    Ok(Copy {
        files: sources(statement, rest, "COPY", escape)?,
        from: flags.owned("from").filter(|from| !from.is_empty()),
        chown: flags.owned("chown"),
        chmod: flags.owned("chmod"),
        link: flags.is_set("link"),
        parents: flags.is_set("parents"),
        exclude: flags.all("exclude").map(str::to_owned).collect(),
    })
}

fn add(statement: &Statement, given: &[String], rest: &str, escape: char) -> Result<Add, String> {
    let flags = Flags::parse(
        given,
        &[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("keep-git-dir", Kind::Bool),
            ("checksum", Kind::Text),
            ("unpack", Kind::Bool),
            ("exclude", Kind::List),
        ],
    )?;
    let switch = |name| flags.text(name).map(|text| text == "true");
    Ok(Add {
        files: sources(statement, rest, "ADD", escape)?,
        chown: flags.owned("chown"),
        chmod: flags.owned("chmod"),
        link: flags.is_set("link"),
        keep_git_dir: switch("keep-git-dir"),
        checksum: flags.owned("checksum"),
        unpack: switch("unpack"),
        exclude: flags.all("exclude").map(str::to_owned).collect(),
    })
}

/// The trigger is read now, so that an error in it is said now, and kept as
/// it is written, documents included.
fn onbuild(statement: &Statement, rest: &str, escape: char) -> Result<String, String> {
    if rest.is_empty() {
        return Err("ONBUILD requires at least one argument".to_owned());
    }
    let name = fields(rest).first().map(|name| name.to_ascii_uppercase());
    match name.as_deref() {
        Some("ONBUILD") => {
            return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned());
        }
        Some(name @ ("MAINTAINER" | "FROM")) => {
            return Err(format!("{name} isn't allowed as an ONBUILD trigger"));
        }
        _ => {}
    }
    let trigger = Statement {
        text: rest.to_owned(),
        ..statement.clone()
    };
    typed(&trigger, escape)?;
    let mut text = rest.to_owned();
    for heredoc in &statement.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}

impl Dockerfile {
    /// For the words of this file.
    pub fn expander(&self) -> Expander {
        Expander::new(self.directives.escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<Instruction> {
        let file = parse(&format!("FROM a\n{text}")).unwrap();
        let stage = file.stages.into_iter().next().unwrap();
        stage.commands.into_iter().map(|c| c.instruction).collect()
    }

    #[test]
    fn stages_and_global_arguments() {
        let file = parse(
            "ARG V=1\n# build makes it\nFROM --platform=$BUILDPLATFORM base:$V AS Build\nRUN x\nfrom scratch\ncopy --from=build /x /\n",
        )
        .unwrap();
        assert_eq!(file.global_args[0].default.as_deref(), Some("1"));
        let [build, last] = file.stages.as_slice() else {
            panic!("{file:?}")
        };
        assert_eq!(build.name.as_deref(), Some("build"));
        assert_eq!(build.base, "base:$V");
        assert_eq!(build.platform.as_deref(), Some("$BUILDPLATFORM"));
        assert_eq!(build.comment.as_deref(), Some("makes it"));
        assert_eq!((last.base.as_str(), last.commands.len()), ("scratch", 1));
    }

    #[test]
    fn each_instruction() {
        let all = commands(
            "ADD --checksum=sha256:00 --unpack=false --exclude=*.o https://x/y a /z/\n\
             ARG A B=\"c d\"\nCMD [\"x\", \"y\"]\nENTRYPOINT exec z\nENV a=1 b=2\nEXPOSE 80/tcp 443\n\
             LABEL k v w\nMAINTAINER me <m@x>\nONBUILD RUN make\nSHELL [\"/bin/bash\", \"-c\"]\n\
             STOPSIGNAL SIGINT\nUSER a:b\nVOLUME [\"/a\"]\nVOLUME /b /c\nWORKDIR /w x\n\
             RUN --mount=type=cache,target=/c --network=none --security=insecure a && b\n\
             RUN [\"a\", \"b\"]\n",
        );
        let Instruction::Add(add) = &all[0] else {
            panic!("{all:?}")
        };
        assert_eq!(add.files.sources.len(), 2);
        assert_eq!((add.unpack, add.link), (Some(false), false));
        assert_eq!(
            all[2],
            Instruction::Cmd(Line::Exec(vec!["x".into(), "y".into()]))
        );
        assert_eq!(
            all[3],
            Instruction::Entrypoint(Line::Shell("exec z".into()))
        );
        assert_eq!(
            all[5],
            Instruction::Expose(vec!["443".into(), "80/tcp".into()])
        );
        assert_eq!(all[6], Instruction::Label(vec![("k".into(), "v w".into())]));
        assert_eq!(all[8], Instruction::Onbuild("RUN make".into()));
        assert_eq!(all[13], Instruction::Volume(vec!["/b".into(), "/c".into()]));
        assert_eq!(all[14], Instruction::Workdir("/w x".into()));
        let Instruction::Run(run) = &all[15] else {
            panic!("{all:?}")
        };
        assert_eq!(
            (run.network, run.security),
            (Network::None, Security::Insecure)
        );
        assert_eq!(run.line, Line::Shell("a && b".into()));
        assert_eq!(run.mounts, ["type=cache,target=/c"]);
    }

    #[test]
    fn documents_are_sources_and_scripts() {
        let all = commands("COPY <<a <<'b' c /d/\n$x\na\n$y\nb\nRUN <<EOF\nset -e\nEOF\n");
        let Instruction::Copy(copy) = &all[0] else {
            panic!("{all:?}")
        };
        let expand: Vec<_> = copy
            .files
            .sources
            .iter()
            .map(|source| match source {
                Source::Inline(doc) => Some(doc.expand),
                Source::Path(_) => None,
            })
            .collect();
        assert_eq!(expand, [Some(true), Some(false), None]);
        let Instruction::Run(run) = &all[1] else {
            panic!("{all:?}")
        };
        assert_eq!(run.heredocs[0].content, "set -e\n");
    }

    #[test]
    fn errors_name_their_line_and_what_was_meant() {
        for (text, line, why) in [
            ("", 1, "file with no instructions"),
            ("# only\n", 1, "file with no instructions"),
            ("ARG a\n", 1, "no stages to build"),
            ("RUN a\n", 1, "no build stage in current context"),
            (
                "FROM a\nRUNN b\n",
                2,
                "unknown instruction: RUNN (did you mean RUN?)",
            ),
            ("FROM a b\n", 1, "either one or three arguments"),
            ("FROM a AS 1x\n", 1, "invalid name for build stage: \"1x\""),
            ("FROM --plattform=x a\n", 1, "did you mean platform?"),
            ("FROM a\nCOPY x\n", 2, "requires at least two arguments"),
            ("FROM a\nCOPY x <<EOF\nEOF\n", 2, "heredoc as a destination"),
            ("FROM a\nRUN\n", 2, "RUN requires at least one argument"),
            (
                "FROM a\nRUN --mount=type=x b\n",
                2,
                "unsupported mount type",
            ),
            ("FROM a\nRUN --network=foo b\n", 2, "invalid network mode"),
            ("FROM a\nSHELL x\n", 2, "JSON form"),
            ("FROM a\n\nENV a\n", 3, "two arguments"),
            ("FROM a\nENV --x a=1\n", 2, "unknown flag: --x"),
            ("FROM a\nONBUILD ONBUILD RUN x\n", 2, "Chaining ONBUILD"),
            (
                "FROM a\nONBUILD FROM x\n",
                2,
                "isn't allowed as an ONBUILD trigger",
            ),
            ("FROM a\nONBUILD RUNN x\n", 2, "did you mean RUN?"),
            ("FROM a\nCMD [1]\n", 2, "strings only"),
            ("FROM a\nWORKDIR\n", 2, "exactly one argument"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(why), "{text:?}: {error}");
            assert_eq!(error.lines.start, line, "{text:?}: {error}");
        }
    }

    #[test]
    fn a_trigger_is_read_alone() {
        assert_eq!(
            instruction("ENV a=1", '\\'),
            Ok(Instruction::Env(vec![("a".into(), "1".into())]))
        );
        assert!(instruction("FROM x", '\\').is_err());
        assert!(instruction("ENV a=1\nENV b=2", '\\').is_err());
        assert!(instruction("", '\\').is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(FROM |RUN |COPY |ENV |ARG |<<E|E|\n|\\\\|--mount=|\"|'|\\[|\\]|\\$\\{|[a-z=/,:#]| ){0,40}") {
            let _ = parse(&text);
        }
    }
}
