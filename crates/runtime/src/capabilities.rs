//! The five capability sets of a process (capabilities(7)).

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use crate::error::{Context as _, Result};

/// The sets as the kernel takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Sets {
    /// No section means no capability at all, as in runc. Inheritable is empty
    /// unless the configuration says otherwise (CVE-2022-29162), and what is
    /// ambient must be inheritable and permitted or it is dropped.
    pub(crate) fn new(section: Option<&LinuxCapabilities>) -> Self {
        let set =
            |pick: fn(&LinuxCapabilities) -> &Option<std::collections::HashSet<Capability>>| {
                section
                    .and_then(|section| pick(section).as_ref())
                    .into_iter()
                    .flatten()
                    .fold(CapabilitySet::empty(), |all, capability| {
                        all | bit(*capability)
                    })
            };
        let inheritable = set(LinuxCapabilities::inheritable);
        let permitted = set(LinuxCapabilities::permitted);
        Self {
            bounding: set(LinuxCapabilities::bounding),
            effective: set(LinuxCapabilities::effective) & permitted,
            permitted,
            inheritable,
            ambient: set(LinuxCapabilities::ambient) & inheritable & permitted,
        }
    }

    /// Narrows the bounding set. Needs CAP_SETPCAP, so comes before the rest.
    pub(crate) fn drop_bounding(&self) -> Result<()> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Beyond the last one this kernel knows.
                Err(Errno::INVAL) => break,
                // Without CAP_SETPCAP only what is already gone may be missing.
                Err(Errno::PERM)
                    if !thread::capability_is_in_bounding_set(capability).unwrap_or(true) => {}
                Err(errno) => return Err(errno).step(|| format!("drop capability {number}")),
            }
        }
        Ok(())
    }

    /// Sets the four others; after the change of user. What this process itself
    /// does not have cannot be given and is left out, as in runc.
    pub(crate) fn apply(&self) -> Result<()> {
        let own = thread::capabilities(None).step(|| "read capabilities")?;
        let permitted = self.permitted & own.permitted;
        let sets = CapabilitySets {
            effective: self.effective & permitted,
            permitted,
            inheritable: self.inheritable & self.bounding & own.permitted,
        };
        thread::set_capabilities(None, sets).step(|| "set capabilities")?;
        // KEEPCAPS and a user namespace can leave some raised.
        thread::clear_ambient_capability_set().step(|| "clear ambient capabilities")?;
        for capability in (self.ambient & sets.permitted & sets.inheritable).iter() {
            thread::configure_capability_in_ambient_set(capability, true)
                .step(|| format!("raise ambient capability {capability:?}"))?;
        }
        Ok(())
    }
}

/// The kernel's bit of a capability of the configuration.
fn bit(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::AuditControl => CapabilitySet::AUDIT_CONTROL,
        Capability::AuditRead => CapabilitySet::AUDIT_READ,
        Capability::AuditWrite => CapabilitySet::AUDIT_WRITE,
        Capability::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::IpcLock => CapabilitySet::IPC_LOCK,
        Capability::IpcOwner => CapabilitySet::IPC_OWNER,
        Capability::Kill => CapabilitySet::KILL,
        Capability::Lease => CapabilitySet::LEASE,
        Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        Capability::MacAdmin => CapabilitySet::MAC_ADMIN,
        Capability::MacOverride => CapabilitySet::MAC_OVERRIDE,
        Capability::Mknod => CapabilitySet::MKNOD,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetBroadcast => CapabilitySet::NET_BROADCAST,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::Perfmon => CapabilitySet::PERFMON,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::SysBoot => CapabilitySet::SYS_BOOT,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
        Capability::SysModule => CapabilitySet::SYS_MODULE,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::SysPacct => CapabilitySet::SYS_PACCT,
        Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
        Capability::SysRawio => CapabilitySet::SYS_RAWIO,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
        Capability::SysTime => CapabilitySet::SYS_TIME,
        Capability::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        Capability::Syslog => CapabilitySet::SYSLOG,
        Capability::WakeAlarm => CapabilitySet::WAKE_ALARM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(json: &str) -> Sets {
        Sets::new(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn nothing_said_is_nothing_given() {
        assert_eq!(Sets::new(None).permitted, CapabilitySet::empty());
    }

    /// CVE-2022-29162.
    #[test]
    fn inheritable_is_empty_unless_asked_for() {
        let sets =
            sets(r#"{"bounding":["CAP_KILL"],"permitted":["CAP_KILL"],"effective":["CAP_KILL"]}"#);
        assert_eq!(sets.inheritable, CapabilitySet::empty());
        assert_eq!(sets.effective, CapabilitySet::KILL);
    }

    #[test]
    fn ambient_needs_inheritable_and_permitted() {
        let sets = sets(
            r#"{"permitted":["CAP_KILL","CAP_CHOWN"],"inheritable":["CAP_KILL"],
                "ambient":["CAP_KILL","CAP_CHOWN","CAP_BPF"]}"#,
        );
        assert_eq!(sets.ambient, CapabilitySet::KILL);
    }
}
