//! What an engine must not leave behind.

use std::path::{Path, PathBuf};

/// Groups below `name` in every hierarchy, except the engine's own.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        collect_dirs(&hierarchy.join(name.trim_start_matches('/')), &mut found);
    }
    found
}

fn collect_dirs(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_dirs(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// Mount points of all control group hierarchies.
pub fn hierarchies() -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right
                .starts_with("cgroup")
                .then(|| PathBuf::from(left.split(' ').nth(4).unwrap_or_default()))
        })
        .collect()
}

/// Processes whose command line contains `text` (a path that only the test's
/// own processes have), with their command lines.
pub fn processes(text: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
    {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(text) && pid != std::process::id() as i32 {
            found.push((pid, command));
        }
    }
    found
}

/// An engine's own processes with what they are: the daemon, the launcher, the
/// monitors; not the containers'.
pub fn engine_processes(engine: &crate::Engine) -> Vec<(i32, String)> {
    let mine = engine.dir().display().to_string();
    let launchers: Vec<_> = processes(&mine)
        .into_iter()
        .filter(|(_, command)| command.contains("launcher"))
        .map(|(pid, _)| pid)
        .collect();
    let mut found = vec![(engine.pid(), "daemon".to_owned())];
    for pid in launchers {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.push((pid, name.trim().to_owned()));
    }
    found
}
