//! `RUN --mount`: what a step sees besides its root.

use std::fs::Permissions;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::{Error, Kind};
use berth_build::apply;
use berth_build::graph::{Input, Mount, MountKind};
use berth_build::solve::{self, Step};
use berth_build::tree::{Tree, Value};
use berth_monitor::protocol;
use berth_store::Digest;
use oci_spec::runtime;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::layer;
use super::place::Place;
use crate::build::Ask;
use crate::build::caches::Cache;
use crate::build::peer::forward_agent;
use crate::build::session::{Session, failed};
use crate::error::{IntoApi as _, blocking, io};
use crate::rootfs;
use crate::spec::mounts::mount;
use crate::volumes;

/// Bytes of a secret, as BuildKit has it.
const MAX_SECRET: u64 = 500 << 10;

/// The mounts of a step, ready.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) list: Vec<runtime::Mount>,
    pub(super) trees: Vec<protocol::Tree>,
    /// A tmpfs with the secrets, for [`protocol::TreeFrom::Given`].
    pub(super) given: Option<OwnedFd>,
    /// Variables.
    pub(super) env: Vec<(String, String)>,
    /// The first socket of an SSH agent.
    pub(super) agent: Option<String>,
    /// What serves the sockets, for as long as the step runs.
    pub(super) servers: JoinSet<()>,
}

pub(super) async fn prepare(
    session: &Session,
    place: &Arc<Place>,
    step: &Step,
) -> Result<Mounts, solve::Error> {
    let mut mounts = Mounts::default();
    for (number, mount) in step.exec.mounts.iter().enumerate() {
        mounts.add(session, place, step, number, mount).await?;
    }
    Ok(mounts)
}

impl Mounts {
    async fn add(
        &mut self,
        session: &Session,
        place: &Arc<Place>,
        step: &Step,
        number: usize,
        wanted: &Mount,
    ) -> Result<(), solve::Error> {
        let target = wanted.target.as_str();
        let access = if wanted.read_only { "ro" } else { "rw" };
        match &wanted.kind {
            MountKind::Bind { from, source } => {
                let layers = layers_of(session, step, *from).await?;
                let (session, place, read_only) =
                    (session.clone(), place.clone(), wanted.read_only);
                let from = blocking(move || bind(&session, &place, &layers, read_only))
                    .await
                    .map_err(failed)?;
                self.list.push(mount(
                    target,
                    "bind",
                    "tree",
                    &["rbind", "rprivate", access],
                ));
                self.trees.push(protocol::Tree {
                    target: target.into(),
                    from,
                    path: source.into(),
                });
            }
            MountKind::Cache {
                id,
                sharing,
                from,
                source,
                mode,
                uid,
                gid,
            } => {
                let caches = &session.engine.0.builder.caches;
                let cache = caches.take(id, *sharing).await.map_err(failed)?;
                let data = cache.data();
                if !data.exists() {
                    let layers = match from {
                        Some(_) => Some(layers_of(session, step, *from).await?),
                        None => None,
                    };
                    let (session, source, attributes) =
                        (session.clone(), source.clone(), (*mode, *uid, *gid));
                    let cache = blocking(move || {
                        let layers = layers.as_deref();
                        cache.fill(|| make_cache(&session, &cache, layers, &source, attributes))?;
                        Ok(cache)
                    })
                    .await
                    .map_err(failed)?;
                    place.hold(Box::new(cache));
                } else {
                    place.hold(Box::new(cache));
                }
                let data = data.to_string_lossy();
                self.list
                    .push(mount(target, "bind", &data, &["rbind", "rprivate", access]));
            }
            MountKind::Tmpfs { size } => {
                let size = format!("size={size}");
                let mut options = vec!["nosuid"];
                if size != "size=0" {
                    options.push(&size);
                }
                if wanted.read_only {
                    options.push("ro");
                }
                self.list.push(mount(target, "tmpfs", "tmpfs", &options));
            }
            MountKind::Secret {
                id,
                required,
                mode,
                uid,
                gid,
                file,
                env,
            } => {
                let Some(value) = secret(session, id, *required).await? else {
                    return Ok(());
                };
                if let Some(name) = env {
                    let text = String::from_utf8_lossy(&value).into_owned();
                    if text.contains('\0') {
                        return Err(solve::Error::Invalid(format!(
                            "secret {id} holds a zero byte, which no environment variable can"
                        )));
                    }
                    self.env.push((name.clone(), text));
                }
                if *file {
                    let name = format!("secret-{number}");
                    self.add_file(&name, &value, *mode, *uid, *gid)
                        .map_err(failed)?;
                    let options = ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
                    self.list.push(mount(target, "bind", "tree", &options));
                    self.trees.push(protocol::Tree {
                        target: target.into(),
                        from: protocol::TreeFrom::Given,
                        path: name.into(),
                    });
                }
            }
            MountKind::Ssh {
                id,
                required,
                mode,
                uid,
                gid,
            } => {
                let path = place.dir.join(format!("ssh-{number}"));
                if !self.serve_agent(session, id, *required, &path).await? {
                    return Ok(());
                }
                let set = std::fs::set_permissions(&path, Permissions::from_mode(*mode))
                    .and_then(|()| chown(&path, Some(*uid), Some(*gid)));
                set.map_err(|error| failed(io("set the owner of", &path, &error)))?;
                let source = path.to_string_lossy();
                self.list
                    .push(mount(target, "bind", &source, &["rbind", "rprivate", "rw"]));
                self.agent.get_or_insert_with(|| target.to_owned());
            }
        }
        Ok(())
    }

