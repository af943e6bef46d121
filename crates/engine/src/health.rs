//! Health checks: a command that is run in the container again and again, and
//! what its exit codes say. The rules are Docker's (`daemon/health.go`).

use std::sync::Arc;
use std::time::Duration;

use berth_api::Error;
use berth_api::container::{Config, Health, HealthResult, Healthcheck};
use berth_api::exec::ExecConfig;
use berth_monitor::protocol::ToMonitor;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::container::{Container, Record};
use crate::engine::Engine;
use crate::time;

pub(crate) const STARTING: &str = "starting";
pub(crate) const HEALTHY: &str = "healthy";
pub(crate) const UNHEALTHY: &str = "unhealthy";

const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: i64 = 3;

/// Bytes of a check's output that are kept.
const MAX_OUTPUT: usize = 4096;
/// Results that are kept.
const MAX_RESULTS: usize = 5;
/// How long the exit code may come after the end of the output, which the
/// monitor announces first; only a monitor that dies takes longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Shortest time that can be asked for.
const MINIMUM: i64 = 1_000_000;

/// Checks what a user asks for.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    let Some(health) = &config.healthcheck else {
        return Ok(());
    };
    for (what, nanoseconds) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if nanoseconds != 0 && nanoseconds < MINIMUM {
            return Err(Error::invalid(format!(
                "{what} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(())
}

/// What the user leaves open comes from the image.
pub(crate) fn merge(own: &mut Option<Healthcheck>, image: Option<&Healthcheck>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (value, other) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *value == 0 {
            *value = other;
        }
    }
}

/// The command that checks; `None` when the container has no check.
fn probe(config: &Config) -> Option<Vec<String>> {
    let test = &config.healthcheck.as_ref()?.test;
    let (kind, words) = test.split_first()?;
    match kind.as_str() {
        "CMD" => Some(words.to_vec()),
        "CMD-SHELL" => {
            let shell = match config.shell.as_ref() {
                Some(shell) if !shell.0.is_empty() => shell.0.clone(),
                _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            };
            Some(shell.into_iter().chain(words.iter().cloned()).collect())
        }
        _ => None,
    }
}

fn duration(nanoseconds: i64, default: Duration) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => default,
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
    }
}

/// The health of a container that has just started.
pub(crate) fn fresh(record: &Record) -> Option<Health> {
    probe(&record.config).map(|_| Health {
        status: STARTING.into(),
        log: Some(
            record
                .state
                .health
                .as_ref()
                .and_then(|health| health.log.clone())
                .unwrap_or_default(),
        ),
        ..Health::default()
    })
}

/// "healthy" as `ps` shows it behind the time.
pub(crate) fn shown(health: &Health) -> &str {
    match health.status.as_str() {
        STARTING => "health: starting",
        status => status,
    }
}

/// Takes a result in; the new status when that changed.
fn apply(
    health: &mut Health,
    check: &Healthcheck,
    result: HealthResult,
    since_start: Duration,
) -> Option<String> {
    let before = health.status.clone();
    let good = result.exit_code == 0;
    let log = health.log.get_or_insert_default();
    log.push(result);
    let old = log.len().saturating_sub(MAX_RESULTS);
    log.drain(..old);
    if good {
        health.failing_streak = 0;
        health.status = HEALTHY.into();
    } else if health.status != STARTING
        || since_start >= duration(check.start_period, Duration::ZERO)
    {
        health.failing_streak += 1;
        let retries = match check.retries {
            ..=0 => DEFAULT_RETRIES,
            retries => retries,
        };
        if health.failing_streak >= retries {
            health.status = UNHEALTHY.into();
        }
    }
    (health.status != before).then(|| health.status.clone())
}

/// Ends the checks of a container when it is dropped.
#[derive(Debug)]
pub(crate) struct Checks(tokio::task::AbortHandle);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    /// Begins the checks of a running container that has some and none under
    /// way, or ends them: after each start, end, pause, and when the engine
    /// finds the container running.
    pub(crate) fn update_health(&self, container: &Arc<Container>) {
        let wanted = {
            let record = container.record();
            let state = &record.state;
            state.running && !state.restarting && !state.paused && probe(&record.config).is_some()
        };
        if !wanted {
            if container.live().checks.take().is_some() {
                // Nobody knows how it is; Docker says this.
                container.change_logged(|record| {
                    if let Some(health) = &mut record.state.health {
                        health.status = UNHEALTHY.into();
                    }
                });
            }
            return;
        }
        let mut live = container.live();
        if live.checks.is_none() {
            let task = tokio::spawn(watch(self.clone(), container.clone()));
            live.checks = Some(Checks(task.abort_handle()));
        }
    }

    /// Runs the check once.
    async fn check_health(
        &self,
        container: &Arc<Container>,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<(i64, String), Error> {
        let config = ExecConfig {
            attach_stdout: true,
            attach_stderr: true,
            cmd,
            ..ExecConfig::default()
        };
        let id = self.exec_create(&container.id, config).await?.id;
        let attached = self.exec_start(&id, false, false, (0, 0)).await?;
        let mut output = Vec::new();
        let finished = match attached.and_then(|attached| attached.stream) {
            Some(mut stream) => {
                let reading = read_output(&mut stream, &mut output);
                tokio::time::timeout(timeout, reading).await.is_ok()
            }
            None => true,
        };
        if !finished {
            if let Some(channel) = container.channel() {
                let exec = Some(id.clone());
                // It may have ended meanwhile.
                let _ = channel
                    .ask(Vec::new(), move |request| ToMonitor::Kill {
                        request,
                        exec,
                        signal: libc::SIGKILL,
                    })
                    .await;
            }
            let message = format!("Health check exceeded timeout ({})", go_duration(timeout));
            return Ok((-1, message));
        }
        let code = self.exec_code(&id, PATIENCE).await.unwrap_or(-1);
        Ok((code, String::from_utf8_lossy(&output).into_owned()))
    }
}

