//! Checks of letters, comments, stages and the directive.

use super::same;

#[test]
fn stage_names() {
    same(&[
        (
            "FROM scratch AS BadName\n\nFROM scratch as base2\n\nFROM scratch AS base3\n",
            &[
                "StageNameCasing 1-1: Stage name 'BadName' should be lowercase",
                "FromAsCasing 3-3: 'as' and 'FROM' keywords' casing do not match",
            ],
        ),
        (
            "FROM scratch AS b\nFROM scratch AS b\nFROM scratch AS B\n",
            &[
                "StageNameCasing 3-3: Stage name 'B' should be lowercase",
                "DuplicateStageName 2-2: Duplicate stage name \"b\", stage names should be unique",
                "DuplicateStageName 3-3: Duplicate stage name \"b\", stage names should be unique",
            ],
        ),
        (
            "FROM scratch AS scratch\nFROM scratch AS context\n",
            &[
                "ReservedStageName 1-1: Stage name should not use the same name as reserved stage \"scratch\"",
                "ReservedStageName 2-2: Stage name should not use the same name as reserved stage \"context\"",
            ],
        ),
    ]);
}

#[test]
fn keyword_casing() {
    same(&[
        (
            "from scratch AS base\nfrom scratch as base2\n",
            &["FromAsCasing 1-1: 'AS' and 'from' keywords' casing do not match"],
        ),
        (
            "From scratch aS base\nFROM scratch As b\n",
            &[
                "FromAsCasing 2-2: 'As' and 'FROM' keywords' casing do not match",
                "ConsistentInstructionCasing 1-1: Command 'From' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "From scratch AS base\nFROM scratch AS base2\n",
            &[
                "ConsistentInstructionCasing 1-1: Command 'From' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "FROM scratch\ncopy file /foo\nCOPY file /bar\n",
            &[
                "ConsistentInstructionCasing 2-2: Command 'copy' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "frOM scratch as base\nfrom scratch as base2\n",
            &[
                "ConsistentInstructionCasing 1-1: Command 'frOM' should match the case of the command majority (lowercase)",
            ],
        ),
        ("from scratch\ncopy file /a\ncopy file /b\n", &[]),
        (
            "FROM scratch\ncopy file /a\ncopy file /b\n",
            &[
                "ConsistentInstructionCasing 1-1: Command 'FROM' should match the case of the command majority (lowercase)",
            ],
        ),
        ("arg X=1\narg Y=1\narg Z=1\nFROM scratch\n", &[]),
        (
            "from scratch\nCOPY file /\n",
            &[
                "ConsistentInstructionCasing 1-1: Command 'from' should match the case of the command majority (uppercase)",
            ],
        ),
        ("FROM scratch\nONBUILD run x\n", &[]),
    ]);
}

#[test]
fn continued_lines() {
    same(&[
        (
            "FROM scratch\nCOPY file \\\n\n.\nCOPY file \\\n/b\nCOPY <<EOF /a \\\n\n/c\nx\nEOF\n",
            &[
                "NoEmptyContinuation 4-4: Empty continuation line",
                "NoEmptyContinuation 9-9: Empty continuation line",
            ],
        ),
        (
            "FROM scratch\nENV a b \\\n  c \\\n  d\nRUN <<EOF\necho $X\nEOF\nCMD a \\\n b\n",
            &[
                "LegacyKeyValueFormat 2-4: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
                "JSONArgsRecommended 8-9: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            ],
        ),
        (
            "# escape=`\nFROM scratch\nENV a=$X`\n  b=1\n",
            &["UndefinedVar 3-4: Usage of undefined variable '$X'"],
        ),
    ]);
}

#[test]
fn maintainer() {
    same(&[(
        "FROM scratch\nMAINTAINER me@example.org\nLABEL a=b\n",
        &["MaintainerDeprecated 2-2: Maintainer instruction is deprecated in favor of using label"],
    )]);
}

#[test]
fn arguments_of_from() {
    same(&[
        (
            "ARG base=scratch\nFROM $base\nFROM --platform=$BUILDPLATFORM scratch\n",
            &[],
        ),
        (
            "FROM --platform=$BULIDPLATFORM scratch\nCOPY file .\n",
            &[
                "UndefinedArgInFrom 1-1: FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?)",
            ],
        ),
        (
            "ARG MY_OS=linux\nARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} scratch\n",
            &[
                "UndefinedArgInFrom 3-3: FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)",
            ],
        ),
        (
            "ARG DEBUG\nFROM scratch${DEBUG} AS a\nFROM scra${DEBUG:-tch} as b\nFROM scratch${OTHER-} as c\n",
            &[
                "FromAsCasing 3-3: 'as' and 'FROM' keywords' casing do not match",
                "FromAsCasing 4-4: 'as' and 'FROM' keywords' casing do not match",
                "UndefinedArgInFrom 4-4: FROM argument 'OTHER' is not declared",
            ],
        ),
        (
            "ARG IMAGE\nFROM $IMAGE\n",
            &[
                "InvalidDefaultArgInFrom 2-2: Default value for ARG $IMAGE results in empty or invalid base image name",
            ],
        ),
        (
            "ARG V\nFROM base:$V\n",
            &[
                "InvalidDefaultArgInFrom 2-2: Default value for ARG base:$V results in empty or invalid base image name",
            ],
        ),
        ("ARG V=\"\"\nFROM base:1${V}\n", &[]),
        (
            "ARG SFX=\"box:\"\nFROM busy${SFX}\n",
            &[
                "InvalidDefaultArgInFrom 2-2: Default value for ARG busy${SFX} results in empty or invalid base image name",
            ],
        ),
    ]);
}

#[test]
fn platforms() {
    same(&[
        (
            "FROM --platform=$TARGETPLATFORM scratch\nFROM --platform=${TARGETPLATFORM} scratch AS b\nFROM --platform=\"$TARGETPLATFORM\" scratch AS c\nFROM --platform=$BUILDPLATFORM scratch AS d\nFROM --platform=$TARGETOS/$TARGETARCH scratch AS e\n",
            &[
                "RedundantTargetPlatform 1-1: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
                "RedundantTargetPlatform 2-2: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior",
                "RedundantTargetPlatform 3-3: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ],
        ),
        (
            "FROM --platform=linux/amd64 scratch\n",
            &[
                "FromPlatformFlagConstDisallowed 1-1: FROM --platform flag should not use constant value \"linux/amd64\"",
            ],
        ),
        (
            "FROM --platform=linux/amd64 scratch AS my_amd64_stage\nFROM --platform=linux/amd64 scratch AS linux\nFROM --platform=linux scratch AS x\nFROM --platform=linux/arm64/v8 scratch AS y\nFROM --platform=x86_64 scratch AS z\n",
            &[
                "FromPlatformFlagConstDisallowed 3-3: FROM --platform flag should not use constant value \"linux\"",
                "FromPlatformFlagConstDisallowed 4-4: FROM --platform flag should not use constant value \"linux/arm64/v8\"",
                "FromPlatformFlagConstDisallowed 5-5: FROM --platform flag should not use constant value \"x86_64\"",
            ],
        ),
    ]);
}

#[test]
fn descriptions() {
    same(&[
        (
            "# check=experimental=InvalidDefinitionDescription\n# foo this is the foo\nARG foo=bar\n\n# base this is the base image\nFROM scratch AS base\n\n# version this is the version number\nARG version=latest\n\n# baz this is the baz\nARG foo=baz bar=qux baz=quux\n#\nARG bit=bat\n\n# comment for something other than ARG or FROM\nCOPY Dockerfile .\n",
            &[],
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\n# bar this is the bar\nARG foo=bar\n# BasE this is the BasE image\nFROM scratch AS base\n# definitely a bad comment\nARG version=latest\n# definitely a bad comment\nARG foo=baz bar=qux baz=quux\n# one\n# two x\nFROM scratch\n# foo ok\n# bad last\nARG foo\n# bad first\n# foo ok\nARG foo\n# blank after\n\nARG foo\n",
            &[
                "InvalidDefinitionDescription 3-3: Comment for ARG should follow the format: `# foo <description>`",
                "InvalidDefinitionDescription 5-5: Comment for FROM should follow the format: `# base <description>`",
                "InvalidDefinitionDescription 7-7: Comment for ARG should follow the format: `# version <description>`",
                "InvalidDefinitionDescription 9-9: Comment for ARG should follow the format: `# <arg_key> <description>`",
                "InvalidDefinitionDescription 15-15: Comment for ARG should follow the format: `# foo <description>`",
                "InvalidDefinitionDescription 21-21: Comment for ARG should follow the format: `# foo <description>`",
            ],
        ),
        ("# bad\nARG foo=bar\nFROM scratch\n", &[]),
    ]);
}

#[test]
fn the_directive() {
    same(&[
        ("# check=skip=all\nFROM scratch as base\ncopy file .\n", &[]),
        (
            "# check=skip=ConsistentInstructionCasing\nFROM scratch as base\ncopy file .\n",
            &["FromAsCasing 2-2: 'as' and 'FROM' keywords' casing do not match"],
        ),
        (
            "# check=skip=NoSuchRule\nFROM scratch as base\n",
            &["FromAsCasing 2-2: 'as' and 'FROM' keywords' casing do not match"],
        ),
        (
            "# check=skip=ConsistentInstructionCasing;error=true\nFROM scratch as base\ncopy file .\n",
            &["FromAsCasing 2-2: 'as' and 'FROM' keywords' casing do not match"],
        ),
        (
            "# check=error=true\nFROM scratch as Base\ncopy file .\n",
            &[
                "StageNameCasing 2-2: Stage name 'Base' should be lowercase",
                "FromAsCasing 2-2: 'as' and 'FROM' keywords' casing do not match",
                "ConsistentInstructionCasing 3-3: Command 'copy' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "# check=skip=FromAsCasing;error=true;experimental=all\n# bad\nFROM scratch as base\n",
            &[
                "InvalidDefinitionDescription 3-3: Comment for FROM should follow the format: `# base <description>`",
            ],
        ),
    ]);
}

#[test]
fn before_an_error() {
    same(&[
        (
            "FROM scratch AS BadStageName\nMAINTAINER me@example.org\nBADCMD\n",
            &[
                "StageNameCasing 1-1: Stage name 'BadStageName' should be lowercase",
                "MaintainerDeprecated 2-2: Maintainer instruction is deprecated in favor of using label",
            ],
        ),
        (
            "FROM scratch as b\nCOPY x\n",
            &["FromAsCasing 1-1: 'as' and 'FROM' keywords' casing do not match"],
        ),
    ]);
}
