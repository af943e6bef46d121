//! TLS. Loopback addresses need no certificate, so these tests run in a network
//! namespace of their own, with an address that is not one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use berth_registry::client::{Access, Client, Credentials, Error, Options};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::rig::{self, MANIFEST, Registry, manifest, noise};
use crate::server::{Reply, Server};

/// For documentation (RFC 5737): nobody's.
const ADDRESS: &str = "192.0.2.1";
const INSIDE: &str = "BERTH_TEST_INSIDE";

/// Whether this process is inside; else it runs the test again, inside.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!(
        "ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec \"$0\" --exact {test} --nocapture"
    );
    let status = Command::new("unshare")
        .args(["--net", "sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the test failed in its network namespace");
    false
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), text).unwrap();
}

/// A registry that shows a certificate, and wants one if `clients` is given.
fn registry(authority: &Authority, name: &str, clients: Option<&Authority>) -> Registry {
    let dir = TempDir::new().unwrap().keep();
    let (certificate, key) = authority.issue(name);
    write(&dir, "server.pem", &certificate);
    write(&dir, "server.key", &key);
    let at = dir.display();
    let mut http = format!("  tls:\n    certificate: {at}/server.pem\n    key: {at}/server.key\n");
    if let Some(clients) = clients {
        write(&dir, "clients.pem", &clients.pem());
        http.push_str(&format!("    clientcas: [{at}/clients.pem]\n"));
    }
    let registry = Registry::at(ADDRESS, &http, "");
    fs::remove_dir_all(dir).unwrap();
    registry
}

fn client(dir: &Path, insecure: &[&str]) -> Client {
    Client::new(Options {
        config_dirs: vec![dir.to_owned()],
        insecure: insecure.iter().map(|text| (*text).to_owned()).collect(),
        timeout: Some(std::time::Duration::from_secs(10)),
        ..rig::options()
    })
    .unwrap()
}

async fn ping(client: &Client, host: &str) -> Result<(), Error> {
    let repository = client.repository(host, "x", &Credentials::default(), Access::Pull)?;
    repository.manifest_descriptor("v1").await.map(drop)
}

#[tokio::test]
async fn authorities_of_certs_d() {
    if !inside("tls::authorities_of_certs_d") {
        return;
    }
    let authority = Authority::new("one");
    let registry = registry(&authority, ADDRESS, None);
    let host = &registry.host;
    let dir = TempDir::new().unwrap();
    let client = client(dir.path(), &[]);
    let error = ping(&client, host).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Head \"https://{host}/v2/x/manifests/v1\": tls: failed to verify certificate: \
             x509: certificate signed by unknown authority"
        )
    );
    // The same client sees the file that comes now.
    let folder = dir.path().join(host);
    write(&folder, "ca.crt", &authority.pem());
    let blob = noise(300_000);
    let writer = registry.repository(&client, "x", Access::Push);
    let digest = rig::push(&writer, &blob).await;
    let bytes = manifest(&digest, blob.len());
    writer
        .push_manifest("v1", MANIFEST, bytes.clone())
        .await
        .unwrap();
    let reader = registry.repository(&client, "x", Access::Pull);
    assert_eq!(reader.manifest("v1").await.unwrap().bytes, bytes);
    assert_eq!(rig::read(&reader, &digest, 0).await, blob);
    // And the one that is wrong.
    write(&folder, "ca.crt", "garbage");
    let error = ping(&client, host).await.unwrap_err();
    assert!(error.to_string().contains("invalid certificate"), "{error}");
    write(&folder, "ca.crt", &Authority::new("two").pem());
    ping(&client, host).await.unwrap_err();
}

