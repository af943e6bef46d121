//! Making a container, seen from the parent.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_cgroup::Entry;
use berth_seccomp::Program;
use berth_sys::clone::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUSER, CLONE_NEWUTS};
use oci_spec::runtime::{ContainerState, Hook, Hooks, Linux, Process, Spec};
use rustix::process::Signal;

use crate::child;
use crate::error::{Context as _, Error, Result};
use crate::hooks::{self, Place, State};
use crate::idmap::{self, Users};
use crate::listener::{self, Listener};
use crate::mounts::{self, Prepared, Setting};
use crate::namespaces::{self, Namespaces, Side};
use crate::netdev;
use crate::options;
use crate::process::Goal;
use crate::rdt::Rdt;
use crate::rootfs;
use crate::security;
use crate::steps::Clock;
use crate::sync::{self, Message, ParentEnd};
use crate::sysctl;
use crate::{Create, Created, Root, Started};

/// The whole container, checked and opened before its process exists: what can be
/// refused is refused here, in the host's view, with nothing to undo.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) request: &'a Create<'a>,
    pub(crate) process: &'a Process,
    linux: &'a Linux,
    pub(crate) namespaces: Namespaces,
    pub(crate) root: OwnedFd,
    pub(crate) mounts: Vec<Prepared>,
    pub(crate) propagation: (u64, bool),
    pub(crate) entry: Option<Entry>,
    /// See [`Rdt::tasks`].
    pub(crate) rdt_tasks: Vec<OwnedFd>,
    /// File below /proc, value.
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) state: State,
    pub(crate) goal: Goal<'a>,
    listener: Option<Listener>,
    net_devices: Vec<netdev::Device>,
}

impl<'a> Plan<'a> {
    fn new(request: &'a Create<'a>, seccomp: Option<&'a Program>) -> Result<Self> {
        let spec = request.spec;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::invalid("process is missing"))?;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| Error::invalid("linux is missing"))?;
        if linux.intel_rdt().is_some() && request.rdt.is_none() {
            return Err(Error::invalid("linux.intelRdt is not supported here"));
        }
        let net_devices = match linux.net_devices() {
            Some(devices) => netdev::devices(devices)?,
            None => Vec::new(),
        };
        security::check_labels(process, linux.mount_label().as_deref())?;
        let mut goal = Goal::new(process, Some(linux), seccomp)?;
        goal.descriptors = request.inherit.descriptors;
        let listener = match request.root {
            Root::Bundle(bundle) => Listener::new(spec, request.id, bundle)?,
            Root::Mount(_) => None,
        };
        listener::check(seccomp, listener.as_ref())?;
        let namespaces = Namespaces::open(linux, request.network)?;
        check_names(spec, &namespaces)?;
        if !net_devices.is_empty() && !namespaces.is_separate(CLONE_NEWNET) {
            return Err(Error::invalid(
                "linux.netDevices need a network namespace to go to",
            ));
        }
        let own = sysctl::Own {
            ipc: namespaces.is_separate(CLONE_NEWIPC),
            network: namespaces.is_separate(CLONE_NEWNET),
            uts: namespaces.is_separate(CLONE_NEWUTS),
        };
        let sysctls = linux.sysctl().iter().flatten();
        let sysctls = sysctls
            .map(|(key, value)| Ok((sysctl::path(key, value, own)?, value.clone())))
            .collect::<Result<_>>()?;
        let setting = Setting {
            bundle: match request.root {
                Root::Bundle(path) => Some(path),
                Root::Mount(_) => None,
            },
            cgroup: request.cgroup.map(berth_cgroup::Cgroup::path),
            own_cgroup_namespace: namespaces.is_separate(CLONE_NEWCGROUP),
            own_user_namespace: namespaces.is_separate(CLONE_NEWUSER),
            apart: namespaces.is_separate(CLONE_NEWUSER),
            users: match namespaces.joins(CLONE_NEWUSER) {
                Some(joined) => Some(Users::Namespace(joined.as_fd())),
                None if namespaces.is_new(CLONE_NEWUSER) => Some(Users::Maps(
                    linux.uid_mappings().as_deref().unwrap_or_default(),
                    linux.gid_mappings().as_deref().unwrap_or_default(),
                )),
                None => None,
            },
            sources: request.sources,
        };
        let entry = request.cgroup.map(berth_cgroup::Cgroup::entry).transpose();
        Ok(Self {
            request,
            process,
            linux,
            // First, for mountinfo lists mounts by age, and "/" is to be its head.
            root: rootfs::prepare(&request.root, spec)?,
            mounts: mounts::prepare(spec, &setting)?,
            propagation: options::root_propagation(
                linux.rootfs_propagation().as_deref().unwrap_or_default(),
            )?,
            namespaces,
            entry: entry.map_err(|error| {
                Error::step(
                    "open the control group",
                    std::io::Error::other(error.to_string()),
                )
            })?,
            rdt_tasks: request.rdt.map(Rdt::tasks).transpose()?.unwrap_or_default(),
            sysctls,
            state: State::new(spec, request.id, &request.root),
            goal,
            listener,
            net_devices,
        })
    }

    pub(crate) fn linux(&self) -> &'a Linux {
        self.linux
    }

    pub(crate) fn hooks(&self) -> Option<&'a Hooks> {
        self.request.spec.hooks().as_ref()
    }

    /// `prestart` is the old name of `createRuntime`.
    fn runtime_hooks(&self) -> [(&'static str, Option<&'a Vec<Hook>>); 2] {
        let prestart = self.hooks().and_then(|hooks| hooks.prestart().as_ref());
        let create = self
            .hooks()
            .and_then(|hooks| hooks.create_runtime().as_ref());
        [("prestart", prestart), ("createRuntime", create)]
    }

    /// Whether the parent has something to do once the namespaces are complete.
    pub(crate) fn waits_for_hooks(&self) -> bool {
        let has_hooks = |hooks: Option<&Vec<Hook>>| hooks.is_some_and(|hooks| !hooks.is_empty());
        !self.net_devices.is_empty() || self.runtime_hooks().iter().any(|(_, h)| has_hooks(*h))
    }

    fn move_devices(&self, pid: u32) -> Result<()> {
        if self.net_devices.is_empty() {
            return Ok(());
        }
        let network = namespaces::open(Path::new(&format!("/proc/{pid}/ns/net")))?;
        netdev::move_all(&self.net_devices, network.as_fd())
    }

    /// Where the root filesystem is on the host, when it has a path.
    pub(crate) fn root_directory(&self) -> Option<PathBuf> {
        let Root::Bundle(bundle) = self.request.root else {
            return None;
        };
        let root = self.request.spec.root().as_ref()?;
        Some(bundle.join(root.path()))
    }

    pub(crate) fn is_root_read_only(&self) -> bool {
        self.request
            .spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false)
    }
}

