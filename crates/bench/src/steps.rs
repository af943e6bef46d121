//! Where the time of one start goes: the engine's own account of it, which it
//! logs at level debug.

use std::collections::BTreeMap;

use berth_e2e::Engine;

const RUNS: usize = 30;

pub(crate) fn measure() {
    let engine = Engine::start_with(&["--network-pool", "8"]);
    for _ in 0..RUNS {
        engine.berth(&["run", "--rm", "busybox", "true"]).ok();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut steps: BTreeMap<usize, (String, Vec<u64>)> = BTreeMap::new();
    for line in engine.log().lines() {
        let Some((_, list)) = line.split_once("start steps: ") else {
            continue;
        };
        let list = list.split('"').next().unwrap_or_default();
        for (index, step) in list.split(", ").enumerate() {
            let Some((name, micros)) = step.split_once('=') else {
                continue;
            };
            let Ok(micros) = micros.trim_end_matches("us").parse() else {
                continue;
            };
            steps
                .entry(index)
                .or_insert_with(|| (name.to_owned(), Vec::new()))
                .1
                .push(micros);
        }
    }
    println!("Steps of a start inside the engine (median of {RUNS}, µs)");
    for (name, mut times) in steps.into_values() {
        times.sort_unstable();
        println!("  {name:<34}{:>8}", times[times.len() / 2]);
    }
    println!();
}