    /// A file of a tmpfs that is never seen on the host.
    fn add_file(
        &mut self,
        name: &str,
        data: &[u8],
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<(), Error> {
        use std::io::Write as _;
        let make = || -> std::io::Result<OwnedFd> {
            let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(context.as_fd(), "source", "secrets")?;
            fsconfig_set_string(context.as_fd(), "mode", "700")?;
            fsconfig_create(context.as_fd())?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            Ok(fsmount(
                context.as_fd(),
                FsMountFlags::FSMOUNT_CLOEXEC,
                attributes,
            )?)
        };
        let write = |root: &OwnedFd| -> std::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(openat(root, name, flags, Mode::RUSR)?);
            file.write_all(data)?;
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
            Ok(())
        };
        let say = |error| Error::system(format!("make a tmpfs for secrets: {error}"));
        let root = match self.given.take() {
            Some(root) => root,
            None => make().map_err(say)?,
        };
        write(&root).map_err(say)?;
        self.given = Some(root);
        Ok(())
    }

    /// A socket on the host that leads to the client's agent; false if there
    /// is none and none is needed.
    async fn serve_agent(
        &mut self,
        session: &Session,
        id: &str,
        required: bool,
        path: &Path,
    ) -> Result<bool, solve::Error> {
        if !session.request.ssh.iter().any(|given| given == id) {
            return match required {
                true => Err(solve::Error::Invalid(format!(
                    "no SSH key {id:?} forwarded from the client"
                ))),
                false => Ok(false),
            };
        }
        let listener = listen(path).map_err(|error| failed(io("listen on", path, &error)))?;
        let (peer, id) = (session.peer.clone(), id.to_owned());
        self.servers.spawn(forward_agent(listener, peer, id));
        Ok(true)
    }
}

/// However long the path is: an address of a socket has room for 107 bytes.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::fd::AsRawFd as _;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let dir = std::fs::File::open(dir)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    UnixListener::bind(short.join(name))
}

/// None if there is none and none is needed.
async fn secret(
    session: &Session,
    id: &str,
    required: bool,
) -> Result<Option<Vec<u8>>, solve::Error> {
    let missing = || solve::Error::NotFound(format!("secret {id}: not found"));
    let ask = Ask::Secret { id: id.to_owned() };
    let stream = match session.peer.ask(ask).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind, Kind::NotFound | Kind::NotImplemented) => {
            return if required { Err(missing()) } else { Ok(None) };
        }
        Err(error) => return Err(failed(error)),
    };
    let mut value = Vec::new();
    let read = stream.take(MAX_SECRET + 1).read_to_end(&mut value).await;
    read.map_err(|error| solve::Error::System(format!("read the secret {id}: {error}")))?;
    if value.len() as u64 > MAX_SECRET {
        return Err(solve::Error::Invalid(format!(
            "invalid secret size {}: at most {MAX_SECRET} bytes",
            value.len()
        )));
    }
    Ok(Some(value))
}

