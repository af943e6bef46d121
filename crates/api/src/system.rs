//! `GET /version` and `GET /info`.

use std::collections::BTreeMap;

use crate::container::Labels;

go_struct! {
    pub struct Version {
        platform: PlatformName,
        version: String,
        api_version: String,
        #[serde(rename = "MinAPIVersion")]
        min_api_version: String,
        os: String,
        arch: String,
        components: Vec<Component>,
        git_commit: String,
        go_version: String,
        kernel_version: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        experimental: bool,
        build_time: String,
    }
}

go_struct! {
    pub struct PlatformName {
        name: String,
    }
}

go_struct! {
    pub struct Component {
        name: String,
        version: String,
        details: Option<Labels>,
    }
}

go_struct! {
    pub struct Info {
        #[serde(rename = "ID")]
        id: String,
        containers: i64,
        containers_running: i64,
        containers_paused: i64,
        containers_stopped: i64,
        images: i64,
        driver: String,
        driver_status: Vec<[String; 2]>,
        docker_root_dir: String,
        plugins: Plugins,
        memory_limit: bool,
        swap_limit: bool,
        #[serde(rename = "CpuCfsPeriod")]
        cpu_cfs_period: bool,
        #[serde(rename = "CpuCfsQuota")]
        cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        cpu_set: bool,
        pids_limit: bool,
        oom_kill_disable: bool,
        #[serde(rename = "IPv4Forwarding")]
        ipv4_forwarding: bool,
        debug: bool,
        #[serde(rename = "NFd")]
        n_fd: i64,
        n_goroutines: i64,
        system_time: String,
        logging_driver: String,
        cgroup_driver: String,
        cgroup_version: String,
        n_events_listener: i64,
        kernel_version: String,
        operating_system: String,
        #[serde(rename = "OSVersion")]
        os_version: String,
        #[serde(rename = "OSType")]
        os_type: String,
        architecture: String,
        index_server_address: String,
        registry_config: Option<serde_json::Value>,
        #[serde(rename = "NCPU")]
        n_cpu: i64,
        mem_total: i64,
        generic_resources: Option<Vec<serde_json::Value>>,
        http_proxy: String,
        https_proxy: String,
        no_proxy: String,
        name: String,
        labels: Vec<String>,
        experimental_build: bool,
        server_version: String,
        runtimes: BTreeMap<String, Runtime>,
        default_runtime: String,
        swarm: Swarm,
        live_restore_enabled: bool,
        isolation: String,
        init_binary: String,
        containerd_commit: Commit,
        runc_commit: Commit,
        init_commit: Commit,
        security_options: Vec<String>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        default_address_pools: Option<Vec<serde_json::Value>>,
        firewall_backend: Option<FirewallBackend>,
        #[serde(rename = "CDISpecDirs")]
        cdi_spec_dirs: Option<Vec<String>>,
        warnings: Option<Vec<String>>,
    }
}

go_struct! {
    pub struct Plugins {
        volume: Vec<String>,
        network: Vec<String>,
        authorization: Option<Vec<String>>,
        log: Vec<String>,
    }
}

go_struct! {
    pub struct Runtime {
        #[serde(rename = "path")]
        path: String,
    }
}

go_struct! {
    pub struct Swarm {
        #[serde(rename = "NodeID")]
        node_id: String,
        node_addr: String,
        local_node_state: String,
        control_available: bool,
        error: String,
        remote_managers: Option<Vec<serde_json::Value>>,
    }
}

go_struct! {
    pub struct Commit {
        #[serde(rename = "ID")]
        id: String,
    }
}

go_struct! {
    pub struct FirewallBackend {
        driver: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        info: Option<Vec<[String; 2]>>,
    }
}
