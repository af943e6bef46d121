//! Docker's profile format: an OCI section whose entries may depend on
//! capabilities, architecture and kernel version.

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::{Error, docker};

/// A profile in Docker's format (with `archMap`, `includes`, `excludes`).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    arch_map: Vec<Architectures>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    syscalls: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architectures {
    architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    sub_architectures: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// Of old profiles: one name.
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) names: Vec<String>,
    pub(crate) action: String,
    pub(crate) errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) args: Vec<Argument>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) includes: Condition,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) excludes: Condition,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Argument {
    pub(crate) index: u32,
    pub(crate) value: u64,
    #[serde(default)]
    pub(crate) value_two: u64,
    pub(crate) op: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) caps: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) arches: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) min_kernel: String,
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's names of this machine, which conditions use, and seccomp's.
fn native() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
        "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
        other => (other, "SCMP_ARCH_NATIVE"),
    }
}

impl Profile {
    /// Docker's default profile (Engine 29.7: moby/profiles 0.2.3).
    pub fn docker_default() -> Self {
        Self {
            default_action: "SCMP_ACT_ERRNO".into(),
            default_errno_ret: Some(1),
            architectures: Vec::new(),
            arch_map: docker::ARCHITECTURES
                .iter()
                .map(|(architecture, subs)| Architectures {
                    architecture: (*architecture).into(),
                    sub_architectures: subs.iter().map(|&sub| sub.into()).collect(),
                })
                .collect(),
            flags: None,
            listener_path: None,
            listener_metadata: None,
            syscalls: docker::entries(),
        }
    }

    /// Parses a profile file; also takes a plain OCI section.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let profile: Self = serde_json::from_slice(json)
            .map_err(|error| Error::Invalid(format!("decoding seccomp profile failed: {error}")))?;
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return Err(Error::Invalid(
                "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'".into(),
            ));
        }
        for entry in &profile.syscalls {
            if !entry.name.is_empty() && !entry.names.is_empty() {
                return Err(Error::Invalid(
                    "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'".into(),
                ));
            }
        }
        Ok(profile)
    }

    /// Applies the conditions: capabilities ("CAP_SYS_ADMIN") that the
    /// container has, the running kernel's version, the architecture.
    pub fn resolve(
        &self,
        capabilities: &[&str],
        kernel: (u32, u32),
    ) -> Result<LinuxSeccomp, Error> {
        let (go_name, seccomp_name) = native();
        let mut architectures = self.architectures.clone();
        if let Some(entry) = self
            .arch_map
            .iter()
            .find(|entry| entry.architecture == seccomp_name)
        {
            architectures.push(entry.architecture.clone());
            architectures.extend(entry.sub_architectures.iter().cloned());
        }
        let mut syscalls = Vec::new();
        for entry in &self.syscalls {
            if entry.applies(capabilities, kernel, go_name)? {
                syscalls.push(entry.section());
            }
        }
        let mut section = Map::new();
        section.insert("defaultAction".into(), json!(self.default_action));
        let mut optional = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                section.insert(key.into(), value);
            }
        };
        optional(
            "defaultErrnoRet",
            self.default_errno_ret.map(|errno| json!(errno)),
        );
        optional(
            "architectures",
            (!architectures.is_empty()).then(|| json!(architectures)),
        );
        optional("flags", self.flags.as_ref().map(|flags| json!(flags)));
        optional(
            "listenerPath",
            self.listener_path.as_ref().map(|path| json!(path)),
        );
        optional(
            "listenerMetadata",
            self.listener_metadata.as_ref().map(|data| json!(data)),
        );
        optional("syscalls", Some(Value::Array(syscalls)));
        serde_json::from_value(Value::Object(section))
            .map_err(|error| Error::Invalid(format!("invalid seccomp profile: {error}")))
    }
}

impl Entry {
    fn applies(
        &self,
        capabilities: &[&str],
        kernel: (u32, u32),
        architecture: &str,
    ) -> Result<bool, Error> {
        let has = |name: &String| capabilities.contains(&name.as_str());
        let here = |name: &String| name == architecture;
        let reached = |version: &str| {
            if version.is_empty() {
                Ok(None)
            } else {
                Ok(Some(kernel >= parse_kernel(version)?))
            }
        };
        let (include, exclude) = (&self.includes, &self.excludes);
        // Inclusion needs all of its capabilities; one of the excluded is enough.
        Ok(
            (include.arches.is_empty() || include.arches.iter().any(here))
                && include.caps.iter().all(has)
                && reached(&include.min_kernel)? != Some(false)
                && !exclude.arches.iter().any(here)
                && !exclude.caps.iter().any(has)
                && reached(&exclude.min_kernel)? != Some(true),
        )
    }

    fn section(&self) -> Value {
        let names = if self.name.is_empty() {
            self.names.clone()
        } else {
            vec![self.name.clone()]
        };
        let mut entry = json!({ "names": names, "action": self.action });
        if let Some(errno) = self.errno_ret {
            entry["errnoRet"] = json!(errno);
        }
        if !self.args.is_empty() {
            entry["args"] = json!(self.args);
        }
        entry
    }
}