async fn watch(engine: Engine, container: Arc<Container>) {
    let (check, cmd, started_at) = {
        let record = container.record();
        let Some(cmd) = probe(&record.config) else {
            return;
        };
        let check = record.config.healthcheck.clone().unwrap_or_default();
        (check, cmd, time::parse(&record.state.started_at))
    };
    let since_start = |at: Timestamp| {
        started_at.map_or(Duration::MAX, |start| {
            Duration::try_from(at.duration_since(start)).unwrap_or_default()
        })
    };
    let timeout = duration(check.timeout, DEFAULT_TIMEOUT);
    loop {
        let starting = since_start(Timestamp::now()) < duration(check.start_period, Duration::ZERO)
            && container
                .record()
                .state
                .health
                .as_ref()
                .is_some_and(|health| health.status == STARTING);
        tokio::time::sleep(if starting {
            duration(check.start_interval, DEFAULT_START_INTERVAL)
        } else {
            duration(check.interval, DEFAULT_INTERVAL)
        })
        .await;
        let begun = Timestamp::now();
        let (exit_code, output) = engine
            .check_health(&container, cmd.clone(), timeout)
            .await
            .unwrap_or_else(|error| (-1, error.message));
        let result = HealthResult {
            start: time::format(begun),
            end: time::now(),
            exit_code,
            output,
        };
        let changed = container.change_logged(|record| {
            if !record.state.running || record.state.paused || engine.closing() {
                return None;
            }
            let health = record.state.health.get_or_insert_default();
            let status = apply(health, &check, result, since_start(begun))?;
            Some((record.clone(), status))
        });
        if let Some(Some((record, status))) = changed {
            engine.container_event(&record, &format!("health_status: {status}"), &[]);
        }
    }
}

/// The text of both streams, to its end; what is too much is read and let go.
async fn read_output(stream: &mut UnixStream, output: &mut Vec<u8>) {
    // The frames of `berth_api::frame`.
    let mut head = [0; 8];
    while stream.read_exact(&mut head).await.is_ok() {
        let [_, _, _, _, length @ ..] = head;
        let mut left = u64::from(u32::from_be_bytes(length));
        let mut chunk = [0; 4096];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            match stream.read(&mut chunk[..want]).await {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let room = MAX_OUTPUT.saturating_sub(output.len());
                    output.extend_from_slice(&chunk[..length.min(room)]);
                    left -= length as u64;
                }
            }
        }
    }
}

/// As Go writes durations: "1m30s", "1.5s", "200ms".
fn go_duration(duration: Duration) -> String {
    let trim = |text: String| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    };
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".into();
    }
    if nanoseconds < 1_000_000_000 {
        return if nanoseconds < 1_000 {
            format!("{nanoseconds}ns")
        } else if nanoseconds < 1_000_000 {
            trim(format!(
                "{}.{:03}",
                nanoseconds / 1_000,
                nanoseconds % 1_000
            )) + "µs"
        } else {
            trim(format!(
                "{}.{:06}",
                nanoseconds / 1_000_000,
                nanoseconds % 1_000_000
            )) + "ms"
        };
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = trim(format!("{}.{:09}", seconds % 60, duration.subsec_nanos()));
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i64) -> HealthResult {
        HealthResult {
            exit_code,
            ..HealthResult::default()
        }
    }

    #[test]
    fn failures_count_after_the_start_period_and_one_success_heals() {
        let check = Healthcheck {
            retries: 2,
            start_period: 10_000_000_000,
            ..Healthcheck::default()
        };
        let mut health = Health {
            status: STARTING.into(),
            ..Health::default()
        };
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(11));
        assert_eq!(apply(&mut health, &check, result(1), early), None);
        assert_eq!(health.failing_streak, 0);
        assert_eq!(apply(&mut health, &check, result(1), late), None);
        assert_eq!(
            apply(&mut health, &check, result(1), late).as_deref(),
            Some(UNHEALTHY)
        );
        assert_eq!(
            apply(&mut health, &check, result(0), late).as_deref(),
            Some(HEALTHY)
        );
        assert_eq!(health.failing_streak, 0);
        for _ in 0..9 {
            apply(&mut health, &check, result(0), late);
        }
        assert_eq!(health.log.unwrap().len(), MAX_RESULTS);
    }

    #[test]
    fn the_image_fills_what_the_user_leaves_open() {
        let image = Healthcheck {
            test: vec!["CMD".into(), "a".into()],
            interval: 5,
            retries: 7,
            ..Healthcheck::default()
        };
        let mut own = Some(Healthcheck {
            interval: 9,
            ..Healthcheck::default()
        });
        merge(&mut own, Some(&image));
        let own = own.unwrap();
        assert_eq!((own.interval, own.retries, own.test.len()), (9, 7, 2));
        let mut none = Some(Healthcheck {
            test: vec!["NONE".into()],
            ..Healthcheck::default()
        });
        merge(&mut none, Some(&image));
        let config = Config {
            healthcheck: none,
            ..Config::default()
        };
        assert_eq!(probe(&config), None);
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (milliseconds, text) in [
            (1, "1ms"),
            (1500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(go_duration(Duration::from_micros(1500)), "1.5ms");
    }
}
