//! What differs between API versions: requests are brought to the newest form
//! before the engine sees them, replies to the client's form after.

use berth_api::container::{CreateRequest, Summary};
use berth_api::event::Event;
use berth_api::exec::ExecConfig;
use berth_api::progress::Progress;
use berth_api::usage::DiskUsage;
use berth_api::version::ApiVersion;
use berth_api::{Error, image};
use serde::Serialize;
use serde_json::{Map, Value, json};

const fn v(minor: u16) -> ApiVersion {
    ApiVersion(1, minor)
}

/// Drops or translates what a version's clients did not know. Returns warnings.
pub(crate) fn create_request(
    version: ApiVersion,
    request: &mut CreateRequest,
) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    let host = &mut request.host_config;
    if version < v(40) && host.ipc_mode.is_empty() {
        // Private by default came with 1.40.
        host.ipc_mode = "shareable".to_owned();
    }
    if version < v(41) {
        host.cgroupns_mode.clear();
    }
    if version < v(42) {
        host.console_size = [0, 0];
    }
    if version < v(43) {
        host.annotations = None;
    }
    if version < v(44) {
        if let Some(health) = &mut request.config.healthcheck {
            health.start_interval = 0;
        }
        let networks = request.networking_config.endpoints_config.iter().flatten();
        let names: Vec<_> = networks.map(|(name, _)| name.as_str()).collect();
        if names.len() > 1 {
            return Err(Error::invalid(format!(
                "Container cannot be connected to network endpoints: {}",
                names.join(", ")
            )));
        }
    }
    for mount in host.mounts.iter_mut().flatten() {
        if version < v(44) {
            // Read-only was not recursive.
            if mount.r#type == "bind" && mount.read_only {
                mount
                    .bind_options
                    .get_or_insert_default()
                    .read_only_non_recursive = true;
            }
        }
        if version < v(45)
            && let Some(volume) = &mut mount.volume_options
        {
            volume.subpath.clear();
        }
        if version < v(46)
            && let Some(tmpfs) = &mut mount.tmpfs_options
        {
            tmpfs.options = None;
        }
        if version < v(48) && mount.r#type == "image" {
            return Err(Error::invalid(format!(
                "mounts of type image need API version 1.48, the request is of version {version}"
            )));
        }
    }
    for endpoint in request
        .networking_config
        .endpoints_config
        .iter_mut()
        .flatten()
        .map(|(_, endpoint)| endpoint)
    {
        if version < v(48) {
            endpoint.gw_priority = 0;
        }
    }
    if !request.config.mac_address.is_empty() {
        let address = std::mem::take(&mut request.config.mac_address);
        if version < v(52) {
            container_wide_mac(version, request, address, &mut warnings);
        }
    }
    Ok(warnings)
}

/// Moves the address that once belonged to the whole container to its network.
fn container_wide_mac(
    version: ApiVersion,
    request: &mut CreateRequest,
    address: String,
    warnings: &mut Vec<String>,
) {
    let mode = request.host_config.network_mode.clone();
    let network = if mode.is_empty() || mode == "default" {
        "bridge".to_owned()
    } else {
        mode
    };
    if matches!(network.as_str(), "host" | "none") || network.starts_with("container:") {
        return;
    }
    let endpoints = request
        .networking_config
        .endpoints_config
        .get_or_insert_default();
    let endpoint = match endpoints.get_mut("default") {
        Some(endpoint) => endpoint,
        None => endpoints.entry(network).or_default(),
    };
    if endpoint.mac_address.is_empty() {
        endpoint.mac_address = address;
    }
    if version >= v(44) {
        warnings.push(
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
                .to_owned(),
        );
    }
}

pub(crate) fn exec_config(version: ApiVersion, config: &mut ExecConfig) {
    if version < v(42) {
        config.console_size = None;
    }
    if !config.tty {
        config.console_size = None;
    }
}

pub(crate) fn container_summary(version: ApiVersion, row: &mut Summary) {
    if version < v(46) {
        row.host_config.annotations = None;
    }
    if version < v(48) {
        row.image_manifest_descriptor = None;
    }
    if version < v(52) {
        row.health = None;
    }
}

