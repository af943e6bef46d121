//! Checks of instructions.

use super::same;

#[test]
fn json_arguments() {
    same(&[
        (
            "FROM scratch\nCMD mycommand\nENTRYPOINT mycommand\nHEALTHCHECK CMD x\nRUN echo\n",
            &[
                "JSONArgsRecommended 2-2: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
                "JSONArgsRecommended 3-3: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
            ],
        ),
        (
            "FROM scratch AS base\nSHELL [\"/usr/bin/customshell\"]\nCMD mycommand\n\nFROM base\nENTRYPOINT mycommand\n",
            &[],
        ),
    ]);
}

#[test]
fn workdirs() {
    same(&[
        (
            "FROM scratch\nWORKDIR app/\nWORKDIR b\n\nFROM scratch AS a\nWORKDIR /app\n\nFROM a AS b\nWORKDIR subdir/\nFROM base:1\nWORKDIR x\n",
            &[
                "WorkdirRelativePath 2-2: Relative workdir \"app/\" can have unexpected results if the base image changes",
                "WorkdirRelativePath 11-11: Relative workdir \"x\" can have unexpected results if the base image changes",
            ],
        ),
        (
            "FROM scratch\nARG d=app\nWORKDIR $d/x\n",
            &[
                "WorkdirRelativePath 3-3: Relative workdir \"app/x\" can have unexpected results if the base image changes",
            ],
        ),
    ]);
}

#[test]
fn undefined_variables() {
    same(&[
        ("FROM scratch\nARG foo\nCOPY file${foo} .\n", &[]),
        (
            "FROM scratch AS base\nARG foo=file\n\nFROM base\nCOPY $foo .\n",
            &[],
        ),
        (
            "FROM scratch\nCOPY $foo .\nARG foo=bar\n",
            &["UndefinedVar 2-2: Usage of undefined variable '$foo'"],
        ),
        (
            "FROM scratch\nARG DIR_BINARIES=binaries/\nARG DIR_ASSETS=assets/\nARG DIR_CONFIG=config/\nCOPY $DIR_ASSET .\n",
            &[
                "UndefinedVar 5-5: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)",
            ],
        ),
        (
            "FROM scratch\nENV PATH=$PAHT:/tmp/bin\nENV X=$PATH\n",
            &["UndefinedVar 2-2: Usage of undefined variable '$PAHT' (did you mean $PATH?)"],
        ),
        (
            "FROM scratch\nENV A=${B:-x} C=${D-y} E=${F:+z} G=${H}\nLABEL a=$I b=$I\nUSER $U\nEXPOSE $P\nVOLUME /$V\nSTOPSIGNAL ${S}\n",
            &[
                "UndefinedVar 2-2: Usage of undefined variable '$B'",
                "UndefinedVar 2-2: Usage of undefined variable '$D'",
                "UndefinedVar 2-2: Usage of undefined variable '$F'",
                "UndefinedVar 2-2: Usage of undefined variable '$H'",
                "UndefinedVar 3-3: Usage of undefined variable '$I' (did you mean $A?)",
                "UndefinedVar 3-3: Usage of undefined variable '$I' (did you mean $A?)",
                "UndefinedVar 4-4: Usage of undefined variable '$U' (did you mean $A?)",
                "UndefinedVar 6-6: Usage of undefined variable '$V' (did you mean $A?)",
                "UndefinedVar 7-7: Usage of undefined variable '$S' (did you mean $A?)",
            ],
        ),
        (
            "FROM scratch\nENV A=\\$B C='$D' E=\"$F\"\nWORKDIR /$W\nRUN echo $R\nCMD [\"$C2\"]\n",
            &[
                "UndefinedVar 2-2: Usage of undefined variable '$F'",
                "UndefinedVar 3-3: Usage of undefined variable '$W' (did you mean $A?)",
            ],
        ),
        (
            "FROM scratch\nENV A=$TARGETPLATFORM\nARG TARGETPLATFORM\nENV B=$TARGETPLATFORM C=$HTTP_PROXY D=$http_proxy\nENV E=$SOURCE_DATE_EPOCH F=$BUILDKIT_INLINE_CACHE\n",
            &[
                "UndefinedVar 2-2: Usage of undefined variable '$TARGETPLATFORM'",
                "UndefinedVar 4-4: Usage of undefined variable '$HTTP_PROXY'",
                "UndefinedVar 4-4: Usage of undefined variable '$http_proxy'",
                "UndefinedVar 5-5: Usage of undefined variable '$SOURCE_DATE_EPOCH'",
                "UndefinedVar 5-5: Usage of undefined variable '$BUILDKIT_INLINE_CACHE'",
            ],
        ),
        (
            "FROM scratch\nCOPY <<EOF /x\n$HEREVAR\nEOF\nCOPY --chown=$OWN --chmod=$MO file /\nADD --checksum=$CK http://x/y /\n",
            &[
                "UndefinedVar 2-4: Usage of undefined variable '$HEREVAR'",
                "UndefinedVar 5-5: Usage of undefined variable '$OWN'",
                "UndefinedVar 5-5: Usage of undefined variable '$MO'",
                "UndefinedVar 6-6: Usage of undefined variable '$CK'",
            ],
        ),
        (
            "FROM scratch\nARG A=$B\nARG C=$A\nARG D=${E}x F=${D}\n",
            &[
                "UndefinedVar 2-2: Usage of undefined variable '$B'",
                "UndefinedVar 4-4: Usage of undefined variable '$E' (did you mean $A?)",
            ],
        ),
        (
            "ARG G=1\nFROM scratch\nENV X=$G\nARG G\nENV Y=$G\n",
            &["UndefinedVar 3-3: Usage of undefined variable '$G'"],
        ),
        ("FROM scratch\nONBUILD ENV X=$Y\nHEALTHCHECK CMD $H\n", &[]),
        (
            "FROM scratch\nENV a=1\nENV b=$a c=$b\nENV d=$e e=1\n",
            &[
                "UndefinedVar 3-3: Usage of undefined variable '$b' (did you mean $a?)",
                "UndefinedVar 4-4: Usage of undefined variable '$e' (did you mean $a?)",
            ],
        ),
        (
            "FROM scratch\nCOPY $zz $aa /\nENV c=$b a=$d\n",
            &[
                "UndefinedVar 2-2: Usage of undefined variable '$zz'",
                "UndefinedVar 2-2: Usage of undefined variable '$aa'",
                "UndefinedVar 3-3: Usage of undefined variable '$b'",
                "UndefinedVar 3-3: Usage of undefined variable '$d'",
            ],
        ),
    ]);
}

