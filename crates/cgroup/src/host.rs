//! Which hierarchies the host has mounted, and where.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Error;

/// Which control group layout a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only version 1 hierarchies.
    V1,
    /// One version 2 hierarchy with all controllers.
    V2,
    /// Controllers on version 1; version 2 is mounted beside them. Containers
    /// stay out of the version 2 one, as with Docker: entering it would wait.
    Hybrid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub version: Version,
    /// Controllers (v1) or none; a named hierarchy has "name=…".
    pub controllers: Vec<String>,
    pub mount: PathBuf,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Where a group of this path is.
    pub(crate) fn dir(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }
}

/// The host's hierarchies, read once from /proc. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    hierarchies: Arc<[Hierarchy]>,
    layout: Layout,
}

impl Host {
    /// Reads /proc/self/mountinfo.
    pub fn detect() -> Result<Self, Error> {
        let path = std::path::Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        Self::parse(&text)
    }

    fn parse(mountinfo: &str) -> Result<Self, Error> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for hierarchy in mountinfo.lines().filter_map(parse_line) {
            // A hierarchy may be mounted twice: the first is as good.
            let known = hierarchies.iter().any(|other| {
                other.version == hierarchy.version && other.controllers == hierarchy.controllers
            });
            if !known {
                hierarchies.push(hierarchy);
            }
        }
        let v1 = hierarchies.iter().any(|hierarchy| {
            hierarchy.version == Version::V1
                && hierarchy
                    .controllers
                    .iter()
                    .any(|name| !name.starts_with("name="))
        });
        let v2 = hierarchies
            .iter()
            .any(|hierarchy| hierarchy.version == Version::V2);
        let layout = match (v1, v2) {
            (true, true) => Layout::Hybrid,
            (true, false) => Layout::V1,
            (false, true) => Layout::V2,
            (false, false) => {
                return Err(Error::Invalid(
                    "no cgroup hierarchy is mounted on this host: mount cgroup2 at /sys/fs/cgroup"
                        .into(),
                ));
            }
        };
        Ok(Self {
            hierarchies: hierarchies.into(),
            layout,
        })
    }

    /// The host's layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Names of the controllers in use ("cpu", "memory", …).
    pub fn controllers(&self) -> Vec<String> {
        match self.layout {
            Layout::V2 => self
                .hierarchies
                .iter()
                .filter(|hierarchy| hierarchy.version == Version::V2)
                .filter_map(|hierarchy| {
                    std::fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).ok()
                })
                .flat_map(|text| {
                    text.split_whitespace()
                        .map(str::to_owned)
                        .collect::<Vec<_>>()
                })
                .collect(),
            Layout::V1 | Layout::Hybrid => self
                .hierarchies
                .iter()
                .flat_map(|hierarchy| hierarchy.controllers.iter())
                .filter(|name| !name.starts_with("name="))
                .cloned()
                .collect(),
        }
    }

    /// Mount point and controllers of each hierarchy that containers use; for
    /// the mounts below /sys/fs/cgroup inside a container. `None` for v2.
    pub fn mounts(&self) -> Vec<(Option<String>, PathBuf)> {
        self.hierarchies
            .iter()
            .filter(|hierarchy| self.layout == Layout::V2 || hierarchy.version == Version::V1)
            .map(|hierarchy| {
                let name =
                    (hierarchy.version == Version::V1).then(|| hierarchy.controllers.join(","));
                (name, hierarchy.mount.clone())
            })
            .collect()
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    pub(crate) fn v2_mount(&self) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.version == Version::V2)
    }
}

/// Flags of a v1 mount's options that are no controllers.
const V1_FLAGS: &[&str] = &[
    "rw",
    "ro",
    "xattr",
    "noprefix",
    "clone_children",
    "cpuset_v2_mode",
    "favordynmods",
    "none",
];

/// `36 35 98:0 /root /mount/point opts - type source super,options`
fn parse_line(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = unescape(left.split(' ').nth(4)?).into();
    let mut fields = right.split(' ');
    let version = match fields.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = fields.nth(1).unwrap_or_default();
    let controllers = match version {
        Version::V2 => Vec::new(),
        Version::V1 => options
            .split(',')
            .filter(|option| !V1_FLAGS.contains(option) && !option.starts_with("release_agent="))
            .map(str::to_owned)
            .collect(),
    };
    Some(Hierarchy {
        version,
        controllers,
        mount,
    })
}

/// mountinfo writes space, tab, newline and backslash as octal escapes.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A group's path comes from a client: it must stay below the hierarchy's root.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    let escapes = path.split('/').any(|part| part == ".." || part == ".");
    if path == "/" || escapes || path.contains('\0') || path.contains('\n') {
        return Err(Error::Invalid(format!(
            "invalid cgroup path {path:?}: it must name a group below the root"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 20 0:22 / /sys rw - sysfs sysfs rw
26 25 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
27 26 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
28 26 0:25 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
29 26 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
30 26 0:24 / /elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct";

    #[test]
    fn layouts_are_told_apart() {
        let host = Host::parse(HYBRID).unwrap();
        assert_eq!(host.layout(), Layout::Hybrid);
        assert_eq!(host.controllers(), ["cpu", "cpuacct"]);
        assert_eq!(host.hierarchies().len(), 3);
        assert_eq!(host.hierarchies()[1].controllers, ["name=systemd"]);
        let v2 = "27 26 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Host::parse(v2).unwrap().layout(), Layout::V2);
        let v1 = HYBRID.replace("cgroup2", "tmpfs");
        assert_eq!(Host::parse(&v1).unwrap().layout(), Layout::V1);
        assert!(Host::parse("").is_err());
        assert!(Host::parse("nonsense - cgroup\n - cgroup2 x y\n1 2").is_err());
    }

    #[test]
    fn escapes_and_paths() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert!(check_path("/a/b").is_ok());
        for bad in ["/", "/a/../b", "/./a", "/a\n"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }
}
