//! Layers as EROFS files and as directories: containers see the same, layers
//! are mounted once, survive the death of whoever mounted them, and give their
//! space back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_e2e::oci::{self, Content};
use berth_e2e::{Engine, Run, eventually, image, leaks};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use rustix::process::{Pid, Signal, kill_process};

const FORMS: [&str; 2] = ["erofs", "directory"];

/// EROFS files can be mounted from there.
fn disk() -> PathBuf {
    "/var/tmp".into()
}

fn engine(form: &str) -> Engine {
    Engine::start_form_in(&disk(), &[], Some(form))
}

/// What `fill` puts into a directory, as a layer.
fn layer(fill: impl FnOnce(&Path)) -> Vec<u8> {
    let tree = tempfile::tempdir_in(disk()).unwrap();
    fill(tree.path());
    let output = Command::new("tar")
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--format=pax",
            "--sort=name",
        ])
        .args(["--numeric-owner", "-cSC"])
        .arg(tree.path())
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn files(list: &'static [(&str, &str)]) -> impl FnOnce(&Path) {
    move |dir| {
        for (name, text) in list {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
}

/// Loads an image of busybox and these layers under the name "stack"; returns
/// its ID.
fn load(engine: &Engine, layers: Vec<Vec<u8>>) -> String {
    let mut content = Content::default();
    let all = std::iter::once(image::busybox_rootfs()).chain(layers);
    let manifest = content.image(oci::HOST, all.map(|tar| oci::compressed(&tar)).collect());
    let dir = engine.dir().join("layout");
    content.write_layout(&dir, "stack", &manifest);
    let archive = Command::new("tar")
        .arg("-cC")
        .arg(&dir)
        .arg(".")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let text = engine.berth_with(&["load"], &archive.stdout).ok();
    if !text.contains("stack") {
        engine.berth(&["tag", &manifest, "stack"]).ok();
    }
    manifest
}

/// Layers with all that a layer can say, 60 with busybox.
fn every_kind() -> Vec<Vec<u8>> {
    let low = layer(|dir| {
        let data = dir.join("data");
        std::fs::create_dir_all(data.join("hidden")).unwrap();
        for name in ["keep", "gone", "both", "hidden/old", "linked"] {
            std::fs::write(data.join(name), format!("{name} from below")).unwrap();
        }
        std::fs::hard_link(data.join("linked"), data.join("twin")).unwrap();
        symlink("keep", data.join("symlink")).unwrap();
        let device = rustix::fs::makedev(1, 3);
        mknodat(
            CWD,
            data.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )
        .unwrap();
        mknodat(
            CWD,
            data.join("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let sparse = std::fs::File::create(data.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1 << 20).unwrap();
        sparse.set_len(4 << 20).unwrap();
        setxattr(data.join("keep"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        let owned = data.join("both");
        std::os::unix::fs::chown(owned, Some(1000), Some(1234)).unwrap();
    });
    let high = layer(|dir| {
        files(&[
            ("data/.wh.gone", ""),
            ("data/both", "both from above"),
            ("data/hidden/.wh..wh..opq", ""),
            ("data/hidden/new", "new"),
        ])(dir);
    });
    let mut layers = vec![low, high];
    for number in 0..57 {
        layers.push(layer(move |dir| {
            std::fs::create_dir(dir.join("many")).unwrap();
            std::fs::write(dir.join(format!("many/{number}")), number.to_string()).unwrap();
            std::fs::write(dir.join("many/last"), number.to_string()).unwrap();
        }));
    }
    layers
}

/// Everything about the files below these, as a container sees it.
fn listing(roots: &str) -> String {
    format!(
        "find {roots} ! -type d -exec stat -c '%n %A %u %g %s %h %Y %t:%T' {{}} + | sort; \
         find {roots} -type d -exec stat -c '%n %A %u %g %Y' {{}} + | sort; \
         find {roots} -type f -exec busybox md5sum {{}} + | sort"
    )
}

fn sh(engine: &Engine, options: &[&str], script: &str) -> String {
    let mut args = vec!["run", "--rm", "--network", "none"];
    args.extend(options);
    args.extend(["stack", "sh", "-ec", script]);
    engine.berth(&args).ok()
}

/// The launcher's process.
fn launcher(engine: &Engine) -> i32 {
    eventually("there is a launcher", || {
        let all = leaks::engine_processes(engine);
        let found = all
            .into_iter()
            .find(|(_, name)| name.starts_with("berth-launcher"));
        found.map(|(pid, _)| pid)
    })
}

/// How many layers it has mounted.
fn mounted(engine: &Engine) -> usize {
    let table = format!("/proc/{}/mountinfo", launcher(engine));
    let table = std::fs::read_to_string(table).unwrap_or_default();
    let ours = format!(" {}/layers/", engine.exec_root().display());
    table
        .lines()
        .filter(|line| line.contains(&ours) && line.contains(" - erofs "))
        .count()
}

#[test]
fn containers_on_both_forms_see_and_do_the_same() {
    let layers = every_kind();
    let seen = FORMS.map(|form| {
        let engine = engine(form);
        load(&engine, layers.clone());
        let mut seen = vec![sh(&engine, &[], &listing("/data /many /bin"))];
        seen.push(sh(
            &engine,
            &[],
            "cat /data/both /data/linked /data/symlink /many/last; echo; ls /data /data/hidden; \
             ls /many | wc -l; test -c /data/null; test -p /data/fifo",
        ));
        // One device number, as with directories: else `find -xdev` stops.
        let devices = sh(&engine, &[], "stat -c %d / /data /data/keep /data/both /bin /many/last | sort -u | wc -l");
        assert_eq!(devices, "1", "{form}");
        assert_eq!(sh(&engine, &[], "find / -xdev -name keep"), "/data/keep");
        sh(&engine, &[], "df -P / | tail -n 1 | grep -q ' /$'; busybox du -x -s / >/dev/null");
        // What is written goes up, and the layer stays as it is.
        seen.push(sh(
            &engine,
            &[],
            "cd /data; echo more >>keep; echo more >>twin; rm both; mv hidden moved || cp -r hidden moved; \
             mkdir -p gone/sub; chmod 600 linked; ls . moved gone; cat keep twin linked",
        ));
        seen.push(sh(&engine, &[], "cat /data/keep /data/twin /data/both; ls /data"));
        // A volume gets what the image shows there.
        seen.push(sh(&engine, &["-v", "filled:/data"], &listing("/data")));
        let volume = engine.data_root().join("volumes/filled/_data");
        let mut note = [0; 16];
        let length = rustix::fs::getxattr(volume.join("keep"), "user.note", &mut note).unwrap();
        assert_eq!(&note[..length], b"kept");
        let blocks = std::fs::metadata(volume.join("sparse")).unwrap().blocks();
        assert!(blocks * 512 < 4 << 20, "{form}: {blocks} blocks");

        engine.berth(&["run", "-d", "--name", "held", "--network", "none", "stack", "sleep", "1000"]).ok();
        let inside = format!("/proc/{}/root/data/keep", engine.state("held", "Pid"));
        let length = rustix::fs::getxattr(inside, "user.note", &mut note).unwrap();
        assert_eq!(&note[..length], b"kept");
        let shown = engine.berth(&["isolation", "--format", "json", "held"]).ok();
        assert_eq!(shown.matches(&format!("\"{form}\"")).count(), 60, "{shown}");
        assert_eq!(mounted(&engine), if form == "erofs" { 60 } else { 0 });
        engine.berth(&["rm", "-f", "held"]).ok();
        seen
    });
    let [erofs, directory] = seen;
    assert_eq!(erofs, directory);
    assert!(erofs[1].contains("both from above") && erofs[1].contains("56"));
    assert!(!erofs[1].contains("gone") && !erofs[1].contains("old"));
}

#[test]
fn layers_survive_the_death_of_engine_and_launcher_and_are_mounted_once() {
    let mut engine = engine("erofs");
    load(
        &engine,
        vec![
            layer(files(&[("data/a", "a"), ("data/b", "b")])),
            layer(files(&[("data/b", "changed")])),
        ],
    );
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "held",
            "--network",
            "none",
            "stack",
            "sleep",
            "1000",
        ])
        .ok();
    assert_eq!(mounted(&engine), 3);
    engine.kill();
    engine.launch();
    assert_eq!(engine.berth(&["exec", "held", "cat", "/data/a"]).ok(), "a");
    let old = launcher(&engine);
    kill_process(Pid::from_raw(old).unwrap(), Signal::KILL).unwrap();
    eventually("there is another launcher", || {
        leaks::engine_processes(&engine)
            .iter()
            .any(|(pid, name)| *pid != old && name.starts_with("berth-launcher"))
            .then_some(())
    });
    // Its overlay holds the layers.
    assert_eq!(
        engine.berth(&["exec", "held", "cat", "/data/b"]).ok(),
        "changed"
    );
    // All at once, and nothing mounted yet.
    let children: Vec<_> = (0..6)
        .map(|_| {
            engine
                .command("berth")
                .args([
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "stack",
                    "cat",
                    "/data/b",
                ])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        assert_eq!(child.wait_with_output().unwrap().stdout, b"changed");
    }
    assert_eq!(mounted(&engine), 3);
    // A monitor's death takes only its container along.
    let all = leaks::engine_processes(&engine);
    for (pid, _) in all
        .iter()
        .filter(|(_, name)| name.starts_with("berth-monitor"))
    {
        kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
    }
    engine.until_state("held", "Running", "false");
    engine.berth(&["start", "held"]).ok();
    assert_eq!(
        engine.berth(&["exec", "held", "cat", "/data/b"]).ok(),
        "changed"
    );
    engine.berth(&["rm", "-f", "held"]).ok();
    engine.berth(&["rmi", "stack"]).ok();
    eventually("removed layers are let go", || {
        (mounted(&engine) == 0).then_some(())
    });
    engine.assert_nothing_left();
}

/// A small file system of its own, so that what others do is not counted.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(disk()).unwrap();
        let (file, place) = (dir.path().join("image"), dir.path().join("place"));
        std::fs::create_dir(&place).unwrap();
        let made = std::fs::File::create(&file).unwrap();
        made.set_len(256 << 20).unwrap();
        Run::new(Command::new("mkfs.ext4").arg("-q").arg(&file), b"").ok();
        Run::new(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&file)
                .arg(&place),
            b"",
        )
        .ok();
        Self(dir)
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("place")
    }

    /// Bytes not in use.
    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.place()).unwrap();
        stat.f_bfree * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.place()).status();
    }
}

#[test]
fn removed_layers_give_their_space_back() {
    const BIG: usize = 48 << 20;
    let disk = Disk::new();
    for form in FORMS {
        let engine = Engine::start_form_in(&disk.place(), &[], Some(form));
        let before = disk.free();
        let big = layer(|dir| std::fs::write(dir.join("big"), oci::noise(1, BIG)).unwrap());
        let id = load(&engine, vec![big]);
        engine
            .berth(&[
                "run",
                "-d",
                "--name",
                "held",
                "--network",
                "none",
                "stack",
                "sleep",
                "1000",
            ])
            .ok();
        assert!(before - disk.free() > BIG as u64);
        // With its name gone the container still has its files.
        engine.berth(&["rmi", "-f", "stack"]);
        assert_eq!(
            engine.berth(&["exec", "held", "wc", "-c", "/big"]).ok(),
            format!("{BIG} /big")
        );
        engine.berth(&["rm", "-f", "held"]).ok();
        engine.berth(&["rmi", "-f", &id]);
        let slack = 4 << 20;
        eventually(&format!("the space of layers as {form} comes back"), || {
            (disk.free() + slack > before).then_some(())
        });
    }
}
