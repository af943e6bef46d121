//! Counters in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};

use super::Server;
use super::reply::{self, Body};

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    received: AtomicU64,
    sent: AtomicU64,
    gc_runs: AtomicU64,
    gc_bytes: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, method: &Method, route: &'static str, status: StatusCode) {
        // What a client makes up is no label.
        let method = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
            .into_iter()
            .find(|one| *one == method.as_str())
            .unwrap_or("other");
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests
            .entry((method, route, status.as_u16()))
            .or_default() += 1;
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn collected(&self, bytes: u64) {
        self.gc_runs.fetch_add(1, Ordering::Relaxed);
        self.gc_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn text(&self, uploads: usize, storage_bytes: u64) -> String {
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let name = "berth_registry_requests_total";
        head(&mut text, name, "counter", "Requests answered.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((method, route, status), count) in &*requests {
            let _ = writeln!(
                text,
                "{name}{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}"
            );
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            (
                "berth_registry_received_bytes_total",
                "counter",
                "Bytes of blobs and manifests that clients sent.",
                load(&self.received),
            ),
            (
                "berth_registry_sent_bytes_total",
                "counter",
                "Bytes of blobs and manifests in replies.",
                load(&self.sent),
            ),
            (
                "berth_registry_uploads",
                "gauge",
                "Uploads begun or gone on with since the start, and not ended.",
                uploads as u64,
            ),
            (
                "berth_registry_storage_bytes",
                "gauge",
                "Bytes of blobs on disk.",
                storage_bytes,
            ),
            (
                "berth_registry_gc_runs_total",
                "counter",
                "Garbage collections that ended.",
                load(&self.gc_runs),
            ),
            (
                "berth_registry_gc_removed_bytes_total",
                "counter",
                "Bytes that garbage collections removed.",
                load(&self.gc_bytes),
            ),
        ] {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
        text
    }
}

/// Answers on the address for metrics.
pub(crate) fn handle(server: &Server, request: &Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let text = server
                .metrics
                .text(server.uploads.count(), server.storage.bytes());
            reply::typed("text/plain; version=0.0.4", text.into())
        }
        (&Method::GET, "/healthz") => reply::typed("text/plain", "ok\n".into()),
        _ => reply::status(StatusCode::NOT_FOUND),
    }
}
