//! Registries: credentials, search, what a name stands for there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::container::{Descriptor, Platform};

/// The header that carries an [`AuthConfig`], in base64url.
pub const AUTH_HEADER: &str = "x-registry-auth";

/// Credentials, as in the header and the body of `POST /auth`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    #[serde(deserialize_with = "crate::go::nullable")]
    pub username: String,
    #[serde(deserialize_with = "crate::go::nullable")]
    pub password: String,
    /// "username:password" in base64, in place of the two.
    #[serde(deserialize_with = "crate::go::nullable")]
    pub auth: String,
    /// The registry they are for; empty is the one that is asked.
    #[serde(deserialize_with = "crate::go::nullable")]
    pub serveraddress: String,
    /// OAuth refresh token.
    #[serde(deserialize_with = "crate::go::nullable")]
    pub identitytoken: String,
    /// Bearer token, sent as it is.
    #[serde(deserialize_with = "crate::go::nullable")]
    pub registrytoken: String,
}

// Never a secret in a log.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

go_struct! {
    /// Reply of `POST /auth`.
    pub struct AuthResponse {
        identity_token: String,
        status: String,
    }
}

go_struct! {
    /// One row of `GET /images/search`.
    pub struct SearchResult {
        #[serde(rename = "star_count")]
        star_count: i64,
        #[serde(rename = "is_official")]
        is_official: bool,
        #[serde(rename = "name")]
        name: String,
        /// Always false: Docker Hub no longer says.
        #[serde(rename = "is_automated")]
        is_automated: bool,
        #[serde(rename = "description")]
        description: String,
    }
}

go_struct! {
    /// Reply of `GET /distribution/{name}/json`.
    pub struct DistributionInspect {
        descriptor: Descriptor,
        platforms: Option<Vec<Platform>>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_leniently_and_never_shown() {
        let auth: AuthConfig = serde_json::from_str(
            r#"{"username":"me","password":"secret","email":null,"identitytoken":null}"#,
        )
        .unwrap();
        assert_eq!((&*auth.username, &*auth.password), ("me", "secret"));
        assert!(!format!("{auth:?}").contains("secret"));
    }
}
