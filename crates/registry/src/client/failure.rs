//! Requests that come to nothing, in Go's words where people look for them.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use reqwest::{Method, Url};

use super::answer::{clean, told};
use super::{Error, hosts};

/// A request that came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    /// Whether another try may help, and how long to wait if that was said.
    pub again: Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// Not over TLS, perhaps over plain HTTP.
    Plain,
    Later(Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let again = match error {
            Error::Unavailable(_) => Again::Later(None),
            _ => Again::Never,
        };
        Self { error, again }
    }
}

pub(super) fn failure(error: &reqwest::Error, method: &Method, url: &Url) -> Failure {
    let why = cause(error, url);
    let again = match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => Again::Plain,
        // An alert, a certificate: it will be the same next time.
        Some(_) => Again::Never,
        _ if error.is_dns() || error.is_builder() => Again::Never,
        _ => Again::Later(None),
    };
    Failure {
        error: Error::Unavailable(told(method, url, &why)),
        again,
    }
}

fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    sources(error).find_map(within)
}

/// An I/O error hides what it is made of from the chain of sources.
fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => within(inner),
        None => error.downcast_ref(),
    }
}

/// Why a request failed, in Go's words where people look for them.
pub(super) fn cause(error: &reqwest::Error, url: &Url) -> String {
    use rustls::CertificateError;
    let host = hosts::authority(url);
    if let Some(error) = tls_error(error) {
        let why = match error {
            rustls::Error::InvalidMessage(_) => {
                return "http: server gave HTTP response to HTTPS client".to_owned();
            }
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "x509: certificate signed by unknown authority".to_owned()
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => format!("x509: certificate is not valid for {host}"),
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => "x509: certificate has expired or is not yet valid".to_owned(),
            other => return format!("tls: {other}"),
        };
        return format!("tls: failed to verify certificate: {why}");
    }
    if error.is_dns() {
        let name = url.host_str().unwrap_or_default();
        return format!("dial tcp: lookup {name}: no such host");
    }
    if error.is_connect() {
        let why = sources(error)
            .filter_map(|source| source.downcast_ref::<io::Error>())
            .last()
            .map(|error| match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
                io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
                _ => error.to_string(),
            });
        let why = why.unwrap_or_else(|| {
            if error.is_timeout() {
                return "i/o timeout".to_owned();
            }
            innermost(error)
        });
        return format!("dial tcp {host}: connect: {why}");
    }
    innermost(error)
}

fn innermost(error: &reqwest::Error) -> String {
    let last = sources(error).last().map(ToString::to_string);
    // reqwest's own text would show the whole address.
    let text = last.unwrap_or_else(|| "the request failed".to_owned());
    if text.contains("before message completed") || text.contains("end of file") {
        return "unexpected EOF".to_owned();
    }
    clean(&text)
}
