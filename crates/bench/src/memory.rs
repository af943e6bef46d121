//! Proportional set size: what the engine and a container cost in memory.

use berth_e2e::{Engine, leaks};

const CONTAINERS: usize = 20;

pub(crate) fn measure() {
    let engine = Engine::start();
    // Let the pool fill and the allocator settle: memory is not a race.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let idle = pss(&engine);
    for _ in 0..CONTAINERS {
        engine
            .berth(&["run", "-d", "busybox", "sleep", "3600"])
            .ok();
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let busy = pss(&engine);
    println!("Memory (PSS, kB)");
    for (name, kb) in &idle {
        println!("  idle: {name:<28}{kb:>8}");
    }
    let total = |rows: &[(String, u64)]| rows.iter().map(|(_, kb)| kb).sum::<u64>();
    println!("  idle engine, all processes:       {:>8}", total(&idle));
    println!(
        "  each of {CONTAINERS} running containers:    {:>8}",
        (total(&busy).saturating_sub(total(&idle))) / CONTAINERS as u64
    );
    println!();
}

/// Our own processes: all whose command line names the engine's directory, and
/// the monitors.
fn pss(engine: &Engine) -> Vec<(String, u64)> {
    leaks::engine_processes(engine)
        .into_iter()
        .map(|(pid, name)| (name, pss_of(pid)))
        .collect()
}

fn pss_of(pid: i32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix("Pss:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_default()
}
