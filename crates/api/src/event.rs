//! `GET /events`.

use crate::container::Labels;

go_struct! {
    /// `status`, `id` and `from` are sent to clients below 1.52 only.
    pub struct Event {
        #[serde(rename = "status", skip_serializing_if = "crate::go::is_default")]
        status: String,
        #[serde(rename = "id", skip_serializing_if = "crate::go::is_default")]
        id: String,
        #[serde(rename = "from", skip_serializing_if = "crate::go::is_default")]
        from: String,
        r#type: String,
        action: String,
        actor: Actor,
        #[serde(rename = "scope", skip_serializing_if = "crate::go::is_default")]
        scope: String,
        /// Seconds and nanoseconds since 1970.
        #[serde(rename = "time")]
        time: i64,
        #[serde(rename = "timeNano")]
        time_nano: i64,
    }
}

go_struct! {
    pub struct Actor {
        #[serde(rename = "ID")]
        id: String,
        attributes: Labels,
    }
}
