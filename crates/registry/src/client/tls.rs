//! TLS: the system's authorities and those of `certs.d`, client certificates,
//! and no verification at all where the user said so.

use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Error;
use super::hosts::{Identity, Settings};

/// What one endpoint needs.
///
/// # Errors
/// `Invalid` for certificates and keys that cannot be read.
pub(super) fn config(settings: &Settings) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("TLS", &error))?;
    let builder = if settings.verify {
        builder.with_root_certificates(roots(&settings.authorities)?)
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    };
    if settings.identities.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let keys = settings
        .identities
        .iter()
        .map(identity)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_client_cert_resolver(Arc::new(Identities(keys))))
}

/// The system's authorities, and nothing else.
///
/// # Errors
/// `Invalid` if TLS cannot be set up at all.
pub(super) fn of_system() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("TLS", &error))?;
    Ok(builder
        .with_root_certificates(roots(&[])?)
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}

/// The system's authorities, read when the first registry needs them, and more.
fn roots(authorities: &[Vec<u8>]) -> Result<RootCertStore, Error> {
    static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();
    let mut roots = SYSTEM
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "a certificate authority of the system is left out");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            roots
        })
        .clone();
    for pem in authorities {
        for certificate in certificates(pem)? {
            roots
                .add(certificate)
                .map_err(|error| invalid("CA certificate", &error))?;
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid("certificate", &error))?;
    if found.is_empty() {
        return Err(invalid("certificate", &"there is none in the file"));
    }
    Ok(found)
}

fn identity(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let key = PrivateKeyDer::from_pem_slice(&identity.key)
        .map_err(|error| invalid("client key", &error))?;
    let chain = certificates(&identity.certificate)?;
    CertifiedKey::from_der(chain, key, &provider())
        .map(Arc::new)
        .map_err(|error| invalid("client certificate", &error))
}

fn invalid(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Invalid(format!("invalid {what}: {error}"))
}

/// Shows the first certificate that an authority the server names has issued,
/// else the first that the server can verify.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let usable = || {
            self.0
                .iter()
                .filter(|key| key.key.choose_scheme(schemes).is_some())
        };
        // The issuer's name stands in a certificate as it does in the hint.
        let issued = |key: &Arc<CertifiedKey>| {
            key.cert.iter().any(|certificate| {
                authorities.iter().any(|name| {
                    !name.is_empty() && certificate.windows(name.len()).any(|part| part == *name)
                })
            })
        };
        usable()
            .find(|key| issued(key))
            .or_else(|| usable().next())
            .cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Believes whoever answers: for insecure registries and `skip_verify`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
