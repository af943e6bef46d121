//! JSON progress streams: pull, push, load, import, build.

go_struct! {
    /// One line. A failure after the headers is a line with `error_detail`.
    pub struct Progress {
        #[serde(rename = "stream", skip_serializing_if = "crate::go::is_default")]
        stream: String,
        #[serde(rename = "status", skip_serializing_if = "crate::go::is_default")]
        status: String,
        #[serde(rename = "progressDetail", skip_serializing_if = "crate::go::is_default")]
        detail: Option<Detail>,
        /// Sent below 1.48 only: a drawn bar.
        #[serde(rename = "progress", skip_serializing_if = "crate::go::is_default")]
        progress: String,
        #[serde(rename = "id", skip_serializing_if = "crate::go::is_default")]
        id: String,
        #[serde(rename = "errorDetail", skip_serializing_if = "crate::go::is_default")]
        error_detail: Option<ErrorDetail>,
        /// Sent below 1.48 only.
        #[serde(rename = "error", skip_serializing_if = "crate::go::is_default")]
        error: String,
        #[serde(rename = "aux", skip_serializing_if = "crate::go::is_default")]
        aux: Option<serde_json::Value>,
    }
}

go_struct! {
    pub struct Detail {
        #[serde(rename = "current", skip_serializing_if = "crate::go::is_default")]
        current: i64,
        #[serde(rename = "total", skip_serializing_if = "crate::go::is_default")]
        total: i64,
    }
}

go_struct! {
    pub struct ErrorDetail {
        #[serde(rename = "code", skip_serializing_if = "crate::go::is_default")]
        code: i64,
        #[serde(rename = "message")]
        message: String,
    }
}
