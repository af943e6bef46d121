//! Containers: configuration, creation, listing, inspection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::network::EndpointSettings;
use crate::{Empty, StringOrList};

/// Go's `map[string]string` and `map[string]struct{}`.
pub type Labels = BTreeMap<String, String>;
pub type Set = BTreeMap<String, Empty>;

go_struct! {
    /// What does not depend on the host: `Config`.
    pub struct Config {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        exposed_ports: Option<Set>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Option<Vec<String>>,
        cmd: Option<StringOrList>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        healthcheck: Option<Healthcheck>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        args_escaped: bool,
        image: String,
        volumes: Option<Set>,
        working_dir: String,
        entrypoint: Option<StringOrList>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        network_disabled: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        mac_address: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        on_build: Option<Vec<String>>,
        labels: Option<Labels>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        stop_signal: String,
        /// Seconds.
        #[serde(skip_serializing_if = "crate::go::is_default")]
        stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        shell: Option<StringOrList>,
    }
}

go_struct! {
    /// Durations in nanoseconds.
    pub struct Healthcheck {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        test: Vec<String>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        interval: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        timeout: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        start_period: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        start_interval: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        retries: i64,
    }
}

go_struct! {
    /// What depends on the host: `HostConfig` with its `Resources`.
    pub struct HostConfig {
        binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfig,
        network_mode: String,
        port_bindings: Option<PortMap>,
        restart_policy: RestartPolicy,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: Option<Vec<String>>,
        /// Rows, columns.
        console_size: [u32; 2],
        #[serde(skip_serializing_if = "crate::go::is_default")]
        annotations: Option<Labels>,
        cap_add: Option<StringOrList>,
        cap_drop: Option<StringOrList>,
        cgroupns_mode: String,
        dns: Option<Vec<String>>,
        dns_options: Option<Vec<String>>,
        dns_search: Option<Vec<String>>,
        extra_hosts: Option<Vec<String>>,
        group_add: Option<Vec<String>>,
        ipc_mode: String,
        cgroup: String,
        links: Option<Vec<String>>,
        oom_score_adj: i64,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: Option<Vec<String>>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        storage_opt: Option<Labels>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        tmpfs: Option<Labels>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        sysctls: Option<Labels>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        runtime: String,
        isolation: String,
        cpu_shares: i64,
        /// Bytes.
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Option<Vec<WeightDevice>>,
        blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        /// Microseconds.
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Option<Vec<DeviceMapping>>,
        device_cgroup_rules: Option<Vec<String>>,
        device_requests: Option<Vec<DeviceRequest>>,
        #[serde(skip_serializing_if = "crate::go::is_default", rename = "KernelMemoryTCP")]
        kernel_memory_tcp: i64,
        memory_reservation: i64,
        /// Memory and swap together; -1 = no limit on swap.
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Option<Vec<Ulimit>>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        mounts: Option<Vec<Mount>>,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        init: Option<bool>,
    }
}

/// "80/tcp" → where it is published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

go_struct! {
    pub struct PortBinding {
        host_ip: String,
        host_port: String,
    }
}

go_struct! {
    pub struct LogConfig {
        r#type: String,
        config: Option<Labels>,
    }
}

go_struct! {
    /// `name`: "", "no", "always", "unless-stopped", "on-failure".
    pub struct RestartPolicy {
        name: String,
        maximum_retry_count: i64,
    }
}

go_struct! {
    pub struct WeightDevice {
        path: String,
        weight: u16,
    }
}

go_struct! {
    pub struct ThrottleDevice {
        path: String,
        rate: u64,
    }
}

go_struct! {
    pub struct DeviceMapping {
        path_on_host: String,
        path_in_container: String,
        cgroup_permissions: String,
    }
}

go_struct! {
    pub struct DeviceRequest {
        driver: String,
        count: i64,
        #[serde(rename = "DeviceIDs")]
        device_ids: Option<Vec<String>>,
        capabilities: Option<Vec<Vec<String>>>,
        options: Option<Labels>,
    }
}

go_struct! {
    pub struct Ulimit {
        name: String,
        hard: i64,
        soft: i64,
    }
}

go_struct! {
    pub struct Mount {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        r#type: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        source: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        target: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        read_only: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        consistency: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        image_options: Option<ImageOptions>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        tmpfs_options: Option<TmpfsOptions>,
    }
}

go_struct! {
    pub struct BindOptions {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        propagation: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        non_recursive: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        create_mountpoint: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        read_only_force_recursive: bool,
    }
}

go_struct! {
    pub struct VolumeOptions {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        no_copy: bool,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        labels: Option<Labels>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        subpath: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        driver_config: Option<VolumeDriver>,
    }
}

go_struct! {
    pub struct VolumeDriver {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        name: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        options: Option<Labels>,
    }
}

go_struct! {
    pub struct ImageOptions {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        subpath: String,
    }
}

go_struct! {
    pub struct TmpfsOptions {
        /// Bytes; 0 = no limit.
        #[serde(skip_serializing_if = "crate::go::is_default")]
        size_bytes: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        mode: u32,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        options: Option<Vec<Vec<String>>>,
    }
}

go_struct! {
    pub struct NetworkingConfig {
        endpoints_config: Option<BTreeMap<String, EndpointSettings>>,
    }
}

/// Body of `POST /containers/create`: `Config` with two more fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest {
    #[serde(flatten)]
    pub config: Config,
    #[serde(
        rename = "HostConfig",
        default,
        deserialize_with = "crate::go::nullable"
    )]
    pub host_config: HostConfig,
    #[serde(
        rename = "NetworkingConfig",
        default,
        deserialize_with = "crate::go::nullable"
    )]
    pub networking_config: NetworkingConfig,
}