fn check_names(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if (named(spec.hostname()) || named(spec.domainname())) && !namespaces.is_separate(CLONE_NEWUTS)
    {
        return Err(Error::invalid(
            "a host or domain name needs a UTS namespace: it would be the host's",
        ));
    }
    Ok(())
}

/// See [`crate::create`].
pub(crate) fn create(request: &Create<'_>) -> Result<Created> {
    let mut clock = Clock::start();
    let section = request
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let compiled = match (request.seccomp, section) {
        (None, Some(section)) => Some(
            berth_seccomp::compile(section)
                .map_err(|error| Error::invalid(format!("linux.seccomp: {error}")))?,
        ),
        _ => None,
    };
    let plan = Plan::new(request, request.seccomp.or(compiled.as_ref()))?;
    clock.mark("runtime: plan");
    let (parent, child) = sync::pair()?;
    let (pid, pidfd, staged) = match plan.namespaces.spawn(plan.entry.as_ref(), &child)? {
        Side::Child { staged, in_cgroup } => {
            drop(parent);
            child::run(&plan, &child, staged, in_cgroup)
        }
        Side::Parent { pid, pidfd, staged } => (pid, pidfd, staged),
    };
    drop(child);
    clock.mark("runtime: clone");
    let mut creation = Creation {
        plan: &plan,
        sync: parent,
        process: Some(Started {
            pid,
            pidfd,
            console: None,
        }),
        made: Vec::new(),
    };
    if staged {
        creation.meet()?;
    }
    let at_gate = creation.watch(&mut clock)?;
    clock.mark("runtime: user to exec");
    let process = creation
        .process
        .take()
        .ok_or_else(|| Error::invalid("the container has no process"))?;
    let poststart = plan
        .hooks()
        .and_then(|hooks| hooks.poststart().clone())
        .unwrap_or_default();
    let parting = Parting {
        poststart,
        state: plan.state.clone(),
        listener: plan.listener.clone(),
    };
    if at_gate {
        let sync = creation.sync.0.try_clone().step(|| "keep the gate")?;
        return Ok(Created {
            process,
            steps: clock.into_steps(),
            made: std::mem::take(&mut creation.made),
            gate: Some((ParentEnd(sync), parting)),
        });
    }
    parting.run(&process)?;
    Ok(Created {
        process,
        steps: clock.into_steps(),
        made: std::mem::take(&mut creation.made),
        gate: None,
    })
}

/// A container being made. Dropped before it is whole, it takes its process along.
struct Creation<'p, 'a> {
    plan: &'p Plan<'a>,
    sync: ParentEnd,
    process: Option<Started>,
    made: Vec<String>,
}

