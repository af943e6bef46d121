//! The options of one entry of `mounts`: words for the kernel's mount flags,
//! propagation, berth-side wishes, and data for the filesystem.

use berth_sys::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME, MountAttr,
};

use crate::error::{Error, Result};

const MS_UNBINDABLE: u64 = 1 << 17;
pub(crate) const MS_PRIVATE: u64 = 1 << 18;
pub(crate) const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// Parsed options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// For this mount alone.
    pub(crate) attr: Attributes,
    /// For this mount and all below it (`rro`, `rnosuid`, …).
    pub(crate) recursive: Attributes,
    /// Flag of mount(2), and whether for the whole subtree.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// A bind mount; true with everything mounted below its source.
    pub(crate) bind: Option<bool>,
    /// Fill a new tmpfs with what it hides.
    pub(crate) copy_up: bool,
    /// An idmapped mount; true for the whole subtree.
    pub(crate) idmap: Option<bool>,
    /// Key, and value if it has one, for fsconfig(2).
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// `MOUNT_ATTR_*` to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Attributes {
    pub(crate) fn apply(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(crate) fn to_attr(self) -> MountAttr {
        // The kernel wants the whole access time mask cleared to change it.
        let time = if self.set & MOUNT_ATTR_ATIME == 0 {
            0
        } else {
            MOUNT_ATTR_ATIME
        };
        MountAttr {
            set: self.set,
            clear: self.clear | time,
            ..MountAttr::default()
        }
    }
}

/// What a word does to the attributes: bits to set, bits to clear.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, MOUNT_ATTR_RDONLY),
        "nosuid" => (MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, MOUNT_ATTR_NOSUID),
        "nodev" => (MOUNT_ATTR_NODEV, 0),
        "dev" => (0, MOUNT_ATTR_NODEV),
        "noexec" => (MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, MOUNT_ATTR_NOEXEC),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, MOUNT_ATTR_NOSYMFOLLOW),
        // relatime is the value 0 of the mask, and the kernel's default.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, MOUNT_ATTR_ATIME),
        "noatime" => (MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME),
        "strictatime" => (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_NOATIME),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "private" => (MS_PRIVATE, false),
        "rprivate" => (MS_PRIVATE, true),
        "slave" => (MS_SLAVE, false),
        "rslave" => (MS_SLAVE, true),
        "shared" => (MS_SHARED, false),
        "rshared" => (MS_SHARED, true),
        "unbindable" => (MS_UNBINDABLE, false),
        "runbindable" => (MS_UNBINDABLE, true),
        _ => return None,
    })
}

/// `linux.rootfsPropagation`.
pub(crate) fn root_propagation(word: &str) -> Result<(u64, bool)> {
    match word {
        "" => Ok((MS_PRIVATE, true)),
        word => propagation(word).ok_or_else(|| {
            Error::invalid(format!(
                "linux.rootfsPropagation: {word:?} is not a mount propagation"
            ))
        }),
    }
}

impl Options {
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Self::default();
        for word in words {
            options.add(word);
        }
        options
    }

    fn add(&mut self, word: &str) {
        if let Some((set, clear)) = attribute(word) {
            self.attr.apply(set, clear);
        } else if let Some(kind) = propagation(word) {
            self.propagation.push(kind);
        } else if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
            self.recursive.apply(set, clear);
        } else {
            match word {
                "defaults" | "" | "nofail" | "_netdev" | "auto" | "noauto" | "user" | "nouser" => {}
                "bind" => self.bind = Some(self.bind.unwrap_or(false)),
                "rbind" => self.bind = Some(true),
                "tmpcopyup" => self.copy_up = true,
                "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
                "ridmap" => self.idmap = Some(true),
                "async" | "loud" | "noiversion" | "nomand" | "nolazytime" | "silent" => {}
                word => self.data.push(match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                }),
            }
        }
    }

    /// The value of a filesystem option.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.data
            .iter()
            .rev()
            .find(|(name, _)| name == key)?
            .1
            .as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags_and_the_last_one_wins() {
        let options = Options::parse(["ro", "nosuid", "rw", "noexec", "strictatime", "mode=755"]);
        assert_eq!(
            options.attr.set,
            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(options.attr.clear & MOUNT_ATTR_RDONLY, MOUNT_ATTR_RDONLY);
        assert_eq!(
            options.attr.to_attr().clear & MOUNT_ATTR_ATIME,
            MOUNT_ATTR_ATIME
        );
        assert_eq!(options.value("mode"), Some("755"));
    }

    #[test]
    fn the_recursive_words_are_told_from_the_others() {
        let options = Options::parse(["rbind", "rro", "rnosuid", "rprivate", "relatime"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.recursive.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
        assert_eq!(options.attr.set, 0);
        assert_eq!(options.propagation, [(MS_PRIVATE, true)]);
        assert_eq!(options.attr.clear, MOUNT_ATTR_ATIME);
        assert!(options.data.is_empty());
        assert_eq!(Options::parse(["rbind", "bind"]).bind, Some(true));
    }

    #[test]
    fn unknown_propagation_of_the_root_is_an_error() {
        assert_eq!(root_propagation("").unwrap(), (MS_PRIVATE, true));
        assert_eq!(root_propagation("rslave").unwrap(), (MS_SLAVE, true));
        assert!(root_propagation("ro").is_err());
    }
}