go_struct! {
    pub struct CreateResponse {
        id: String,
        warnings: Vec<String>,
    }
}

go_struct! {
    /// `status`: created, running, paused, restarting, removing, exited, dead.
    pub struct State {
        status: String,
        running: bool,
        paused: bool,
        restarting: bool,
        #[serde(rename = "OOMKilled")]
        oom_killed: bool,
        dead: bool,
        pid: i64,
        exit_code: i64,
        error: String,
        /// RFC 3339 with nanoseconds; "0001-01-01T00:00:00Z" = never.
        started_at: String,
        finished_at: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        health: Option<Health>,
    }
}

go_struct! {
    pub struct Health {
        status: String,
        failing_streak: i64,
        log: Option<Vec<HealthResult>>,
    }
}

go_struct! {
    pub struct HealthResult {
        start: String,
        end: String,
        exit_code: i64,
        output: String,
    }
}

go_struct! {
    /// Reply of `GET /containers/{id}/json`.
    pub struct Inspect {
        id: String,
        created: String,
        path: String,
        args: Vec<String>,
        state: State,
        image: String,
        resolv_conf_path: String,
        hostname_path: String,
        hosts_path: String,
        log_path: String,
        name: String,
        restart_count: i64,
        driver: String,
        platform: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        image_manifest_descriptor: Option<Descriptor>,
        mount_label: String,
        process_label: String,
        app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        exec_ids: Option<Vec<String>>,
        host_config: HostConfig,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        storage: Option<serde_json::Value>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        size_rw: Option<i64>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        size_root_fs: Option<i64>,
        mounts: Vec<MountPoint>,
        config: Config,
        network_settings: NetworkSettings,
    }
}

go_struct! {
    /// OCI content descriptor.
    pub struct Descriptor {
        #[serde(rename = "mediaType")]
        media_type: String,
        #[serde(rename = "digest")]
        digest: String,
        #[serde(rename = "size")]
        size: i64,
        #[serde(rename = "annotations", skip_serializing_if = "crate::go::is_default")]
        annotations: Option<Labels>,
        #[serde(rename = "platform", skip_serializing_if = "crate::go::is_default")]
        platform: Option<Platform>,
    }
}

go_struct! {
    pub struct Platform {
        #[serde(rename = "architecture")]
        architecture: String,
        #[serde(rename = "os")]
        os: String,
        #[serde(rename = "os.version", skip_serializing_if = "crate::go::is_default")]
        os_version: String,
        #[serde(rename = "variant", skip_serializing_if = "crate::go::is_default")]
        variant: String,
    }
}

go_struct! {
    pub struct MountPoint {
        r#type: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        name: String,
        source: String,
        destination: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        driver: String,
        mode: String,
        #[serde(rename = "RW")]
        rw: bool,
        propagation: String,
    }
}

go_struct! {
    pub struct NetworkSettings {
        #[serde(rename = "SandboxID")]
        sandbox_id: String,
        sandbox_key: String,
        ports: PortMap,
        networks: BTreeMap<String, EndpointSettings>,
    }
}

go_struct! {
    /// One row of `GET /containers/json`.
    pub struct Summary {
        id: String,
        names: Vec<String>,
        image: String,
        #[serde(rename = "ImageID")]
        image_id: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        image_manifest_descriptor: Option<Descriptor>,
        command: String,
        /// Seconds since 1970.
        created: i64,
        ports: Vec<Port>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        size_rw: Option<i64>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        size_root_fs: Option<i64>,
        labels: Labels,
        state: String,
        status: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        health: Option<SummaryHealth>,
        host_config: SummaryHostConfig,
        network_settings: SummaryNetworks,
        mounts: Vec<MountPoint>,
    }
}

go_struct! {
    pub struct SummaryHealth {
        status: String,
        failing_streak: i64,
    }
}

go_struct! {
    pub struct SummaryHostConfig {
        network_mode: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        annotations: Option<Labels>,
    }
}

go_struct! {
    pub struct SummaryNetworks {
        networks: BTreeMap<String, EndpointSettings>,
    }
}

go_struct! {
    pub struct Port {
        #[serde(rename = "IP", skip_serializing_if = "crate::go::is_default")]
        ip: String,
        private_port: u16,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        public_port: u16,
        r#type: String,
    }
}

go_struct! {
    /// Reply of `POST /containers/{id}/wait`.
    pub struct WaitResponse {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        error: Option<WaitError>,
        status_code: i64,
    }
}

go_struct! {
    pub struct WaitError {
        message: String,
    }
}

/// When `POST /containers/{id}/wait` replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// At once when the container is not running.
    #[default]
    NotRunning,
    /// At the next exit.
    NextExit,
    /// When it has been removed.
    Removed,
}

go_struct! {
    pub struct Top {
        titles: Vec<String>,
        processes: Vec<Vec<String>>,
    }
}

go_struct! {
    /// Body of `POST /containers/{id}/update`; zero and null mean "as before".
    pub struct Update {
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        blkio_weight: u16,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        memory_reservation: i64,
        memory_swap: i64,
        pids_limit: Option<i64>,
        restart_policy: Option<RestartPolicy>,
    }
}

go_struct! {
    pub struct UpdateResponse {
        warnings: Option<Vec<String>>,
    }
}

go_struct! {
    /// Reply of `POST /containers/prune`.
    pub struct PruneReport {
        containers_deleted: Option<Vec<String>>,
        space_reclaimed: u64,
    }
}
