//! The control group of a new container: by whom it is made, where it is, and
//! when a container goes without.

use berth_cgroup::systemd::{self, Anchor, Scope, Unit};
use berth_cgroup::{Cgroup, Host, Layout};
use oci_spec::runtime::{LinuxResources, Spec};

use crate::error::{Context, Error, Result};
use crate::rootless;

/// `--rootless` and `--systemd-cgroup`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// See what a user without privileges may do.
    rootless: bool,
    systemd: bool,
}

/// What is known of a group before it is made, to be remembered.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) path: String,
    scope: Option<Scope>,
}

/// A group that was made. The anchor has to be released when the container's first
/// process is in it.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) group: Option<Cgroup>,
    pub(crate) anchor: Option<Anchor>,
}

impl Groups {
    pub(crate) fn parse(rootless: Option<&str>, systemd: bool) -> Result<Self> {
        let rootless = match rootless {
            None | Some("auto") => {
                !rustix::process::geteuid().is_root()
                    || (rootless::is_in_user_namespace()
                        && (!systemd || rootless::is_users_systemd()))
            }
            Some("true") => true,
            Some("false") => false,
            Some(text) => {
                return Err(Error::new(format!(
                    "invalid value for rootless: {text:?} is not true, false or auto"
                )));
            }
        };
        Ok(Self { rootless, systemd })
    }

    /// Makes nothing yet.
    pub(crate) fn plan(self, host: &Host, spec: &Spec, id: &str) -> Result<Planned> {
        let tried = || "unable to apply cgroup configuration".to_owned();
        if !self.systemd {
            return Ok(Planned {
                path: self.path(host, spec, id),
                scope: None,
            });
        }
        if !systemd::is_running() {
            return Err(Error::new(
                "systemd cgroup flag passed, but systemd support for managing cgroups is not \
                 available",
            ));
        }
        if self.rootless && host.layout() != Layout::V2 {
            return Err(Error::new(
                "cannot use rootless systemd cgroups manager on cgroup v1",
            ));
        }
        let scope = Scope::parse(spec, id, self.rootless).context(tried)?;
        Ok(Planned {
            path: scope.path().context(tried)?,
            scope: Some(scope),
        })
    }

    /// `linux.cgroupsPath` below the root of each hierarchy; by default the
    /// container's identifier. A user without privileges may change little there, so
    /// what is not absolute is beside the user's own group, as runc has it.
    fn path(self, host: &Host, spec: &Spec, id: &str) -> String {
        let path = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().as_ref());
        let path = path.map(|path| path.to_string_lossy()).unwrap_or_default();
        let base = if self.rootless && host.layout() == Layout::V2 && !path.starts_with('/') {
            beside_own()
        } else {
            String::new()
        };
        match path.trim_matches('/') {
            "" => format!("{base}/{id}"),
            path => format!("{base}/{path}"),
        }
    }

    /// Makes the group with its limits. `None` when this user may make none and
    /// nobody asked for one.
    pub(crate) fn make(
        self,
        host: &Host,
        planned: &Planned,
        spec: &Spec,
        resources: &LinuxResources,
    ) -> Result<Made> {
        let mut resources = resources.clone();
        let devices = resources.devices().clone();
        if self.rootless {
            resources.set_devices(None);
        }
        let path = &planned.path;
        let made = match &planned.scope {
            Some(scope) => {
                let (group, anchor) = Cgroup::create_scope(host, scope, path, &resources)
                    .context(|| "unable to apply cgroup configuration".to_owned())?;
                Made {
                    group: Some(group),
                    anchor: Some(anchor),
                }
            }
            None => match Cgroup::create(host, path, Some(&resources)) {
                Ok(group) => Made {
                    group: Some(group),
                    anchor: None,
                },
                Err(error) if self.rootless && error.is_denied() => {
                    if asks(spec) {
                        return Err(error).context(|| {
                            "rootless needs no limits + no cgrouppath when no permission is \
                             granted for cgroups"
                                .to_owned()
                        });
                    }
                    Made::default()
                }
                Err(error) => {
                    return Err(error).context(|| format!("create control group {path}"));
                }
            },
        };
        if self.rootless
            && let Some(group) = &made.group
        {
            // Only root may say which devices a group may open; a user has no others
            // than those at hand anyway.
            let mut rules = LinuxResources::default();
            rules.set_devices(devices);
            match group.apply_devices(&rules) {
                // Nor can a kernel without BPF for control groups.
                Err(error) if !error.is_denied() && !error.is_unsupported() => {
                    drop(made.anchor);
                    let _ = group.remove();
                    return Err(error).context(|| format!("restrict the devices of {path}"));
                }
                _ => {}
            }
        }
        Ok(made)
    }
}