/// "4.8"
fn parse_kernel(version: &str) -> Result<(u32, u32), Error> {
    version
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| Error::Invalid(format!("invalid kernel version {version:?} in the seccomp profile: <kernel>.<major> is wanted")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Call, run};
    use crate::compile;

    const DOCKER: &[&str] = &[
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    /// Result and number of instructions.
    fn decide(capabilities: &[&str], name: &str, arguments: [u64; 6]) -> (u32, usize) {
        let program = compile(
            &Profile::docker_default()
                .resolve(capabilities, (6, 1))
                .unwrap(),
        )
        .unwrap();
        let (names, architecture) = if cfg!(target_arch = "x86_64") {
            (crate::numbers::X86_64, 0xc000_003e)
        } else {
            (crate::numbers::AARCH64, 0xc000_00b7)
        };
        let number = names[names.binary_search_by_key(&name, |(name, _)| name).unwrap()].1;
        run(
            &program.filter,
            &Call {
                number,
                architecture,
                arguments,
            },
        )
        .unwrap()
    }

    #[test]
    fn default_profile_decides_as_dockers() {
        let of = |name: &str, first: u64| decide(DOCKER, name, [first, 0, 0, 0, 0, 0]).0;
        for name in [
            "read",
            "write",
            "openat",
            "execve",
            "futex",
            "chroot",
            "ptrace",
            "mknodat",
            "statx",
            "cachestat",
        ] {
            assert_eq!(of(name, 0), ALLOW, "{name}");
        }
        for name in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "reboot",
            "io_uring_setup",
            "kexec_load",
            "userfaultfd",
            "open_by_handle_at",
            "swapon",
        ] {
            assert_eq!(of(name, 0), EPERM, "{name}");
        }
        // CVE-2022-0185 and its kind: no new user namespaces; AF_ALG (38,
        // CVE-2026-31431) and AF_VSOCK (40) stay shut.
        assert_eq!(of("clone", 0x1000_0000), EPERM);
        assert_eq!(of("clone", 0x11), ALLOW);
        assert_eq!(of("clone3", 0), ENOSYS);
        assert_eq!((of("socket", 38), of("socket", 40)), (EPERM, EPERM));
        assert_eq!(
            (
                of("socket", 1),
                of("socket", 2),
                of("socket", 10),
                of("socket", 16),
                of("socket", 17)
            ),
            (ALLOW, ALLOW, ALLOW, ALLOW, ALLOW)
        );
        assert_eq!(
            (of("personality", 8), of("personality", 0x40000)),
            (ALLOW, EPERM)
        );
        let admin: Vec<_> = DOCKER.iter().copied().chain(["CAP_SYS_ADMIN"]).collect();
        assert_eq!(decide(&admin, "mount", [0; 6]).0, ALLOW);
        assert_eq!(decide(&admin, "clone3", [0; 6]).0, ALLOW);
        assert_eq!(decide(&admin, "reboot", [0; 6]).0, EPERM);
    }

    #[test]
    fn allowed_calls_are_cheap_and_the_program_small() {
        for name in ["read", "epoll_wait", "openat2", "getpid", "futex"] {
            assert!(
                decide(DOCKER, name, [0; 6]).1 <= 14,
                "{name}: {}",
                decide(DOCKER, name, [0; 6]).1
            );
        }
        let program = compile(&Profile::docker_default().resolve(DOCKER, (6, 1)).unwrap()).unwrap();
        assert!(
            program.filter.len() / 8 < 800,
            "{} instructions",
            program.filter.len() / 8
        );
        assert_eq!(
            crate::Program::from_bytes(&program.to_bytes()).unwrap(),
            program
        );
        assert!(crate::Program::from_bytes(&[1, 2, 3]).is_err());
    }

    #[test]
    fn files_with_conditions_and_without() {
        let profile = Profile::parse(
            br#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":null,"syscalls":[
                {"name":"mkdir","action":"SCMP_ACT_ERRNO","errnoRet":13,"args":null},
                {"names":["mount"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}},
                {"names":["umount2"],"action":"SCMP_ACT_ERRNO","includes":{"minKernel":"5.0","arches":["amd64","arm64"]}}]}"#,
        )
        .unwrap();
        let count = |caps: &[&str], kernel| {
            profile
                .resolve(caps, kernel)
                .unwrap()
                .syscalls()
                .as_ref()
                .unwrap()
                .len()
        };
        assert_eq!(count(&[], (6, 1)), 3);
        assert_eq!(count(&["CAP_SYS_ADMIN"], (6, 1)), 2);
        assert_eq!(count(&[], (4, 19)), 2);
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        for (bad, words) in [
            ("{", "decoding seccomp profile failed"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "archMap",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ERRNO"}]}"#,
                "use either 'name' or 'names'",
            ),
        ] {
            assert!(
                Profile::parse(bad.as_bytes())
                    .unwrap_err()
                    .to_string()
                    .contains(words),
                "{bad}"
            );
        }
        let unknown = Profile::parse(br#"{"defaultAction":"SCMP_ACT_NONSENSE"}"#).unwrap();
        assert!(
            unknown
                .resolve(&[], (6, 1))
                .unwrap_err()
                .to_string()
                .contains("SCMP_ACT_NONSENSE")
        );
    }
}