fn value<T: Serialize>(reply: &T) -> Result<Value, Error> {
    serde_json::to_value(reply)
        .map_err(|error| Error::system(format!("cannot write the reply as JSON: {error}")))
}

/// `GET /containers/{id}/json`: fields that left with 1.52 come back.
pub(crate) fn container_inspect(
    version: ApiVersion,
    inspect: &berth_api::container::Inspect,
) -> Result<Value, Error> {
    let mut reply = value(inspect)?;
    if version >= v(52) {
        return Ok(reply);
    }
    reply["GraphDriver"] = json!({"Data": null, "Name": inspect.driver});
    if let Some(reply) = reply.as_object_mut() {
        reply.remove("Storage");
        if version < v(48) {
            reply.remove("ImageManifestDescriptor");
        }
    }
    let networks = &inspect.network_settings.networks;
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    reply["Config"]["MacAddress"] = json!(
        networks
            .get(&inspect.host_config.network_mode)
            .unwrap_or(&bridge)
            .mac_address
    );
    let old = json!({
        "Bridge": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": bridge.global_ipv6_address,
        "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len,
        "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len,
        "IPv6Gateway": bridge.ipv6_gateway,
        "MacAddress": bridge.mac_address,
    });
    if let (Some(settings), Value::Object(old)) = (reply["NetworkSettings"].as_object_mut(), old) {
        settings.extend(old);
    }
    Ok(reply)
}

pub(crate) fn image_summary(version: ApiVersion, row: &mut image::Summary) {
    if version < v(44) {
        row.virtual_size = Some(row.size);
    }
    if version < v(43) && row.repo_tags.is_empty() && row.repo_digests.is_empty() {
        row.repo_tags = vec!["<none>:<none>".to_owned()];
        row.repo_digests = vec!["<none>@<none>".to_owned()];
    }
    if version < v(47) {
        row.manifests = None;
    }
    if version < v(48) {
        row.descriptor = None;
    }
    if version < v(51) {
        row.containers = -1;
    }
}

/// `GET /images/{name}/json`: from 1.50 on, the configuration holds only what
/// an image can say, from 1.52 on only what this one says.
pub(crate) fn image_inspect(version: ApiVersion, inspect: &image::Inspect) -> Result<Value, Error> {
    /// What an image may configure.
    const FIELDS: [&str; 14] = [
        "ArgsEscaped",
        "Cmd",
        "Entrypoint",
        "Env",
        "ExposedPorts",
        "Healthcheck",
        "Labels",
        "Memory",
        "OnBuild",
        "Shell",
        "StopSignal",
        "User",
        "Volumes",
        "WorkingDir",
    ];
    /// What of it is there even if it is empty, before 1.52.
    const ALWAYS: [&str; 8] = [
        "Cmd",
        "Entrypoint",
        "Env",
        "Labels",
        "OnBuild",
        "User",
        "Volumes",
        "WorkingDir",
    ];
    let mut reply = value(inspect)?;
    if version < v(44) {
        reply["VirtualSize"] = json!(inspect.size);
    }
    if version < v(48)
        && let Some(reply) = reply.as_object_mut()
    {
        reply.remove("Descriptor");
        reply.remove("Manifests");
    }
    if let Some(config) = reply["Config"].as_object_mut() {
        if version < v(52) {
            config.entry("OnBuild").or_insert(Value::Null);
        }
        if version >= v(50) {
            let stays = |field: &str| version < v(52) && ALWAYS.contains(&field);
            config.retain(|field, value| {
                FIELDS.contains(&field.as_str()) && (!is_empty(value) || stays(field))
            });
        }
    }
    if version < v(52)
        && let Some(reply) = reply.as_object_mut()
    {
        for field in ["DockerVersion", "Parent"] {
            reply.entry(field).or_insert_with(|| json!(""));
        }
        reply.insert(
            "GraphDriver".to_owned(),
            json!({"Data": null, "Name": "overlayfs"}),
        );
    }
    Ok(reply)
}

/// Go's `omitempty`.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.is_empty(),
        Value::Number(value) => value.as_f64() == Some(0.0),
    }
}

