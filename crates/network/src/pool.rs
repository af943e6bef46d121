//! Network namespaces kept ready, so that a container's start does not wait for
//! their making (about two milliseconds each, more under load).
//!
//! One thread makes them all. It is the only thread that ever leaves the
//! engine's namespace, and it runs nothing but this file: no caller's code, no
//! runtime's task can find itself in a container's network.
//!
//! A ready namespace is held by its descriptors alone. When the engine dies, in
//! whatever way, the kernel takes namespace and interfaces apart.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::route::{self, Handle, LOOPBACK};
use crate::{Error, random, sysctl};

/// The interface's name inside.
pub(crate) const INTERFACE: &str = "eth0";

/// Our interfaces on the host are "bv" and eight hex digits.
const HOST_PREFIX: &str = "bv";
const HOST_DIGITS: usize = 8;

/// Refilling waits for a pause of this length, so that it does not take the CPU
/// and the kernel's network lock from the starts that empty the shelf; a shelf
/// less than half full is refilled at once.
const PAUSE: Duration = Duration::from_millis(20);

/// True for names as [`host_interface`] makes them.
pub(crate) fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX).is_some_and(|digits| {
        digits.len() == HOST_DIGITS
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn host_interface() -> Result<String, Error> {
    Ok(format!(
        "{HOST_PREFIX}{}",
        random::hex::<{ HOST_DIGITS / 2 }>()?
    ))
}

/// The bridge a namespace is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uplink {
    /// Index of the bridge.
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
}

/// A namespace with loopback up.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) namespace: OwnedFd,
    /// Speaks to the kernel about the inside, from any thread.
    pub(crate) inside: Handle,
    pub(crate) plug: Option<Plug>,
}

/// Its interface, up, without address.
#[derive(Debug)]
pub(crate) struct Plug {
    /// Index of [`INTERFACE`] inside.
    pub(crate) index: u32,
    pub(crate) host_interface: String,
}

/// Which shelf: none for bare namespaces, else the network's identifier.
type Kind = Option<String>;

#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something for the thread to do.
    work: Condvar,
    /// A slot or a failure for those who wait.
    ready: Condvar,
}

#[derive(Debug)]
struct State {
    shelves: HashMap<Kind, Shelf>,
    target: usize,
    last_take: Instant,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    uplink: Option<Uplink>,
    slots: VecDeque<Slot>,
    /// Host interfaces of slots, being made, ready or handed out.
    names: HashSet<String>,
    waiting: usize,
    /// Why the last attempt failed; the next request tries again.
    failure: Option<Error>,
}