#[test]
fn instructions_that_count_once() {
    same(&[
        (
            "FROM scratch\nENTRYPOINT [\"/a\"]\nENTRYPOINT [\"/b\"]\nCMD [\"/a\"]\nCMD [\"/b\"]\nCMD [\"/c\"]\nHEALTHCHECK CMD [\"/a\"]\nHEALTHCHECK NONE\n",
            &[
                "MultipleInstructionsDisallowed 2-2: Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used",
                "MultipleInstructionsDisallowed 4-4: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
                "MultipleInstructionsDisallowed 5-5: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
                "MultipleInstructionsDisallowed 7-7: Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used",
            ],
        ),
        (
            "FROM scratch AS a\nENTRYPOINT [\"/a\"]\nCMD [\"/a\"]\nFROM a AS b\nENTRYPOINT [\"/b\"]\nCMD [\"/b\"]\n",
            &[],
        ),
        (
            "FROM scratch\ncmd [\"a\"]\ncmd [\"b\"]\nUSER a\nUSER b\nWORKDIR /a\nWORKDIR /b\nSHELL [\"a\"]\nSHELL [\"b\"]\n",
            &[
                "ConsistentInstructionCasing 2-2: Command 'cmd' should match the case of the command majority (uppercase)",
                "ConsistentInstructionCasing 3-3: Command 'cmd' should match the case of the command majority (uppercase)",
                "MultipleInstructionsDisallowed 2-2: Multiple cmd instructions should not be used in the same stage because only the last one will be used",
            ],
        ),
    ]);
}