pub(crate) fn info(version: ApiVersion, reply: &mut Map<String, Value>) {
    if version < v(49) {
        reply.remove("FirewallBackend");
    }
    if version < v(50) {
        for field in ["BridgeNfIptables", "BridgeNfIp6tables"] {
            reply.insert(field.to_owned(), json!(false));
        }
    }
    if version < v(48) {
        for field in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            if let Some(commit) = reply.get_mut(field).and_then(Value::as_object_mut) {
                let id = commit.get("ID").cloned().unwrap_or_default();
                commit.insert("Expected".to_owned(), id);
            }
        }
    }
}

/// `GET /system/df`: one list each below 1.52; both forms at 1.52, unless
/// `verbose` says that the client knows the new one.
pub(crate) fn disk_usage(
    version: ApiVersion,
    mut usage: DiskUsage,
    verbose: bool,
) -> Result<Value, Error> {
    let mut old = Map::new();
    if version < v(52) || version < v(53) && !verbose {
        let images = usage.image_usage.as_ref();
        if let Some(images) = images {
            old.insert("LayersSize".to_owned(), json!(images.total_size));
        }
        let mut rows = images.and_then(|usage| usage.items.clone());
        for row in rows.iter_mut().flatten() {
            // Counted here in all versions, in lists only in newer ones.
            let count = row.containers;
            image_summary(version, row);
            row.containers = count;
        }
        let containers = usage.container_usage.as_ref();
        let mut list = containers.and_then(|usage| usage.items.clone());
        for row in list.iter_mut().flatten() {
            container_summary(version, row);
        }
        let volumes = usage.volume_usage.as_ref();
        let cache = usage.build_cache_usage.as_ref();
        old.insert("Images".to_owned(), json!(rows));
        old.insert("Containers".to_owned(), json!(list));
        old.insert(
            "Volumes".to_owned(),
            json!(volumes.and_then(|usage| usage.items.as_ref())),
        );
        old.insert(
            "BuildCache".to_owned(),
            json!(cache.and_then(|usage| usage.items.as_ref())),
        );
    }
    if version < v(52) {
        return Ok(Value::Object(old));
    }
    if !verbose {
        if let Some(usage) = &mut usage.image_usage {
            usage.items = None;
        }
        if let Some(usage) = &mut usage.container_usage {
            usage.items = None;
        }
        if let Some(usage) = &mut usage.volume_usage {
            usage.items = None;
        }
        if let Some(usage) = &mut usage.build_cache_usage {
            usage.items = None;
        }
    }
    let mut reply = value(&usage)?;
    if let Value::Object(reply) = &mut reply {
        reply.extend(old);
    }
    Ok(reply)
}

/// `status`, `id` and `from` left with 1.52.
pub(crate) fn event(version: ApiVersion, event: &mut Event) {
    if version >= v(52) {
        event.status.clear();
        event.id.clear();
        event.from.clear();
        return;
    }
    if matches!(event.r#type.as_str(), "container" | "image") {
        event.status.clone_from(&event.action);
        event.id.clone_from(&event.actor.id);
    }
    if event.r#type == "container" {
        event.from = event
            .actor
            .attributes
            .get("image")
            .cloned()
            .unwrap_or_default();
    }
}

/// The drawn bar left with 1.48. `error` was to leave, too, but Docker still
/// sends it, and clients (docker-py) look at nothing else.
pub(crate) fn progress(version: ApiVersion, line: &mut Progress) {
    if let Some(error) = &line.error_detail {
        line.error.clone_from(&error.message);
    }
    if version >= v(48) {
        line.progress.clear();
        return;
    }
    if line.progress.is_empty()
        && let Some(detail) = &line.detail
        && detail.total > 0
    {
        line.progress = bar(detail.current, detail.total);
    }
}