impl Pool {
    /// Starts the thread, in the calling thread's namespace.
    pub(crate) fn start(target: usize) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                shelves: HashMap::from([(None, Shelf::default())]),
                target,
                last_take: Instant::now(),
                stopping: false,
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
        });
        let maker = Maker::new()?;
        let thread = thread::Builder::new()
            .name("berth-netns".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(maker)
            })
            .map_err(|e| Error::kernel("start the thread for network namespaces", e))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Begins to keep namespaces ready for a network. Those of an earlier uplink
    /// are given up.
    pub(crate) fn open_shelf(&self, network: &str, uplink: Uplink) {
        let mut state = self.shared.lock();
        let shelf = state.shelves.entry(Some(network.to_owned())).or_default();
        shelf.uplink = Some(uplink);
        shelf.failure = None;
        let stale = std::mem::take(&mut shelf.slots);
        drop(state);
        drop(stale);
        self.shared.work.notify_one();
    }

    /// Gives up those of a network.
    pub(crate) fn close_shelf(&self, network: &str) {
        let shelf = self.shared.lock().shelves.remove(&Some(network.to_owned()));
        self.shared.ready.notify_all();
        drop(shelf);
    }

    /// All host interfaces of that network that this pool has made, or was told
    /// of, and that were not forgotten since.
    pub(crate) fn host_interfaces(&self, network: &str) -> HashSet<String> {
        let state = self.shared.lock();
        state
            .shelves
            .get(&Some(network.to_owned()))
            .map(|s| s.names.clone())
            .unwrap_or_default()
    }

    pub(crate) fn remember(&self, network: &str, host_interface: &str) {
        if let Some(shelf) = self
            .shared
            .lock()
            .shelves
            .get_mut(&Some(network.to_owned()))
        {
            shelf.names.insert(host_interface.to_owned());
        }
    }

    pub(crate) fn forget(&self, network: &str, host_interface: &str) {
        if let Some(shelf) = self
            .shared
            .lock()
            .shelves
            .get_mut(&Some(network.to_owned()))
        {
            shelf.names.remove(host_interface);
        }
    }

    /// A ready slot, or one made now.
    pub(crate) fn take(&self, network: Option<&str>) -> Result<Slot, Error> {
        let kind = network.map(str::to_owned);
        let mut state = self.shared.lock();
        state.last_take = Instant::now();
        let mut waiting = false;
        loop {
            let stopping = state.stopping;
            let Some(shelf) = state.shelves.get_mut(&kind).filter(|_| !stopping) else {
                return Err(Error::NotFound(format!(
                    "network {} is gone",
                    network.unwrap_or("none")
                )));
            };
            if !waiting {
                shelf.failure = None;
                shelf.waiting += 1;
                waiting = true;
            }
            let result = match (shelf.slots.pop_front(), shelf.failure.take()) {
                (Some(slot), _) => Ok(slot),
                (None, Some(failure)) => Err(failure),
                (None, None) => {
                    self.shared.work.notify_one();
                    state = self
                        .shared
                        .ready
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            shelf.waiting -= 1;
            self.shared.work.notify_one();
            return result;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        self.shared.ready.notify_all();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked in a way that matters here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut maker: Maker) {
        let mut state = self.lock();
        while !state.stopping {
            let kind = match state.next_job() {
                Job::Make(kind) => kind,
                Job::Later(pause) => {
                    let woken = self.work.wait_timeout(state, pause);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                Job::None => {
                    state = self
                        .work
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let uplink = state.shelves.get(&kind).and_then(|shelf| shelf.uplink);
            let plan = state.plan(&kind);
            drop(state);
            let made = plan.and_then(|plan| maker.make(plan));
            state = self.lock();
            state.put(&kind, uplink, made);
            self.ready.notify_all();
        }
    }
}

enum Job {
    Make(Kind),
    Later(Duration),
    None,
}

/// The interface of a namespace to be made; none for a bare one.
type Plan = Option<(Uplink, String)>;

impl State {
    /// Chooses the interface's name, which is remembered before it exists.
    fn plan(&mut self, kind: &Kind) -> Result<Plan, Error> {
        let Some(shelf) = self.shelves.get_mut(kind) else {
            return Ok(None);
        };
        let Some(uplink) = shelf.uplink else {
            return Ok(None);
        };
        let name = host_interface()?;
        shelf.names.insert(name.clone());
        Ok(Some((uplink, name)))
    }

    /// Puts the slot onto its shelf, unless its network was removed, or got
    /// another bridge, while it was made.
    fn put(&mut self, kind: &Kind, uplink: Option<Uplink>, made: Result<Slot, Error>) {
        let shelf = self.shelves.get_mut(kind);
        let Some(shelf) = shelf.filter(|shelf| shelf.uplink == uplink) else {
            return;
        };
        match made {
            Ok(slot) => shelf.slots.push_back(slot),
            Err(failure) => shelf.failure = Some(failure),
        }
    }

    /// Those who wait come first, then the emptiest shelf.
    fn next_job(&self) -> Job {
        let mut shelves = self.shelves.iter();
        if let Some((kind, _)) =
            shelves.find(|(_, s)| s.waiting > s.slots.len() && s.failure.is_none())
        {
            return Job::Make(kind.clone());
        }
        let emptiest = self
            .shelves
            .iter()
            .filter(|(_, shelf)| shelf.slots.len() < self.target && shelf.failure.is_none())
            .min_by_key(|(_, shelf)| shelf.slots.len());
        let Some((kind, shelf)) = emptiest else {
            return Job::None;
        };
        let pause = PAUSE.saturating_sub(self.last_take.elapsed());
        if shelf.slots.len() < self.target / 2 || pause.is_zero() {
            Job::Make(kind.clone())
        } else {
            Job::Later(pause)
        }
    }
}

/// Makes namespaces; used on its own thread only.
#[derive(Debug)]
struct Maker {
    /// The engine's own namespace.
    home: OwnedFd,
    host: Handle,
}

impl Maker {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            home: own_namespace()?,
            host: Handle::open()?,
        })
    }

    fn make(&mut self, plan: Plan) -> Result<Slot, Error> {
        // Should an earlier return have failed, this one must not.
        self.go_home()?;
        let inside = new_namespace();
        self.go_home()?;
        let (namespace, mut inside) = inside?;
        let plug = plan
            .map(|(uplink, name)| self.plug(uplink, name, &namespace, &mut inside))
            .transpose()?;
        Ok(Slot {
            namespace,
            inside,
            plug,
        })
    }

    fn go_home(&self) -> Result<(), Error> {
        move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::kernel("return to the engine's network namespace", e))
    }

    /// Connects the namespace with the bridge. The far end is made where it
    /// belongs: moving an interface between namespaces would wait for RCU.
    fn plug(
        &mut self,
        uplink: Uplink,
        name: String,
        namespace: &OwnedFd,
        inside: &mut Handle,
    ) -> Result<Plug, Error> {
        self.host.batch(&[route::create_veth(
            &name,
            uplink.bridge,
            uplink.mtu,
            INTERFACE,
            namespace.as_fd(),
        )])?;
        // A port of a bridge has no use for addresses of its own.
        sysctl::disable_ipv6(&name, true)?;
        self.host.batch(&[route::set_up_named(&name)])?;
        inside.batch(&[route::set_up_named(INTERFACE)])?;
        let link = inside.link(INTERFACE)?.ok_or_else(|| {
            Error::kernel(
                format!("look for interface {INTERFACE}"),
                io::ErrorKind::NotFound,
            )
        })?;
        Ok(Plug {
            index: link.index,
            host_interface: name,
        })
    }
}

/// Leaves the thread in the new namespace.
fn new_namespace() -> Result<(OwnedFd, Handle), Error> {
    berth_sys::netns::unshare_network()
        .map_err(|e| Error::kernel("create a network namespace", e))?;
    let namespace = own_namespace()?;
    // CVE-2024-32473: without this, interfaces configure themselves for IPv6 on
    // a network that has none by the user's wish. Loopback keeps ::1.
    sysctl::disable_ipv6("all", true)?;
    sysctl::disable_ipv6("lo", false)?;
    sysctl::announce_addresses()?;
    let mut inside = Handle::open()?;
    inside.batch(&[route::set_up(LOOPBACK)])?;
    Ok((namespace, inside))
}

fn own_namespace() -> Result<OwnedFd, Error> {
    let path = "/proc/thread-self/ns/net";
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|e| Error::kernel(format!("open {path}"), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_we_know_again() {
        assert!(is_host_interface(&host_interface().unwrap()));
        for other in [
            "bv",
            "bv1234567",
            "bv123456789",
            "bv1234567G",
            "veth1234567",
            "bv1234567A",
        ] {
            assert!(!is_host_interface(other), "{other}");
        }
    }
}