/// Diff IDs of what an input is, bottom first.
async fn layers_of(
    session: &Session,
    step: &Step,
    from: Option<Input>,
) -> Result<Vec<Digest>, solve::Error> {
    let Some(input) = from else {
        return Ok(Vec::new());
    };
    match step.inputs.get(input) {
        None => Err(solve::Error::System(format!("there is no input {input}"))),
        Some(Value::Root(chain)) => Ok(chain.iter().map(|layer| layer.stored.clone()).collect()),
        Some(Value::Tree(tree)) => {
            let (session, tree) = (session.clone(), tree.clone());
            let time = (!step.keep_times).then_some(step.time);
            let layer = blocking(move || Ok(tree_layer(&session, &tree, time))).await;
            Ok(layer.map_err(failed)??.into_iter().collect())
        }
    }
}

/// A tree as a layer, made once per build. None if it is empty. Blocks.
fn tree_layer(
    session: &Session,
    tree: &Arc<Tree>,
    time: Option<i64>,
) -> Result<Option<Digest>, solve::Error> {
    let mut content = apply::content_of(None, "/", tree)?;
    if time.is_none() {
        content.push_str("+times");
    }
    if let Some(known) = session.trees().get(&content) {
        return Ok(Some(known.clone()));
    }
    let files = session.files()?;
    let made = layer::make_layer(session, &mut |out| {
        apply::tree_layer(&files, tree, "/", time, out)
            .map_err(|error| Error::system(error.to_string()))
    });
    let made = made.map_err(failed)?;
    if let Some(layer) = &made {
        session.trees().insert(content, layer.clone());
    }
    Ok(made)
}

/// Layers as the source of a bind mount. Blocks.
fn bind(
    session: &Session,
    place: &Place,
    layers: &[Digest],
    read_only: bool,
) -> Result<protocol::TreeFrom, Error> {
    if read_only {
        let mut found = session.locate(layers)?;
        if layers.is_empty() {
            // Two of nothing.
            found.extend(found.clone().first().cloned());
        }
        return Ok(protocol::TreeFrom::Layers {
            layers: rootfs::layers(&found),
            options: Vec::new(),
        });
    }
    let key = place.snapshot_key();
    Ok(protocol::TreeFrom::Writable(writable(
        session, &key, layers,
    )?))
}

/// A root filesystem of the step's own. Blocks.
pub(super) fn writable(
    session: &Session,
    key: &str,
    layers: &[Digest],
) -> Result<protocol::RootFs, Error> {
    let store = &session.engine.0.store;
    let mut snapshot = store.create_snapshot_on(key, layers, (0, 0)).api()?;
    if snapshot.layers.is_empty() {
        snapshot.layers.push(berth_store::LayerLocation::Directory(
            session.engine.empty_dir(),
        ));
    }
    Ok(rootfs::describe(&snapshot))
}

/// Fills a new cache: under another name first, for it is there when it is
/// whole. Blocks.
fn make_cache(
    session: &Session,
    cache: &Cache,
    layers: Option<&[Digest]>,
    source: &str,
    (mode, uid, gid): (u32, u32, u32),
) -> Result<(), Error> {
    let data = cache.data();
    let making = |error: std::io::Error| io("make the cache", &data, &error);
    if let Some(layers) = layers.filter(|layers| !layers.is_empty()) {
        let found = session.locate(layers)?;
        let root = session
            .engine
            .0
            .launcher
            .mount(rootfs::layers(&found), Vec::new())?;
        volumes::fill(root.as_fd(), source, &data, true)?;
        if data.exists() {
            return Ok(());
        }
    }
    let new: PathBuf = data.with_extension("new");
    match std::fs::create_dir(&new) {
        // There already: of a try that was killed.
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(making(error));
        }
        _ => {}
    }
    std::fs::set_permissions(&new, Permissions::from_mode(mode & 0o7777))
        .and_then(|()| chown(&new, Some(uid), Some(gid)))
        .map_err(making)?;
    std::fs::rename(&new, &data).map_err(making)
}
