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
        Self::parse(&crate::files::read(path)?)
    }

    fn parse(mountinfo: &str) -> Result<Self, Error> {
        // A hierarchy may be mounted more than once, and some mounts show only a
        // part of it (those made for containers): the first whole one is taken,
        // else the first. Group paths are below what the mount shows.
        let mut found: Vec<Mounted> = Vec::new();
        for mounted in mountinfo.lines().filter_map(parse_line) {
            match found.iter_mut().find(|other| other.same(&mounted)) {
                None => found.push(mounted),
                Some(other) if !other.whole && mounted.whole => *other = mounted,
                Some(_) => {}
            }
        }
        let hierarchies: Vec<_> = found.into_iter().map(|mount| mount.hierarchy).collect();
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

/// A line of mountinfo about control groups.
#[derive(Debug)]
struct Mounted {
    hierarchy: Hierarchy,
    /// It shows the hierarchy from its root on, or from that of our namespace.
    whole: bool,
}

impl Mounted {
    fn same(&self, other: &Self) -> bool {
        let (one, two) = (&self.hierarchy, &other.hierarchy);
        one.version == two.version && one.controllers == two.controllers
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
    "seclabel",
];

/// `36 35 98:0 /root /mount/point opts - type source super,options`
fn parse_line(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let whole = fields.next()? == "/";
    let mount = unescape(fields.next()?).into();
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
            .filter(|option| !V1_FLAGS.contains(option))
            .filter(|option| option.starts_with("name=") || !option.contains('='))
            .map(str::to_owned)
            .collect(),
    };
    let hierarchy = Hierarchy {
        version,
        controllers,
        mount,
    };
    Some(Mounted { hierarchy, whole })
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
    fn the_root_group_is_nobodys_to_end() {
        // Of hierarchies that are not there: a test that fails ends nothing.
        let text = "27 26 0:24 / /nonexistent/cgroup rw - cgroup2 cgroup2 rw";
        let host = Host::parse(text).unwrap();
        for path in ["", "/", "//", "/..", "/berth/../.."] {
            let group = crate::Cgroup::open(&host, path);
            assert!(matches!(group.kill_all(), Err(Error::Invalid(_))), "{path}");
            assert!(matches!(group.remove(), Err(Error::Invalid(_))), "{path}");
        }
    }

    #[test]
    fn whole_mounts_come_before_parts() {
        let mount = |text: &str| {
            let host = Host::parse(text).unwrap();
            host.hierarchies()[0].mount.clone()
        };
        let part = "27 26 0:24 /docker/c1 /part rw - cgroup rw,seclabel,cpu";
        let part = part.replace("cgroup rw", "cgroup cgroup rw");
        let whole = "28 26 0:24 / /whole rw - cgroup cgroup rw,seclabel,cpu";
        let outer = "29 26 0:24 /../.. /outer rw - cgroup cgroup rw,seclabel,cpu";
        assert_eq!(mount(&format!("{part}\n{whole}")), PathBuf::from("/whole"));
        assert_eq!(mount(&format!("{whole}\n{part}")), PathBuf::from("/whole"));
        assert_eq!(mount(&part), PathBuf::from("/part"));
        assert_eq!(mount(outer), PathBuf::from("/outer"));
        assert_eq!(Host::parse(whole).unwrap().controllers(), ["cpu"]);
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
