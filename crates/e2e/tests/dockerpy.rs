//! The engine through docker-py, the Python client that CI systems and tools
//! embed: it reads replies more strictly than the `docker` command and opens
//! streams its own way. One test for each function of `python/dockerpy.py`.

use std::path::{Path, PathBuf};

use berth_e2e::{Engine, Run, possible};

/// The interpreter that has docker-py: `BERTH_E2E_PYTHON`, or the one that
/// `scripts/setup.sh` makes.
fn python() -> PathBuf {
    std::env::var_os("BERTH_E2E_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/venv/bin/python"),
        PathBuf::from,
    )
}

fn scenario(name: &str) {
    let python = python();
    let what = format!(
        "docker-py: {} is missing; scripts/setup.sh makes it",
        python.display()
    );
    if !possible(&what, python.exists()) {
        return;
    }
    let engine = Engine::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/dockerpy.py");
    let mut command = engine.command(&python.to_string_lossy());
    Run::new(command.arg(script).arg(engine.socket()).arg(name), b"").ok();
}

macro_rules! scenarios {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            scenario(stringify!($name));
        }
    )*};
}

scenarios! {
    attach
    builds
    errors
    events
    execs
    hijack
    images
    lifecycle
    lists
    logs
    stats
    system
}