impl Planned {
    pub(crate) fn unit(&self) -> Option<Unit> {
        self.scope.as_ref().map(|scope| scope.unit.clone())
    }
}

/// Whether somebody wants a certain group or a limit.
fn asks(spec: &Spec) -> bool {
    spec.linux().as_ref().is_some_and(|linux| {
        let mut limits = linux.resources().clone().unwrap_or_default();
        limits.set_devices(None);
        linux.cgroups_path().is_some() || limits != LinuxResources::default()
    })
}

/// The group around the one this process is in: it has none of our processes, so
/// that controllers can be enabled in it.
fn beside_own() -> String {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let parent = own.and_then(|own| own.rsplit_once('/')).map(|(dir, _)| dir);
    parent.unwrap_or_default().to_owned()
}

/// To whom the group is handed over: on version 2, when the container may write to
/// its control groups, the host's number of the user that its program runs as
/// (docs/CGROUP_DELEGATION.md of systemd).
pub(crate) fn owner(spec: &Spec) -> Option<u32> {
    use oci_spec::runtime::LinuxNamespaceType;
    let linux = spec.linux().as_ref()?;
    let own_namespace = linux.namespaces().iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Cgroup
            && (namespace.path().as_ref()).is_none_or(|path| path.as_os_str().is_empty())
    });
    let writable = spec.mounts().iter().flatten().any(|mount| {
        let cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
        let options = mount.options().iter().flatten();
        // As for mount(8), the last one counts.
        let last = options
            .rev()
            .find(|option| *option == "ro" || *option == "rw");
        cgroup
            && mount.destination().as_path() == std::path::Path::new("/sys/fs/cgroup")
            && last.is_none_or(|option| option == "rw")
    });
    if !own_namespace || !writable {
        return None;
    }
    let user = spec.process().as_ref()?.user().uid();
    let mut namespaces = linux.namespaces().iter().flatten();
    if !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return (user != 0).then_some(user);
    }
    let maps = linux.uid_mappings().iter().flatten();
    maps.filter_map(|map| {
        let offset = user.checked_sub(map.container_id())?;
        (offset < map.size()).then(|| map.host_id().checked_add(offset))?
    })
    .next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn owner_in(namespaces: &Value, maps: &Value, user: u32) -> Option<u32> {
        let config = json!({
            "ociVersion": "1.2.0",
            "process": { "cwd": "/", "user": { "uid": user, "gid": 0 } },
            "mounts": [{ "destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["rw"] }],
            "linux": { "namespaces": namespaces, "uidMappings": maps },
        });
        owner(&serde_json::from_value::<Spec>(config).unwrap())
    }

    #[test]
    fn a_group_is_handed_to_the_containers_user() {
        let own = json!([{ "type": "cgroup" }]);
        let apart = json!([{ "type": "cgroup" }, { "type": "user" }]);
        let maps = json!([{ "containerID": 0, "hostID": 100_000, "size": 2000 }]);
        // Without a user namespace its number is the host's.
        let none = json!([]);
        assert_eq!(owner_in(&own, &none, 1000), Some(1000));
        assert_eq!(owner_in(&own, &none, 0), None);
        assert_eq!(owner_in(&apart, &maps, 1000), Some(101_000));
        assert_eq!(owner_in(&apart, &maps, 2000), None);
        assert_eq!(owner_in(&none, &none, 1000), None);
    }
}
