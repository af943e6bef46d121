//! `POST /containers/create`.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Error;
use berth_api::container::{Config, CreateRequest, CreateResponse, HostConfig};
use berth_store::{Image, Snapshot};

use super::{Container, MountRecord, Record, names, validate};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::spec::{mounts, process, security};
use crate::{files, health, images, time};

/// Names tried before giving up.
const ATTEMPTS: usize = 6;

impl Engine {
    pub async fn container_create(
        &self,
        name: &str,
        platform: &str,
        request: CreateRequest,
    ) -> Result<CreateResponse, Error> {
        let (engine, name, platform) = (self.clone(), name.to_owned(), platform.to_owned());
        blocking(move || engine.create(&name, &platform, request)).await
    }

    fn create(
        &self,
        name: &str,
        platform: &str,
        request: CreateRequest,
    ) -> Result<CreateResponse, Error> {
        let mut warnings = Vec::new();
        let CreateRequest {
            mut config,
            mut host_config,
            networking_config,
        } = request;
        if config.image.is_empty() {
            return Err(Error::invalid("no image specified"));
        }
        let image = self.image_to_run(&config.image, platform)?;
        self.0.store.touch(&image.id);
        merge_image(&mut config, &images::config_of(&image)?);
        if config
            .entrypoint
            .as_ref()
            .is_none_or(|words| words.is_empty())
            && config.cmd.as_ref().is_none_or(|words| words.is_empty())
        {
            return Err(Error::invalid("no command specified"));
        }
        self.fill_defaults(&config, &mut host_config, &mut warnings);
        validate::check(&config, &host_config, &self.0.host)?;
        let (address, mac) = endpoint_wishes(&host_config, &config, networking_config)?;
        // By identifier, so that a rename changes nothing. One that does not
        // exist is the start's error: a 404 here makes clients pull the image.
        for mode in [
            &mut host_config.network_mode,
            &mut host_config.pid_mode,
            &mut host_config.ipc_mode,
        ] {
            if let Some(Ok(other)) = mode.strip_prefix("container:").map(|name| self.find(name)) {
                *mode = format!("container:{}", other.id);
            }
        }
        // Nobody removes a volume between the look and the container's own claim.
        let _volumes = has_mounts(&config, &host_config).then(|| self.0.volumes.gate());
        let inherited = self.inherited_mounts(&host_config)?;
        let mounts = mounts::parse(&config, &host_config, inherited)?;
        let id =
            files::random_id().map_err(|error| Error::system(format!("make an ID: {error}")))?;
        self.fill_hostname(&mut config, &host_config, &id)?;
        let mut words = config
            .entrypoint
            .iter()
            .flat_map(|w| w.iter())
            .chain(config.cmd.iter().flat_map(|w| w.iter()))
            .cloned();
        let path = words.next().unwrap_or_default();
        let args = words.collect();
        let name = self.reserve_name(name, &id)?;
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: time::now(),
            image: image.id.clone(),
            image_config: image.config_digest.clone(),
            config,
            host_config,
            path,
            args,
            mounts,
            wanted_address: address,
            wanted_mac: mac,
            ..Record::default()
        };
        match self.put(record, &image) {
            Ok(container) => {
                self.index_mut().insert(container.clone());
                let record = container.record().clone();
                self.container_event(&record, "create", &[]);
                Ok(CreateResponse { id, warnings })
            }
            Err(error) => {
                self.index_mut().release(&name, &id);
                let _ = self.0.store.remove_snapshot(&id);
                Err(error)
            }
        }
    }

    /// `--volumes-from`: what other containers have mounted, the later ones
    /// first.
    fn inherited_mounts(&self, host: &HostConfig) -> Result<Vec<MountRecord>, Error> {
        let mut list: Vec<MountRecord> = Vec::new();
        for text in host.volumes_from.iter().flatten() {
            let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
            let read_only = mounts::inherit_mode(mode)?;
            let other = self.find(name)?;
            let theirs = other.record().mounts.clone();
            for mount in theirs {
                if mount.point.r#type != "tmpfs" {
                    list.retain(|have| have.point.destination != mount.point.destination);
                    list.push(mounts::inherit(mount, read_only));
                }
            }
        }
        Ok(list)
    }

    /// Writes everything; visible by the last step, a rename.
    fn put(&self, mut record: Record, image: &Image) -> Result<Arc<Container>, Error> {
        let snapshot = self
            .0
            .store
            .create_snapshot(&record.id, image, (0, 0))
            .api()?;
        let made = self
            .0
            .volumes
            .provide(&mut record.mounts, || self.merged_image(image))?;
        let container = self.write_down(record, &snapshot).inspect_err(|_| {
            self.0.volumes.take_back(&made);
        })?;
        for name in made {
            self.volume_event(&name, "create");
        }
        Ok(container)
    }

    fn write_down(&self, record: Record, snapshot: &Snapshot) -> Result<Arc<Container>, Error> {
        // Programs look for it to learn that they are in a container.
        let mark = snapshot.upper.join(".dockerenv");
        std::fs::File::create(&mark).map_err(|error| io("make", &mark, &error))?;
        let dir = self.containers_dir().join(&record.id);
        let making = self.containers_dir().join(format!(".new-{}", record.id));
        files::make_dir(&making, 0o710).map_err(|error| io("make", &making, &error))?;
        let written = record.save(&making).and_then(|()| {
            std::fs::rename(&making, &dir).map_err(|error| io("make", &dir, &error))
        });
        if let Err(error) = written {
            let _ = std::fs::remove_dir_all(&making);
            return Err(error);
        }
        Ok(Arc::new(Container::new(dir, record)))
    }

    fn reserve_name(&self, name: &str, id: &str) -> Result<String, Error> {
        if !name.is_empty() {
            let name = names::check(name)?;
            self.index_mut().reserve(name, id)?;
            return Ok(name.to_owned());
        }
        for attempt in 0..ATTEMPTS {
            let mut bits = [0; 2];
            rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::system(format!("choose a name: {error}")))?;
            let name = names::random(bits, attempt);
            let mut index = self.index_mut();
            if !index.has_name(&name) {
                index.reserve(&name, id)?;
                return Ok(name);
            }
        }
        let name = id.get(..12).unwrap_or(id).to_owned();
        self.index_mut().reserve(&name, id)?;
        Ok(name)
    }

    pub(crate) fn fill_defaults(
        &self,
        config: &Config,
        host: &mut HostConfig,
        warnings: &mut Vec<String>,
    ) {
        let daemon = &self.0.config;
        if matches!(host.network_mode.as_str(), "" | "default") {
            host.network_mode = "bridge".into();
        }
        if config.network_disabled {
            host.network_mode = "none".into();
        }
        if host.ipc_mode.is_empty() {
            host.ipc_mode.clone_from(&daemon.default_ipc_mode);
        }
        if host.cgroupns_mode.is_empty() {
            host.cgroupns_mode = match daemon.default_cgroupns_mode.as_str() {
                "" if self.0.host.cgroup_v2 => "private".into(),
                "" => "host".into(),
                mode => mode.to_owned(),
            };
        }
        if host.shm_size == 0 {
            host.shm_size = daemon.default_shm_size;
        }
        if host.memory > 0 && host.memory_swap == 0 {
            host.memory_swap = host.memory.saturating_mul(2);
        }
        if host.memory_swappiness == Some(-1) {
            host.memory_swappiness = None;
        }
        if host.memory > 0 && !self.0.host.swap {
            warnings.push("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.".into());
            host.memory_swap = -1;
        }
        if host.oom_kill_disable == Some(true) && self.0.host.cgroup_v2 {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".into(),
            );
            host.oom_kill_disable = None;
        }
        if host.memory_swappiness.is_some() && self.0.host.cgroup_v2 {
            warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".into());
            host.memory_swappiness = None;
        }
        host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
        if host.runtime.is_empty() {
            host.runtime = "runc".into();
        }
        if host.restart_policy.name.is_empty() {
            host.restart_policy.name = "no".into();
        }
        let log = &mut host.log_config;
        if log.r#type.is_empty() {
            log.r#type.clone_from(&daemon.log_driver);
        }
        if log.r#type == daemon.log_driver {
            let options = log.config.get_or_insert_default();
            for (key, value) in &daemon.log_opts {
                options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        // Absent = none.
        if !is_open(host) {
            host.masked_paths
                .get_or_insert_with(security::default_masked);
            host.readonly_paths
                .get_or_insert_with(security::default_read_only);
        }
    }

    fn fill_hostname(&self, config: &mut Config, host: &HostConfig, id: &str) -> Result<(), Error> {
        if let Some(other) = host.network_mode.strip_prefix("container:") {
            if !config.hostname.is_empty() {
                return Err(Error::invalid(
                    "conflicting options: hostname and the network mode",
                ));
            }
            if let Ok(other) = self.find(other) {
                let record = other.record();
                config.hostname.clone_from(&record.config.hostname);
                config.domainname.clone_from(&record.config.domainname);
            }
        } else if host.uts_mode == "host" {
            if !config.hostname.is_empty() {
                return Err(Error::invalid(
                    "conflicting options: hostname and the UTS mode",
                ));
            }
            config.hostname.clone_from(&self.0.host.hostname);
        } else if config.hostname.is_empty() {
            config.hostname = if host.network_mode == "host" {
                self.0.host.hostname.clone()
            } else {
                id.get(..12).unwrap_or(id).to_owned()
            };
        }
        Ok(())
    }
}

