//! A bundle of the OCI command line, with a root for states of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::{BINARY, config, make_rootfs};

/// A file of a control group: (controller, file) on version 1, file on version 2.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) v1: Option<(&'static str, &'static str)>,
    pub(crate) v2: Option<&'static str>,
}

/// A bundle and a root for states.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Value,
}

impl Bundle {
    pub(crate) fn new(args: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        make_rootfs(&dir.path().join("rootfs"));
        let mut bundle = Self {
            dir,
            config: config(args),
        };
        bundle.config["linux"]["cgroupsPath"] = json!(format!(
            "/berth-test/{}",
            bundle.dir.path().file_name().unwrap().display()
        ));
        bundle
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Changes the configuration: JSON pointer, value. What is on the way there is
    /// made.
    pub(crate) fn set(&mut self, changes: &[(&str, Value)]) {
        for (pointer, value) in changes {
            let place = pointer
                .split('/')
                .skip(1)
                .fold(&mut self.config, |place, key| &mut place[key]);
            *place = value.clone();
        }
    }

    pub(crate) fn save(&self) {
        std::fs::write(self.path().join("config.json"), self.config.to_string()).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(BINARY), args)
    }

    /// With a copy of the program.
    pub(crate) fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        self.save();
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.state())
            .args(args)
            .current_dir(self.path());
        command
    }

    /// Not for what leaves a container running: that holds the pipes open.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that leaves a container behind, which would hold pipes open.
    pub(crate) fn leave(&self, args: &[&str]) {
        let log = self.path().join("stderr");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut command = self.command(args);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .status();
        assert!(
            status.unwrap().success(),
            "{args:?}: {}",
            std::fs::read_to_string(log).unwrap()
        );
    }

    /// The error of a command that must fail.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let code = if args.first() == Some(&"exec") {
            255
        } else {
            1
        };
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Adds a mount to the configuration.
    pub(crate) fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub(crate) fn bind(&mut self, source: &Path, destination: &str) {
        self.mount(json!({
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": ["bind"],
        }));
    }

    /// Gives its processes a capability.
    pub(crate) fn allow(&mut self, capability: &str) {
        for set in ["bounding", "effective", "permitted"] {
            let set = &mut self.config["process"]["capabilities"][set];
            set.as_array_mut().unwrap().push(json!(capability));
        }
    }

    pub(crate) fn state_of(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// What a file of the container's control group holds, blanks around it gone.
    /// `None` when it is not there, or the host has the other version.
    pub(crate) fn limit(&self, place: &Place) -> Option<String> {
        let host = berth_cgroup::Host::detect().unwrap();
        let (wanted, file) = match host.layout() {
            berth_cgroup::Layout::V2 => (None, place.v2?),
            _ => (Some(place.v1?.0), place.v1?.1),
        };
        let has = |controllers: &Option<String>| match (controllers, wanted) {
            (None, None) => true,
            (Some(list), Some(wanted)) => list.split(',').any(|name| name == wanted),
            _ => false,
        };
        let mounts = host.mounts();
        let (_, mount) = mounts.iter().find(|(controllers, _)| has(controllers))?;
        let path = self.config["linux"]["cgroupsPath"].as_str().unwrap();
        let file = mount.join(path.trim_start_matches('/')).join(file);
        Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.ok(&["list", "-q"]), "");
        let host = berth_cgroup::Host::detect().unwrap();
        let path = self.config["linux"]["cgroupsPath"].as_str().unwrap();
        assert!(
            !berth_cgroup::Cgroup::open(&host, path).exists(),
            "the control group is left"
        );
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.state())
                .into_iter()
                .flatten()
                .flatten()
            {
                let id = entry.file_name();
                let _ = self.output(&["delete", "--force", id.to_str().unwrap()]);
            }
        }
    }
}

/// As `spec --rootless` has it: what a user may have who is nobody special.
pub(crate) fn make_rootless(config: &mut Value, id: u32) {
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("resources");
    linux.remove("cgroupsPath");
    let map = json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    linux.insert("uidMappings".into(), map.clone());
    linux.insert("gidMappings".into(), map);
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({ "type": "user" }));
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        } else if let Some(options) = mount["options"].as_array_mut() {
            // Only one group is mapped.
            options.retain(|option| !option.as_str().unwrap().starts_with("gid="));
        }
    }
}
