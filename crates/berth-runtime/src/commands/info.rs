//! `spec` and `features`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::OCI_VERSION;
use crate::args::{Args, Opt, Order, no_more};
use crate::error::{Context, Error, Result};
use crate::print;

/// What `spec` writes: a shell in a container with Docker's default isolation.
const EXAMPLE: &str = include_str!("example.json");

pub(crate) const SPEC: &[Opt] = &[Opt::value("bundle").short('b'), Opt::flag("rootless")];

/// Words of `mounts[].options` that mean something for every filesystem.
const MOUNT_OPTIONS: &str = "\
async atime bind defaults dev diratime dirsync exec idmap lazytime loud mand noatime \
nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid \
nosymfollow private ratime rbind rdev rdiratime relatime rexec ridmap rnoatime \
rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro \
rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable \
rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable";

const CAPABILITIES: &str = "\
CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL \
CAP_SETGID CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE \
CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER \
CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT \
CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME \
CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP \
CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND \
CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE";

const SECCOMP_ACTIONS: &str = "\
SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD \
SCMP_ACT_LOG SCMP_ACT_NOTIFY SCMP_ACT_TRACE SCMP_ACT_TRAP";

/// For each native architecture those that its kernel also runs.
const SECCOMP_ARCHS: &str = "\
SCMP_ARCH_AARCH64 SCMP_ARCH_ARM SCMP_ARCH_X32 SCMP_ARCH_X86 SCMP_ARCH_X86_64";

const SECCOMP_FLAGS: &str = "\
SECCOMP_FILTER_FLAG_TSYNC SECCOMP_FILTER_FLAG_SPEC_ALLOW SECCOMP_FILTER_FLAG_LOG \
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";

pub(crate) fn spec(mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(&mut arguments, SPEC, Order::Anywhere)?;
    no_more(&arguments)?;
    let path = Path::new(args.value("bundle").unwrap_or_default()).join("config.json");
    if path.exists() {
        return Err(Error::new("File config.json exists. Remove it first"));
    }
    let text = if args.has("rootless") {
        rootless()?
    } else {
        EXAMPLE.to_owned()
    };
    File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .context(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// The example for a user who may do nothing outside a user namespace: no limits, the
/// host's network and therefore its /sys, one user and one group.
fn rootless() -> Result<String> {
    let tried = || "change the example".to_owned();
    let mut config: Value = serde_json::from_str(EXAMPLE).context(tried)?;
    let linux = &mut config["linux"];
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    linux["uidMappings"] = map(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = map(rustix::process::getegid().as_raw());
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        } else if let Some(options) = mount["options"].as_array_mut() {
            // The group of terminals has no number in the namespace.
            options.retain(|option| !option.as_str().is_some_and(|o| o.starts_with("gid=")));
        }
    }
    Ok(format!("{config:#}"))
}

/// The OCI runtime features document (features.md of the specification).
pub(crate) fn features(mut arguments: Vec<OsString>) -> Result<u8> {
    Args::parse(&mut arguments, &[], Order::Anywhere)?;
    no_more(&arguments)?;
    let words = |text: &str| Value::from(text.split_whitespace().collect::<Vec<_>>());
    let value = json!({
        "mountOptions": words(MOUNT_OPTIONS),
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": words(CAPABILITIES),
            "cgroup": {
                "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true
            },
            "seccomp": {
                "enabled": true,
                "actions": words(SECCOMP_ACTIONS),
                "operators": words(
                    "SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_LE SCMP_CMP_LT \
                     SCMP_CMP_MASKED_EQ SCMP_CMP_NE"
                ),
                "archs": words(SECCOMP_ARCHS),
                "knownFlags": words(SECCOMP_FLAGS),
                "supportedFlags": words(SECCOMP_FLAGS),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "netDevices": { "enabled": true },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": [],
    });
    print(&format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn example_is_a_valid_configuration() {
        let spec: oci_spec::runtime::Spec = serde_json::from_str(super::EXAMPLE).unwrap();
        assert!(spec.linux().is_some());
        let rootless: oci_spec::runtime::Spec =
            serde_json::from_str(&super::rootless().unwrap()).unwrap();
        let linux = rootless.linux().as_ref().unwrap();
        assert!(linux.uid_mappings().is_some() && linux.resources().is_none());
    }

    /// What is said to be supported is what the types take.
    #[test]
    fn names_are_known() {
        use oci_spec::runtime as oci;
        fn known<T: serde::de::DeserializeOwned>(words: &str) {
            for word in words.split_whitespace() {
                serde_json::from_value::<T>(word.into()).unwrap();
            }
        }
        known::<oci::Capability>(super::CAPABILITIES);
        known::<oci::LinuxSeccompAction>(super::SECCOMP_ACTIONS);
        known::<oci::Arch>(super::SECCOMP_ARCHS);
        known::<oci::LinuxSeccompFilterFlag>(super::SECCOMP_FLAGS);
    }
}
