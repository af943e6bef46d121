//! Further processes in a running container.

go_struct! {
    /// Body of `POST /containers/{id}/exec`.
    pub struct ExecConfig {
        user: String,
        privileged: bool,
        tty: bool,
        /// Rows, columns.
        console_size: Option<[u32; 2]>,
        attach_stdin: bool,
        attach_stderr: bool,
        attach_stdout: bool,
        detach_keys: String,
        env: Option<Vec<String>>,
        working_dir: String,
        cmd: Vec<String>,
    }
}

go_struct! {
    pub struct ExecCreated {
        id: String,
    }
}

go_struct! {
    /// Body of `POST /exec/{id}/start`.
    pub struct ExecStart {
        detach: bool,
        tty: bool,
        console_size: Option<[u32; 2]>,
    }
}

go_struct! {
    /// Reply of `GET /exec/{id}/json`.
    pub struct ExecInspect {
        #[serde(rename = "ID")]
        id: String,
        running: bool,
        exit_code: Option<i64>,
        process_config: ProcessConfig,
        open_stdin: bool,
        open_stderr: bool,
        open_stdout: bool,
        can_remove: bool,
        #[serde(rename = "ContainerID")]
        container_id: String,
        detach_keys: String,
        pid: i64,
    }
}

go_struct! {
    pub struct ProcessConfig {
        #[serde(rename = "tty")]
        tty: bool,
        #[serde(rename = "entrypoint")]
        entrypoint: String,
        #[serde(rename = "arguments")]
        arguments: Vec<String>,
        #[serde(rename = "privileged", skip_serializing_if = "crate::go::is_default")]
        privileged: Option<bool>,
        #[serde(rename = "user", skip_serializing_if = "crate::go::is_default")]
        user: String,
    }
}
