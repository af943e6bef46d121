//! The crates below speak their own errors; clients get the API's.

use berth_api::{Error, Kind};

/// Turns a result of a crate below into one for clients.
pub(crate) trait IntoApi<T> {
    fn api(self) -> Result<T, Error>;
}

impl<T> IntoApi<T> for Result<T, berth_store::Error> {
    fn api(self) -> Result<T, Error> {
        self.map_err(|error| {
            let kind = match error {
                berth_store::Error::NotFound(_) => Kind::NotFound,
                berth_store::Error::Conflict(_) => Kind::Conflict,
                berth_store::Error::Invalid(_) => Kind::Invalid,
                _ => Kind::System,
            };
            Error::new(kind, error.to_string())
        })
    }
}

impl<T> IntoApi<T> for Result<T, berth_registry::client::Error> {
    fn api(self) -> Result<T, Error> {
        self.map_err(from_registry)
    }
}

impl<T> IntoApi<T> for Result<T, berth_build::solve::Error> {
    fn api(self) -> Result<T, Error> {
        use berth_build::solve::Error as Solve;
        self.map_err(|error| {
            let kind = match error {
                Solve::NotFound(_) => Kind::NotFound,
                Solve::Invalid(_) => Kind::Invalid,
                Solve::Exit { .. } | Solve::System(_) | Solve::Cancelled => Kind::System,
            };
            Error::new(kind, error.to_string())
        })
    }
}

pub(crate) fn from_registry(error: berth_registry::client::Error) -> Error {
    use berth_registry::client::Error as Registry;
    match error {
        Registry::Denied(reason) => Error::new(Kind::Unauthorized, reason),
        Registry::NotFound(reason) => Error::not_found(reason),
        Registry::Unsupported(reason) => Error::not_implemented(reason),
        // A bad gateway to HTTP, but a plain failure to Docker.
        Registry::Invalid(reason) | Registry::Unavailable(reason) => Error::system(reason),
    }
}

impl<T> IntoApi<T> for Result<T, berth_network::Error> {
    fn api(self) -> Result<T, Error> {
        self.map_err(|error| {
            let kind = match error {
                berth_network::Error::NotFound(_) => Kind::NotFound,
                berth_network::Error::Invalid(_) => Kind::Invalid,
                berth_network::Error::Exhausted(_) => Kind::Conflict,
                _ => Kind::System,
            };
            Error::new(kind, error.to_string())
        })
    }
}

impl<T> IntoApi<T> for Result<T, berth_cgroup::Error> {
    fn api(self) -> Result<T, Error> {
        self.map_err(|error| match error {
            berth_cgroup::Error::Invalid(message) => Error::invalid(message),
            other => Error::system(other.to_string()),
        })
    }
}

impl<T> IntoApi<T> for Result<T, berth_seccomp::Error> {
    fn api(self) -> Result<T, Error> {
        self.map_err(|error| Error::invalid(error.to_string()))
    }
}

impl<T> IntoApi<T> for Result<T, oci_spec::OciSpecError> {
    fn api(self) -> Result<T, Error> {
        self.map_err(|error| Error::system(error.to_string()))
    }
}

/// Says what was tried on which path.
pub(crate) fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Error {
    Error::system(format!("{action} {}: {error}", path.display()))
}

/// Runs blocking work off the event loop.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::system(format!("the engine is shutting down: {error}")))?
}

/// Runs work that may wait for somebody else (a client's upload, a registry)
/// on a thread of its own: the shared ones are few, and as many slow peers
/// would stop the engine.
pub(crate) async fn waiting<T, F>(name: &str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        // Nobody waits for the result when the request was given up.
        .spawn(move || drop(sender.send(work())))
        .map_err(|error| Error::system(format!("start a thread: {error}")))?;
    receiver
        .await
        .map_err(|_| Error::system(format!("the thread \"{name}\" ended early")))?
}