#[tokio::test]
async fn certificates_of_another_host_are_refused() {
    if !inside("tls::certificates_of_another_host_are_refused") {
        return;
    }
    let authority = Authority::new("one");
    let registry = registry(&authority, "other.example", None);
    let dir = TempDir::new().unwrap();
    write(&dir.path().join(&registry.host), "ca.crt", &authority.pem());
    let error = ping(&client(dir.path(), &[]), &registry.host)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("x509: certificate is not valid for"),
        "{error}"
    );
    // Who named it insecure wants it so.
    for insecure in [ADDRESS, registry.host.as_str(), "192.0.2.0/24"] {
        ping(&client(dir.path(), &[insecure]), &registry.host)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn client_certificates() {
    if !inside("tls::client_certificates") {
        return;
    }
    let authority = Authority::new("one");
    let clients = Authority::new("clients");
    let registry = registry(&authority, ADDRESS, Some(&clients));
    let host = &registry.host;
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join(host);
    write(&folder, "ca.crt", &authority.pem());
    let client = client(dir.path(), &[]);
    ping(&client, host).await.unwrap_err();
    // Several: the one whose authority the server names.
    for (name, issuer) in [("a", &authority), ("b", &clients)] {
        let (certificate, key) = issuer.issue("me");
        write(&folder, &format!("{name}.cert"), &certificate);
        let error = ping(&client, host).await.unwrap_err().to_string();
        let wanted = format!(
            "missing key {}/{name}.key for client certificate",
            folder.display()
        );
        assert!(error.starts_with(&wanted), "{error}");
        write(&folder, &format!("{name}.key"), &key);
    }
    ping(&client, host).await.unwrap();
    // The same by hosts.toml.
    let named = dir.path().join("named.example");
    let text = format!(
        "server = \"https://{host}\"\nca = \"{0}/ca.crt\"\nclient = [[\"{0}/b.cert\", \"{0}/b.key\"]]\n",
        folder.display()
    );
    write(&named, "hosts.toml", &text);
    ping(&client, "named.example").await.unwrap();
    write(&named, "hosts.toml", &text.replace("ca.crt", "none.crt"));
    let error = ping(&client, "named.example").await.unwrap_err();
    assert!(error.to_string().contains("cannot read"), "{error}");
    write(
        &named,
        "hosts.toml",
        &format!(
            "server = \"https://{host}\"\nskip_verify = true\nclient = [[\"{0}/b.cert\", \"{0}/b.key\"]]\n",
            folder.display()
        ),
    );
    ping(&client, "named.example").await.unwrap();
}

#[tokio::test]
async fn plain_http_is_for_insecure_registries() {
    if !inside("tls::plain_http_is_for_insecure_registries") {
        return;
    }
    let registry = Registry::at(ADDRESS, "", "");
    let host = &registry.host;
    let dir = TempDir::new().unwrap();
    let error = ping(&client(dir.path(), &[]), host).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Head \"https://{host}/v2/x/manifests/v1\": http: server gave HTTP response to HTTPS client"
        )
    );
    ping(&client(dir.path(), &[host]), host).await.unwrap();
}

#[tokio::test]
async fn nothing_leads_from_tls_to_plain_http() {
    if !inside("tls::nothing_leads_from_tls_to_plain_http") {
        return;
    }
    let authority = Authority::new("one");
    let (certificate, key) = authority.issue(ADDRESS);
    let tls = server_config(&certificate, &key);
    let plain = Server::serve(ADDRESS, None, Arc::new(|_| Reply::new(200))).await;
    let target = plain.host.clone();
    let server = Server::serve(
        ADDRESS,
        Some(tls),
        Arc::new(move |seen| {
            let elsewhere = format!("http://{target}/");
            match (seen.method.as_str(), seen.path.as_str()) {
                ("POST", _) => Reply::new(202).header("location", elsewhere),
                (_, path) if path.contains("/moved") => {
                    Reply::new(302).header("location", elsewhere)
                }
                (_, path) if path.contains("/token") => {
                    let challenge = format!("Bearer realm=\"{elsewhere}\"");
                    Reply::new(401).header("www-authenticate", challenge)
                }
                _ => Reply::new(404),
            }
        }),
    )
    .await;
    let dir = TempDir::new().unwrap();
    write(&dir.path().join(&server.host), "ca.crt", &authority.pem());
    let client = client(dir.path(), &[]);
    let repository = server.repository(&client, Access::Push);
    for tag in ["moved", "token"] {
        let error = repository.manifest(tag).await.unwrap_err();
        assert!(
            error.to_string().contains("refused to go on without TLS"),
            "{error}"
        );
    }
    let source = rig::Source::new(&noise(100));
    let digest = rig::digest(&noise(100));
    let error = repository
        .push_blob(&digest, 100, &source, &|_| ())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("refused to go on without TLS"),
        "{error}"
    );
    assert!(plain.seen().is_empty());
}

fn server_config(certificate: &str, key: &str) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}