#[test]
fn legacy_pairs() {
    same(&[
        (
            "FROM scratch\nENV testkey value\nLABEL key value\nenv k2 v2 v3\nENV a=b\nENV a =b\n",
            &[
                "ConsistentInstructionCasing 4-4: Command 'env' should match the case of the command majority (uppercase)",
                "LegacyKeyValueFormat 2-2: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
                "LegacyKeyValueFormat 3-3: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
                "LegacyKeyValueFormat 4-4: \"env key=value\" should be used instead of legacy \"env key value\" format",
                "LegacyKeyValueFormat 6-6: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ],
        ),
        ("FROM scratch\nARG a b\nONBUILD ENV x y\n", &[]),
        (
            "FROM scratch AS a\nENV x y\nFROM scratch AS b\nENV z w\n",
            &[
                "LegacyKeyValueFormat 2-2: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
                "LegacyKeyValueFormat 4-4: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ],
        ),
    ]);
}

#[test]
fn secrets() {
    same(&[
        (
            "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\nENV password=bar secret=baz\nARG super_duper_secret_token=foo auth=bar\nENV apikey=bar sunflower=foo\nENV git_key=\nENV PUBLIC_KEY=\nARG public_token\nENV TOKEN_FILE=/x API_VERSION=1 KEY_VERSION=2\nENV GITHUB_CREDENTIALS=x monkey=1 PASSWD= pword_x=1 author=me\n",
            &[
                "SecretsUsedInArgOrEnv 2-2: Do not use ARG or ENV instructions for sensitive data (ARG \"SECRET_PASSPHRASE\")",
                "SecretsUsedInArgOrEnv 3-3: Do not use ARG or ENV instructions for sensitive data (ENV \"SUPER_Secret\")",
                "SecretsUsedInArgOrEnv 4-4: Do not use ARG or ENV instructions for sensitive data (ENV \"password\")",
                "SecretsUsedInArgOrEnv 4-4: Do not use ARG or ENV instructions for sensitive data (ENV \"secret\")",
                "SecretsUsedInArgOrEnv 5-5: Do not use ARG or ENV instructions for sensitive data (ARG \"super_duper_secret_token\")",
                "SecretsUsedInArgOrEnv 5-5: Do not use ARG or ENV instructions for sensitive data (ARG \"auth\")",
                "SecretsUsedInArgOrEnv 6-6: Do not use ARG or ENV instructions for sensitive data (ENV \"apikey\")",
                "SecretsUsedInArgOrEnv 7-7: Do not use ARG or ENV instructions for sensitive data (ENV \"git_key\")",
                "SecretsUsedInArgOrEnv 11-11: Do not use ARG or ENV instructions for sensitive data (ENV \"GITHUB_CREDENTIALS\")",
                "SecretsUsedInArgOrEnv 11-11: Do not use ARG or ENV instructions for sensitive data (ENV \"PASSWD\")",
                "SecretsUsedInArgOrEnv 11-11: Do not use ARG or ENV instructions for sensitive data (ENV \"pword_x\")",
            ],
        ),
        (
            "ARG TOKEN=x\nFROM scratch\nARG TOKEN\n",
            &[
                "SecretsUsedInArgOrEnv 3-3: Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\")",
            ],
        ),
        (
            "FROM scratch\nENV token=1 token=2\n",
            &[
                "SecretsUsedInArgOrEnv 2-2: Do not use ARG or ENV instructions for sensitive data (ENV \"token\")",
                "SecretsUsedInArgOrEnv 2-2: Do not use ARG or ENV instructions for sensitive data (ENV \"token\")",
            ],
        ),
    ]);
}

#[test]
fn ignored_files() {
    same(&[
        ("FROM scratch\nCOPY ignored .\nADD ignored /windy\n", &[]),
        (
            "# check=experimental=CopyIgnoredFile\nFROM scratch AS base\nCOPY ignored .\nADD ./ignored /windy\nCOPY file ign/sub /x/\nCOPY --from=x ignored /\nADD http://ignored/ignored /\nCOPY <<ignored /y\nignored\nCOPY * /\nFROM scratch AS x\n",
            &[
                "CopyIgnoredFile 3-3: Attempting to Copy file \"ignored\" that is excluded by .dockerignore",
                "CopyIgnoredFile 4-4: Attempting to Add file \"ignored\" that is excluded by .dockerignore",
                "CopyIgnoredFile 5-5: Attempting to Copy file \"ign/sub\" that is excluded by .dockerignore",
            ],
        ),
        (
            "# check=experimental=all\n# bad\nFROM scratch AS base\nCOPY ignored /\n",
            &[
                "InvalidDefinitionDescription 3-3: Comment for FROM should follow the format: `# base <description>`",
                "CopyIgnoredFile 4-4: Attempting to Copy file \"ignored\" that is excluded by .dockerignore",
            ],
        ),
        (
            "# check=skip=all;experimental=CopyIgnoredFile\nFROM scratch as base\nCOPY ignored /\n",
            &[
                "CopyIgnoredFile 3-3: Attempting to Copy file \"ignored\" that is excluded by .dockerignore",
            ],
        ),
    ]);
}

#[test]
fn ports() {
    same(&[
        (
            "FROM scratch\nEXPOSE 80/TCP 81/tcp 82/Udp 83\n",
            &[
                "ExposeProtoCasing 2-2: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
                "ExposeProtoCasing 2-2: Defined protocol '82/Udp' in EXPOSE instruction should be lowercase",
            ],
        ),
        (
            "FROM scratch\nEXPOSE 80:80 127.0.0.1:80:80 5000-5001:5000-5001 81/TCP\nEXPOSE [::1]:80:80\n",
            &[
                "ExposeInvalidFormat 2-2: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
                "ExposeInvalidFormat 2-2: EXPOSE instruction should not define an IP address or host-port mapping, found '5000-5001:5000-5001'",
                "ExposeInvalidFormat 2-2: EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
                "ExposeProtoCasing 2-2: Defined protocol '81/TCP' in EXPOSE instruction should be lowercase",
                "ExposeInvalidFormat 3-3: EXPOSE instruction should not define an IP address or host-port mapping, found '[::1]:80:80'",
            ],
        ),
        (
            "FROM scratch\nARG P=80/TCP\nEXPOSE $P 90:90/UDP\n",
            &[
                "ExposeProtoCasing 3-3: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
                "ExposeProtoCasing 3-3: Defined protocol '90:90/UDP' in EXPOSE instruction should be lowercase",
                "ExposeInvalidFormat 3-3: EXPOSE instruction should not define an IP address or host-port mapping, found '90:90/UDP'",
            ],
        ),
    ]);
}
