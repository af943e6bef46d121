//! Interface counters, from `/proc/<pid>/net/dev` (proc_pid_net(5)).

use std::{fs, io};

use crate::{Counters, Error};

pub(crate) fn of_process(pid: u32) -> Result<Vec<Counters>, Error> {
    let path = format!("/proc/{pid}/net/dev");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(parse(&text)),
        // ENOENT: no such process; ESRCH or EINVAL: it ended meanwhile, or is a
        // zombie and has left its namespaces.
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                || matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) =>
        {
            Err(Error::NotFound(format!(
                "no network namespace of process {pid}"
            )))
        }
        Err(e) => Err(Error::kernel(format!("read {path}"), e)),
    }
}

/// All but the loopback interface, which Docker's statistics leave out too.
fn parse(text: &str) -> Vec<Counters> {
    text.lines()
        .filter_map(parse_line)
        .filter(|c| c.interface != "lo")
        .collect()
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast bytes …`; the
/// two headings have no such form.
fn parse_line(line: &str) -> Option<Counters> {
    let (interface, numbers) = line.split_once(':')?;
    let mut numbers = numbers
        .split_whitespace()
        .map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next()?;
    let mut direction = || {
        let four = (next()?, next()?, next()?, next()?);
        for _ in 0..4 {
            next()?;
        }
        Some(four)
    };
    let (rx_bytes, rx_packets, rx_errors, rx_dropped) = direction()?;
    let (tx_bytes, tx_packets, tx_errors, tx_dropped) = direction()?;
    Some(Counters {
        interface: interface.trim().to_owned(),
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_container() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
            eth0:    1842      23    1    2    0     0          0         0      966      13    3    4    0     0       0          0\n";
        let all = parse(text);
        assert_eq!(all.len(), 1);
        let c = &all[0];
        assert_eq!(c.interface, "eth0");
        assert_eq!(
            (c.rx_bytes, c.rx_packets, c.rx_errors, c.rx_dropped),
            (1842, 23, 1, 2)
        );
        assert_eq!(
            (c.tx_bytes, c.tx_packets, c.tx_errors, c.tx_dropped),
            (966, 13, 3, 4)
        );
    }

    #[test]
    fn no_such_process() {
        assert!(matches!(of_process(u32::MAX), Err(Error::NotFound(_))));
    }

    proptest! {
        #[test]
        fn any_text(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
