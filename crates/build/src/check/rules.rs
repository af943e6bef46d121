//! The checks: names, descriptions and addresses as BuildKit has them, and
//! which of them a Dockerfile wants.

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: &'static str,
    pub description: &'static str,
    /// What follows the common beginning of all addresses; empty = no page.
    page: &'static str,
    /// Only on demand.
    pub is_experimental: bool,
}

impl Rule {
    /// Where it is explained; may be empty.
    pub fn url(&self) -> String {
        match self.page {
            "" => String::new(),
            page => format!("https://docs.docker.com/go/dockerfile/rule/{page}/"),
        }
    }
}

const fn rule(name: &'static str, page: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        description,
        page,
        is_experimental: false,
    }
}

const fn experimental(rule: Rule) -> Rule {
    Rule {
        is_experimental: true,
        ..rule
    }
}

pub const RULES: [Rule; 22] = [
    rule(
        "StageNameCasing",
        "stage-name-casing",
        "Stage names should be lowercase",
    ),
    rule(
        "FromAsCasing",
        "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    rule(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    ),
    rule(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    rule(
        "DuplicateStageName",
        "duplicate-stage-name",
        "Stage names should be unique",
    ),
    rule(
        "ReservedStageName",
        "reserved-stage-name",
        "Reserved words should not be used as stage names",
    ),
    rule(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    rule(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    rule(
        "UndefinedArgInFrom",
        "undefined-arg-in-from",
        "FROM command must use declared ARGs",
    ),
    rule(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    rule(
        "UndefinedVar",
        "undefined-var",
        "Variables should be defined before their use",
    ),
    rule(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    rule(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    rule(
        "InvalidBaseImagePlatform",
        "",
        "Base image platform does not match expected target platform",
    ),
    rule(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    experimental(rule(
        "CopyIgnoredFile",
        "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore",
    )),
    experimental(rule(
        "InvalidDefinitionDescription",
        "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    )),
    rule(
        "ExposeProtoCasing",
        "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    rule(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
];

/// The check of that name.
pub fn find(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// Some of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Names {
    #[default]
    None,
    All,
    These(Vec<String>),
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            list => Self::These(list.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(names) => names.iter().any(|one| one == name),
        }
    }
}

/// What `# check=skip=…;error=true;experimental=…` or the build argument
/// BUILDKIT_DOCKERFILE_CHECK wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    skip: Names,
    experimental: Names,
    /// A build fails for what is found.
    pub fails: bool,
}

impl Config {
    /// # Errors
    /// In BuildKit's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        for part in text.trim().split(';') {
            let failed = |why: String| format!("failed to parse check options: {why}");
            let Some((key, value)) = part.split_once('=') else {
                return Err(failed(format!("invalid check option {part:?}")));
            };
            match key.trim() {
                "skip" => config.skip = Names::parse(value),
                "experimental" => config.experimental = Names::parse(value),
                "error" => {
                    config.fails = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        other => {
                            return Err(failed(format!(
                                "failed to parse check option {part:?}: strconv.ParseBool: parsing {other:?}: invalid syntax"
                            )));
                        }
                    }
                }
                other => return Err(failed(format!("invalid check option {other:?}"))),
            }
        }
        Ok(config)
    }

    /// Whether what that check finds is told.
    pub fn wants(&self, name: &str) -> bool {
        match find(name) {
            Some(rule) if rule.is_experimental => self.experimental.has(name),
            _ => !self.skip.has(name),
        }
    }
}
