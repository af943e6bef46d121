//! A registry of its own: distribution specification 1.1.
//!
//! The way of a request: `listen` (a connection) → `routes` (what is asked) →
//! `blobs`, `push`, `pull`, `catalog` (the reply) → `storage`, `manifests`,
//! `uploads` (files below the root).

mod auth;
mod blobs;
mod catalog;
mod document;
mod download;
mod errors;
mod gc;
mod listen;
mod manifests;
mod metrics;
mod names;
mod options;
mod proxy;
mod pull;
mod push;
mod reply;
mod routes;
mod stamp;
mod storage;
mod tls;
mod uploads;

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};

use auth::{Auth, Need};
use errors::{Code, Failure};
use metrics::Metrics;
use proxy::Origin;
use reply::Body;
use routes::{Query, Route};
use storage::Storage;
use uploads::Uploads;

pub use listen::{Error, Registry};
pub use options::{Authentication, Options, Proxy, TlsFiles};

type Reply = Result<Response<Body>, Failure>;

/// What all requests share. Cheap to clone.
#[derive(Clone, Debug)]
struct Server(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    storage: Arc<Storage>,
    uploads: Arc<Uploads>,
    metrics: Metrics,
    auth: Auth,
    /// Whose content is served.
    origin: Option<Arc<Origin>>,
}

impl Deref for Server {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Server {
    /// Runs what reads or writes the storage on a thread that may block.
    async fn storage<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Storage) -> io::Result<T> + Send + 'static,
    {
        let storage = Arc::clone(&self.storage);
        blocking(move || work(&storage)).await
    }

    /// The same for what may also be refused.
    async fn change<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Storage) -> Result<T, Failure> + Send + 'static,
    {
        let storage = Arc::clone(&self.storage);
        blocking(move || Ok(work(&storage))).await?
    }

    /// Answers a request.
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let route = Route::parse(&path);
        let label = route.as_ref().map_or("none", Route::label);
        let outcome = match route {
            Ok(route) => self.dispatch(route, request).await,
            // A client that asks for a tag that cannot be is told that it is
            // not there.
            Err(failure) => Err(failure.for_method(&method)),
        };
        let mut response = outcome.unwrap_or_else(|failure| {
            if failure.is_ours() {
                tracing::error!("{method} {path}: {failure}");
            }
            failure.into_response()
        });
        tracing::debug!("{method} {path} {}", response.status().as_u16());
        response
            .headers_mut()
            .insert(reply::API_VERSION, HeaderValue::from_static("registry/2.0"));
        self.metrics.request(&method, label, response.status());
        if method != Method::HEAD
            && let Some(length) = response.body().size_hint().exact().or_else(|| {
                let length = response.headers().get(hyper::header::CONTENT_LENGTH)?;
                length.to_str().ok()?.parse().ok()
            })
        {
            self.metrics.sent(length);
        }
        response
    }

    async fn dispatch(&self, route: Route, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let (method, headers) = (head.method, head.headers);
        let reads = method == Method::GET || method == Method::HEAD;
        if route == Route::Token {
            return auth::issue(&self.auth, &method, &query, &headers, body).await;
        }
        let granted = self
            .auth
            .check(&headers, need(&route, &method).as_ref())
            .await?;
        if !reads && self.options.read_only {
            return Err(Failure::new(
                Code::Unsupported,
                "this registry is read-only",
            ));
        }
        if !reads && self.origin.is_some() {
            return Err(Failure::new(
                Code::Unsupported,
                "this registry only passes on what another one has: push there",
            ));
        }
        match (&method, route) {
            (_, Route::Base) if reads => Ok(reply::json(&serde_json::json!({}))),
            (_, Route::Catalog) if reads => catalog::repositories(self, &query).await,
            (_, Route::Tags(name)) if reads => catalog::tags(self, name, &query).await,
            (_, Route::Referrers(name, digest)) if reads => {
                catalog::referrers(self, name, digest, &query).await
            }
            (_, Route::Manifest(name, reference)) if reads => match &self.origin {
                None => pull::get(self, &method, &headers, name, reference).await,
                Some(origin) => {
                    proxy::manifest(self, origin, &method, &headers, name, reference).await
                }
            },
            (&Method::PUT, Route::Manifest(name, reference)) => {
                pull::put(self, &headers, &query, name, reference, body).await
            }
            (&Method::DELETE, Route::Manifest(name, reference)) => {
                pull::delete(self, name, reference).await
            }
            (_, Route::Blob(name, digest)) if reads => {
                if let Some(origin) = &self.origin
                    && let Some(reply) = proxy::blob(self, origin, &method, &name, &digest).await?
                {
                    return Ok(reply);
                }
                blobs::get(self, &method, &headers, name, digest).await
            }
            (&Method::DELETE, Route::Blob(name, digest)) => blobs::delete(self, name, digest).await,
            (&Method::POST, Route::Uploads(name)) => {
                push::start(self, name, &query, &headers, body, &granted).await
            }
            (_, Route::Upload(name, id)) if reads => push::status(self, &name, &id).await,
            (&Method::PATCH, Route::Upload(name, id)) => {
                push::chunk(self, &name, &id, &headers, body).await
            }
            (&Method::PUT, Route::Upload(name, id)) => {
                push::end(self, &name, &id, &query, &headers, body).await
            }
            (&Method::DELETE, Route::Upload(name, id)) => push::cancel(self, &name, &id).await,
            _ => Err(Failure::new(
                Code::Unsupported,
                format!("{method} is not supported here"),
            )),
        }
    }
}

/// What the client of a request must be allowed.
fn need(route: &Route, method: &Method) -> Option<Need> {
    let Some(name) = route.repository() else {
        return (*route == Route::Catalog).then(Need::catalog);
    };
    let actions: &[&str] = match (route, method) {
        (Route::Uploads(_) | Route::Upload(..), _) => &["pull", "push"],
        (_, &Method::GET | &Method::HEAD) => &["pull"],
        (_, &Method::DELETE) => &["delete"],
        _ => &["pull", "push"],
    };
    Some(Need::repository(name, actions))
}

/// Runs what blocks on a thread for that.
async fn blocking<T, F>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