impl Creation<'_, '_> {
    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.pid)
    }

    /// The process held so far is the stage: it introduces the real one and ends.
    fn meet(&mut self) -> Result<()> {
        loop {
            match self.sync.next()? {
                Some(Message::Spawned(pid, pidfd)) => {
                    let real = Started {
                        pid,
                        pidfd,
                        console: None,
                    };
                    if let Some(stage) = self.process.replace(real) {
                        berth_sys::exec::reap(stage.pidfd.as_fd());
                    }
                    return self.sync.go();
                }
                // The stage goes into the control group before it joins a namespace.
                Some(Message::Attach) => {
                    attach(self.plan.request.cgroup, self.pid())?;
                    self.sync.go()?;
                }
                Some(Message::Failed(error)) => return Err(error),
                other => return Err(unexpected(other.as_ref())),
            }
        }
    }

    /// Answers the child until its program runs, or it waits at the gate (true).
    fn watch(&mut self, clock: &mut Clock) -> Result<bool> {
        loop {
            match self.sync.next()? {
                None => return Ok(false),
                Some(Message::Steps(steps)) => clock.extend(steps),
                Some(Message::Made(paths)) => self.made = paths,
                Some(Message::Gate) => return Ok(true),
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::Console(master)) => {
                    if let Some(process) = &mut self.process {
                        process.console = Some(master);
                    }
                }
                Some(Message::Attach) => {
                    attach(self.plan.request.cgroup, self.pid())?;
                    self.sync.go()?;
                }
                Some(Message::Map) => {
                    self.write_maps()?;
                    self.sync.go()?;
                }
                Some(Message::Hooks) => {
                    self.plan.move_devices(self.pid())?;
                    for (name, hooks) in self.plan.runtime_hooks() {
                        let pid = self.pid();
                        let status = ContainerState::Creating;
                        hooks::run(Place::Runtime, name, hooks, &self.plan.state, status, pid)?;
                    }
                    self.sync.go()?;
                }
                Some(Message::Listener(number)) => {
                    let (process, listener) = (&self.process, &self.plan.listener);
                    if let (Some(process), Some(listener)) = (process, listener) {
                        let status = ContainerState::Creating;
                        listener.hand_over(process, number, process.pid, status)?;
                    }
                    self.sync.go()?;
                }
                Some(other @ Message::Spawned(..)) => return Err(unexpected(Some(&other))),
            }
        }
    }

    fn write_maps(&self) -> Result<()> {
        let linux = self.plan.linux();
        if let Some(score) = self.plan.process.oom_score_adj() {
            child::write_oom_score(&self.pid().to_string(), score)?;
        }
        idmap::write(
            self.pid(),
            linux.uid_mappings().as_deref().unwrap_or_default(),
            linux.gid_mappings().as_deref().unwrap_or_default(),
        )
    }
}

impl Drop for Creation<'_, '_> {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            end(process);
        }
    }
}

fn unexpected(message: Option<&Message>) -> Error {
    Error::step(
        match message {
            None => "hear from the container's first process: it ended".to_owned(),
            Some(message) => format!("hear from the container's first process: {message:?}"),
        },
        rustix::io::Errno::PROTO,
    )
}

/// Has a process moved that may not enter the group by itself.
pub(crate) fn attach(group: Option<&berth_cgroup::Cgroup>, pid: u32) -> Result<()> {
    group
        .map_or(Ok(()), |group| group.attach(pid))
        .map_err(|error| Error::invalid(error.to_string()))
}

/// Kills and reaps.
pub(crate) fn end(process: &Started) {
    let _ = rustix::process::pidfd_send_signal(&process.pidfd, Signal::KILL);
    berth_sys::exec::reap(process.pidfd.as_fd());
}

/// What is left to do when the program has started.
#[derive(Debug)]
pub(crate) struct Parting {
    poststart: Vec<Hook>,
    state: State,
    listener: Option<Listener>,
}

impl Parting {
    /// A poststart hook that fails stops the container.
    fn run(&self, process: &Started) -> Result<()> {
        let (hooks, status) = (Some(&self.poststart), ContainerState::Running);
        hooks::run(
            Place::Runtime,
            "poststart",
            hooks,
            &self.state,
            status,
            process.pid,
        )
        .inspect_err(|_| end(process))
    }
}

/// See [`Created::start`].
pub(crate) fn start(created: &mut Created) -> Result<()> {
    let Some((sync, parting)) = created.gate.take() else {
        return Ok(());
    };
    let opened = sync.go().and_then(|()| {
        loop {
            match (sync.next()?, &parting.listener) {
                (None, _) => return Ok(()),
                (Some(Message::Failed(error)), _) => return Err(error),
                (Some(Message::Listener(number)), Some(listener)) => {
                    let process = &created.process;
                    listener.hand_over(process, number, process.pid, ContainerState::Created)?;
                    sync.go()?;
                }
                (other, _) => return Err(unexpected(other.as_ref())),
            }
        }
    });
    if let Err(error) = opened {
        end(&created.process);
        return Err(error);
    }
    parting.run(&created.process)
}