fn has_mounts(config: &Config, host: &HostConfig) -> bool {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    some(&host.binds)
        || some(&host.volumes_from)
        || host.mounts.as_ref().is_some_and(|list| !list.is_empty())
        || config.volumes.as_ref().is_some_and(|set| !set.is_empty())
}

/// Whether /proc and /sys are left open.
fn is_open(host: &HostConfig) -> bool {
    let options = host.security_opt.as_deref().unwrap_or_default();
    let asked = security::SecurityOptions::parse(options)
        .is_ok_and(|options| options.system_paths_unconfined);
    host.privileged || asked
}

/// Address and MAC from the network settings; what needs user-defined networks
/// is refused.
fn endpoint_wishes(
    host: &HostConfig,
    config: &Config,
    networking: berth_api::container::NetworkingConfig,
) -> Result<(Option<std::net::Ipv4Addr>, Option<String>), Error> {
    let mut mac = Some(config.mac_address.clone()).filter(|mac| !mac.is_empty());
    for (name, settings) in networking.endpoints_config.unwrap_or_default() {
        let own = name == host.network_mode || name == "default";
        if !own {
            if !["bridge", "none", "host"].contains(&name.as_str()) {
                return Err(Error::not_found(format!("network {name} not found")));
            }
            return Err(Error::not_implemented(format!(
                "network {name}: more than one network is not supported yet"
            )));
        }
        if settings.aliases.is_some_and(|list| !list.is_empty()) {
            return Err(Error::invalid(
                "network-scoped alias is supported only for containers in user defined networks",
            ));
        }
        if settings.ipam_config.is_some_and(|ipam| {
            !ipam.ipv4_address.is_empty()
                || !ipam.ipv6_address.is_empty()
                || ipam.link_local_ips.is_some_and(|list| !list.is_empty())
        }) {
            return Err(Error::invalid(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if settings.links.is_some_and(|list| !list.is_empty())
            || settings.driver_opts.is_some_and(|map| !map.is_empty())
        {
            return Err(Error::not_implemented(
                "links and driver options of a network: not supported yet",
            ));
        }
        if !settings.mac_address.is_empty() {
            mac = Some(settings.mac_address);
        }
    }
    if let Some(text) = &mac {
        let valid = text.len() == 17
            && text.split(':').count() == 6
            && text
                .split(':')
                .all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
        if !valid {
            return Err(Error::invalid(format!("{text} is not a valid mac address")));
        }
        if host.network_mode != "bridge" {
            return Err(Error::invalid(
                "conflicting options: mac-address and the network mode",
            ));
        }
    }
    Ok((None, mac))
}

/// Docker's order: what the user gave goes before what the image says.
pub(crate) fn merge_image(config: &mut Config, image: &Config) {
    let text = |own: &mut String, other: &String| {
        if own.is_empty() {
            own.clone_from(other);
        }
    };
    text(&mut config.user, &image.user);
    text(&mut config.working_dir, &image.working_dir);
    text(&mut config.stop_signal, &image.stop_signal);
    for (port, empty) in image.exposed_ports.iter().flatten() {
        config
            .exposed_ports
            .get_or_insert_default()
            .insert(port.clone(), *empty);
    }
    if config.volumes.as_ref().is_some_and(BTreeMap::is_empty) {
        config.volumes = None;
    }
    for (path, empty) in image.volumes.iter().flatten() {
        config
            .volumes
            .get_or_insert_default()
            .insert(path.clone(), *empty);
    }
    for (key, value) in image.labels.iter().flatten() {
        let labels = config.labels.get_or_insert_default();
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let mut env = image.env.clone().unwrap_or_default();
    for entry in config.env.iter().flatten() {
        if entry.contains('=') {
            process::replace_or_append(&mut env, entry);
        } else {
            env.retain(|have| have.split('=').next() != Some(entry));
            env.push(entry.clone());
        }
    }
    config.env = Some(env).filter(|env| !env.is_empty());
    if config
        .entrypoint
        .as_ref()
        .is_none_or(|words| words.is_empty())
    {
        // `--entrypoint ""` is sent as one empty word.
        if config.cmd.as_ref().is_none_or(|words| words.is_empty()) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    } else if config
        .entrypoint
        .as_ref()
        .is_some_and(|words| **words == [String::new()])
    {
        config.entrypoint = None;
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    health::merge(&mut config.healthcheck, image.healthcheck.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_words_go_first() {
        let image = Config {
            env: Some(vec!["A=1".into(), "B=2".into()]),
            cmd: Some(vec!["sh".to_owned()].into()),
            entrypoint: Some(vec!["/entry".to_owned()].into()),
            labels: Some([("l".to_owned(), "image".to_owned())].into()),
            ..Config::default()
        };
        let mut config = Config {
            env: Some(vec!["B=3".into(), "A".into()]),
            cmd: Some(vec!["ls".to_owned()].into()),
            labels: Some([("l".to_owned(), "own".to_owned())].into()),
            ..Config::default()
        };
        merge_image(&mut config, &image);
        assert_eq!(config.env.unwrap(), ["B=3", "A"]);
        assert_eq!(config.cmd.unwrap().0, ["ls"]);
        assert_eq!(config.entrypoint.unwrap().0, ["/entry"]);
        assert_eq!(config.labels.unwrap()["l"], "own");

        let mut cleared = Config {
            entrypoint: Some(vec![String::new()].into()),
            cmd: Some(vec!["ls".to_owned()].into()),
            ..Config::default()
        };
        merge_image(&mut cleared, &image);
        assert!(cleared.entrypoint.is_none());
        assert_eq!(cleared.cmd.unwrap().0, ["ls"]);
    }
}
