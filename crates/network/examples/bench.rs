//! What a container's start waits for: `cargo run --release -p berth-network
//! --example bench`. Needs root; works in a network namespace of its own.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use berth_network::{BridgeConfig, Error, Manager};

/// Rounds per figure.
const ROUNDS: usize = 50;
/// Long enough for the pool to be full again.
const PAUSE: Duration = Duration::from_millis(80);

fn main() -> Result<(), Error> {
    berth_sys::netns::unshare_network().map_err(|source| Error::Kernel {
        action: "create a network namespace".to_owned(),
        source,
    })?;
    let config = BridgeConfig {
        id: "ab".repeat(32),
        name: "bridge".to_owned(),
        interface: "berth0".to_owned(),
        gateway: Ipv4Addr::new(172, 17, 0, 1),
        prefix_len: 16,
        mtu: 1500,
        masquerade: true,
        foreign: false,
    };
    println!("{:<44} {:>9} {:>9} {:>9}", "", "min", "median", "max");
    for (label, pool, pause) in [
        ("ready, idle between", 4, PAUSE),
        ("ready, back to back", 8, Duration::ZERO),
        ("no pool, idle between", 0, PAUSE),
        ("no pool, back to back", 0, Duration::ZERO),
    ] {
        let manager = Manager::new(pool)?;
        manager.add_bridge(&config)?;
        time(
            &format!("add_bridge, in place: {label}"),
            Duration::ZERO,
            || manager.add_bridge(&config),
        )?;
        sleep(4 * PAUSE);
        time(&format!("bare: {label}"), pause, || {
            manager.bare().map(drop)
        })?;
        sleep(4 * PAUSE);
        let mut endpoints = Vec::new();
        time(&format!("connect: {label}"), pause, || {
            // Kept until released, as a container would keep it.
            endpoints.push(manager.connect(&config.id, None, None)?);
            Ok(())
        })?;
        let mut ended = endpoints.into_iter().map(|(namespace, endpoint)| {
            drop(namespace);
            endpoint
        });
        time(&format!("release: {label}"), pause, || {
            ended
                .next()
                .map_or(Ok(()), |endpoint| manager.release(&config.id, &endpoint))
        })?;
        sleep(4 * PAUSE);
        time(&format!("connect and release: {label}"), pause, || {
            let (namespace, endpoint) = manager.connect(&config.id, None, None)?;
            drop(namespace);
            manager.release(&config.id, &endpoint)
        })?;
        manager.remove_bridge(&config.id)?;
    }
    Ok(())
}

/// Prints the time of `f`, each call after the pause.
fn time(
    what: &str,
    pause: Duration,
    mut f: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        sleep(pause);
        let start = Instant::now();
        f()?;
        times.push(start.elapsed());
    }
    times.sort();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |t| t.as_secs_f64() * 1000.0);
    println!(
        "{what:<44} {:>6.2} ms {:>6.2} ms {:>6.2} ms",
        ms(times.first()),
        ms(times.get(ROUNDS / 2)),
        ms(times.last())
    );
    Ok(())
}