/// "[=====>    ]  5B/10B", fifty cells wide.
fn bar(current: i64, total: i64) -> String {
    let filled = (current.clamp(0, total) as f64 / total as f64 * 50.0) as usize;
    let arrow = if filled < 50 { ">" } else { "" };
    format!(
        "[{}{arrow}{}]  {current}B/{total}B",
        "=".repeat(filled),
        " ".repeat(50_usize.saturating_sub(filled + arrow.len())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::container::{self, Mount};
    use berth_api::network::EndpointSettings;

    #[test]
    fn old_clients_get_the_fields_they_know() {
        let mut inspect = container::Inspect::default();
        inspect.network_settings.networks.insert(
            "bridge".to_owned(),
            EndpointSettings {
                ip_address: "172.17.0.2".to_owned(),
                ..Default::default()
            },
        );
        let old = container_inspect(v(51), &inspect).unwrap();
        assert_eq!(old["NetworkSettings"]["IPAddress"], "172.17.0.2");
        assert!(old.get("GraphDriver").is_some());
        let new = container_inspect(v(52), &inspect).unwrap();
        assert!(new["NetworkSettings"].get("IPAddress").is_none());
        assert!(new.get("GraphDriver").is_none());

        let mut row = image::Summary {
            size: 5,
            ..Default::default()
        };
        image_summary(v(43), &mut row);
        assert_eq!((row.virtual_size, row.repo_tags.len()), (Some(5), 0));
        image_summary(v(42), &mut row);
        assert_eq!(row.repo_tags, ["<none>:<none>"]);
    }

    #[test]
    fn events_carry_old_fields_below_1_52() {
        let mut sample = Event {
            r#type: "container".to_owned(),
            action: "start".to_owned(),
            ..Default::default()
        };
        sample.actor.id = "abc".to_owned();
        sample
            .actor
            .attributes
            .insert("image".to_owned(), "busybox".to_owned());
        event(v(51), &mut sample);
        assert_eq!(
            (&*sample.status, &*sample.id, &*sample.from),
            ("start", "abc", "busybox")
        );
        event(v(52), &mut sample);
        assert!(sample.status.is_empty() && sample.id.is_empty() && sample.from.is_empty());
    }

    #[test]
    fn create_requests_lose_what_their_version_lacks() {
        let mut request = CreateRequest::default();
        request.config.mac_address = "02:00:00:00:00:01".to_owned();
        request.host_config.mounts = Some(vec![Mount {
            r#type: "bind".to_owned(),
            read_only: true,
            ..Default::default()
        }]);
        let mut old = request.clone();
        assert_eq!(create_request(v(43), &mut old).unwrap().len(), 0);
        let mount = &old.host_config.mounts.as_ref().unwrap()[0];
        assert!(mount.bind_options.as_ref().unwrap().read_only_non_recursive);
        let endpoints = old.networking_config.endpoints_config.unwrap();
        assert_eq!(endpoints["bridge"].mac_address, "02:00:00:00:00:01");

        let mut middle = request.clone();
        assert_eq!(create_request(v(51), &mut middle).unwrap().len(), 1);
        create_request(v(55), &mut request).unwrap();
        assert!(request.config.mac_address.is_empty());
        assert_eq!(request.networking_config.endpoints_config, None);

        let networks = [("a", Default::default()), ("b", Default::default())];
        request.networking_config.endpoints_config =
            Some(networks.map(|(n, e)| (n.to_owned(), e)).into());
        assert!(create_request(v(44), &mut request).is_ok());
        assert!(create_request(v(43), &mut request).is_err());
    }

    #[test]
    fn image_configurations_are_trimmed() {
        let inspect = image::Inspect {
            config: Some(container::Config {
                env: Some(vec!["A=b".to_owned()]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let new = image_inspect(v(55), &inspect).unwrap();
        assert_eq!(new["Config"], json!({"Env": ["A=b"]}));
        assert!(new.get("Parent").is_none());
        let middle = image_inspect(v(51), &inspect).unwrap();
        assert_eq!(
            middle["Config"],
            json!({"Cmd": null, "Entrypoint": null, "Env": ["A=b"], "Labels": null,
                   "OnBuild": null, "User": "", "Volumes": null, "WorkingDir": ""})
        );
        assert_eq!(middle["Parent"], "");
        let old = image_inspect(v(49), &inspect).unwrap();
        assert!(old["Config"].get("Hostname").is_some());
    }

    #[test]
    fn bars() {
        assert!(bar(5, 10).starts_with("[=========================>  "));
        assert!(bar(10, 10).contains("==]  10B/10B"));
        assert!(bar(-1, 10).starts_with("[>"));
    }
}
