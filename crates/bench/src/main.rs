//! `make bench`: berth and the peers that are installed, in turn within one run.
//!
//! Every figure is the median over runs whose exit status was checked, with
//! control group limits in force for all. Pacing matters on this kernel (work
//! that waits for RCU is slower on an idle host), so commands are measured both
//! back to back and after a pause.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod builds;
mod engines;
mod images;
mod memory;
mod runtimes;
mod sample;
mod steps;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut rounds = 30;
    let mut only = String::new();
    let mut places = vec!["/var/tmp".to_owned(), "/dev/shm".to_owned()];
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bin-dir" => berth_e2e::engine::set_bin_dir(args.next().unwrap_or_default().into()),
            "--rounds" => {
                rounds = args
                    .next()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(rounds)
            }
            "--only" => only = args.next().unwrap_or_default(),
            "--place" => places = vec![args.next().unwrap_or_default()],
            other => {
                eprintln!(
                    "unknown flag: {other}\nusage: berth-bench [--bin-dir DIR] [--rounds N] [--only runtimes|engines|images|builds|memory|steps] [--place DIR]"
                );
                std::process::exit(2);
            }
        }
    }
    let wanted = |part: &str| only.is_empty() || only == part;
    println!("{}", machine());
    if wanted("runtimes") {
        runtimes::measure(rounds);
    }
    if wanted("engines") {
        engines::measure(rounds);
    }
    if wanted("images") {
        images::measure(rounds, &places);
    }
    if wanted("builds") {
        for place in &places {
            builds::measure(rounds, place);
        }
    }
    if wanted("steps") {
        steps::measure();
    }
    if wanted("memory") {
        memory::measure();
    }
}

/// The running kernel's version: major, minor.
fn kernel() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What the figures were taken on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")
                .map(|name| name.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let layout = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "v2"
    } else {
        "v1 or hybrid"
    };
    format!(
        "Linux {}, {cores} × {cpu}, cgroup {layout}\n",
        read("/proc/sys/kernel/osrelease").trim()
    )
}
