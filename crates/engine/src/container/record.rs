//! What is stored of a container: `config.json`.

use std::path::Path;

use berth_api::Error;
use berth_api::container::{Config, Health, HostConfig, Labels, MountPoint};
use berth_network::Endpoint;
use serde::{Deserialize, Serialize};

use crate::{error, files, health, time};

/// Everything about a container that outlives the engine. A field added later
/// has a default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// Without the leading slash.
    pub(crate) name: String,
    pub(crate) created: String,
    /// The image's identifier; empty for none.
    pub(crate) image: String,
    /// Its configuration blob, which some clients use as identifier.
    pub(crate) image_config: String,
    /// Merged with the image's.
    pub(crate) config: Config,
    /// With the defaults filled in.
    pub(crate) host_config: HostConfig,
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    pub(crate) mounts: Vec<MountRecord>,
    pub(crate) state: State,
    pub(crate) restart_count: i64,
    /// A person stopped it: `unless-stopped` does not start it again.
    pub(crate) stopped_by_hand: bool,
    /// On the default bridge, from before the start until after the end.
    pub(crate) endpoint: Option<Endpoint>,
    /// The address and MAC the user asked for.
    pub(crate) wanted_address: Option<std::net::Ipv4Addr>,
    pub(crate) wanted_mac: Option<String>,
}

/// A mount as inspected, and what building it needs besides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MountRecord {
    pub(crate) point: MountPoint,
    /// Made with the container and removed with it (`rm -v`, `--rm`).
    pub(crate) anonymous: bool,
    pub(crate) non_recursive: bool,
    pub(crate) read_only_non_recursive: bool,
    pub(crate) read_only_force_recursive: bool,
    /// Of a volume that is made with the container.
    pub(crate) labels: Option<Labels>,
    /// Options of a tmpfs.
    pub(crate) options: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) running: bool,
    pub(crate) paused: bool,
    /// Waiting for its next start; `running` is true then too, as in Docker.
    pub(crate) restarting: bool,
    pub(crate) removing: bool,
    pub(crate) dead: bool,
    pub(crate) oom_killed: bool,
    pub(crate) pid: i64,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    /// Of a container with health checks that has been started.
    pub(crate) health: Option<Health>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            running: false,
            paused: false,
            restarting: false,
            removing: false,
            dead: false,
            oom_killed: false,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            started_at: time::NEVER.into(),
            finished_at: time::NEVER.into(),
            health: None,
        }
    }
}

impl State {
    /// created, running, paused, restarting, removing, exited, dead.
    pub(crate) fn status(&self) -> &'static str {
        if self.running {
            return match (self.paused, self.restarting) {
                (true, _) => "paused",
                (_, true) => "restarting",
                _ => "running",
            };
        }
        if self.removing {
            "removing"
        } else if self.dead {
            "dead"
        } else if self.started_at == time::NEVER {
            "created"
        } else {
            "exited"
        }
    }

    /// The STATUS column of `docker ps`; `now` in seconds since 1970.
    pub(crate) fn text(&self, now: i64) -> String {
        let since = |text: &str| {
            time::parse(text)
                .map_or_else(String::new, |at| time::human_duration(now - at.as_second()))
        };
        if self.running {
            return if self.paused {
                format!("Up {} (Paused)", since(&self.started_at))
            } else if self.restarting {
                format!(
                    "Restarting ({}) {} ago",
                    self.exit_code,
                    since(&self.finished_at)
                )
            } else if let Some(health) = &self.health {
                let up = since(&self.started_at);
                format!("Up {up} ({})", health::shown(health))
            } else {
                format!("Up {}", since(&self.started_at))
            };
        }
        if self.removing {
            "Removal In Progress".into()
        } else if self.dead {
            "Dead".into()
        } else if self.started_at == time::NEVER {
            "Created".into()
        } else if self.finished_at == time::NEVER {
            String::new()
        } else {
            format!(
                "Exited ({}) {} ago",
                self.exit_code,
                since(&self.finished_at)
            )
        }
    }
}

impl Record {
    pub(crate) fn save(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join("config.json");
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::system(format!("encode {}: {error}", path.display())))?;
        files::replace(&path, &bytes, 0o600).map_err(|error| error::io("write", &path, &error))
    }

    /// "bridge", "none", "host" or "container:<id>".
    pub(crate) fn network(&self) -> &str {
        &self.host_config.network_mode
    }

    pub(crate) fn hostname(&self) -> &str {
        &self.config.hostname
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts_are_dockers() {
        let at = |seconds: i64| time::format(jiff::Timestamp::from_second(seconds).unwrap());
        let mut state = State::default();
        assert_eq!(
            (state.status(), state.text(0)),
            ("created", "Created".into())
        );
        state.running = true;
        state.started_at = at(100);
        assert_eq!(state.text(103), "Up 3 seconds");
        state.paused = true;
        assert_eq!(
            (state.status(), state.text(105)),
            ("paused", "Up 5 seconds (Paused)".into())
        );
        state.paused = false;
        state.restarting = true;
        state.exit_code = 3;
        state.finished_at = at(110);
        assert_eq!(state.text(111), "Restarting (3) 1 second ago");
        state.running = false;
        state.restarting = false;
        state.exit_code = 0;
        assert_eq!(
            (state.status(), state.text(230)),
            ("exited", "Exited (0) 2 minutes ago".into())
        );
    }
}
