use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

fn config(dir: &Path, text: &str) -> ConfigFile {
    if !text.is_empty() {
        std::fs::write(dir.join("config.json"), text).unwrap();
    }
    ConfigFile::load(dir)
}

fn login(server: &str, username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
        serveraddress: server.to_owned(),
        ..Credentials::default()
    }
}

/// A helper that keeps its secret in a file of `dir`: its path.
fn helper(dir: &Path) -> String {
    let path = dir.join("helper");
    let script = format!(
        r#"#!/bin/sh
cd {}
echo "$@" >> arguments
case "$1" in
store) cat > kept ;;
get) read -r key
  [ "$key" = broken ] && {{ echo "the keychain is locked"; exit 1; }}
  grep -q "\"$key\"" kept 2>/dev/null || {{ echo "credentials not found in native keychain"; exit 1; }}
  cat kept ;;
erase) rm -f kept ;;
esac
"#,
        dir.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn files_of_docker_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(
        dir.path(),
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnc="},
            "https://old.example/v1/":{"auth":"bzpw"},
            "t.example":{"auth":"dTo=","identitytoken":"tok"},
            "bad.example":{"auth":"dQ=="}}}"#,
    );
    let hub = for_host(&config, "docker.io").unwrap();
    assert_eq!((hub.username.as_str(), hub.password.as_str()), ("u", "p:w"));
    assert_eq!(hub.serveraddress, INDEX);
    assert_eq!(for_host(&config, "old.example").unwrap().username, "o");
    assert_eq!(for_host(&config, "t.example").unwrap().identitytoken, "tok");
    assert_eq!(
        for_host(&config, "other.example").unwrap(),
        Credentials::default()
    );
    assert!(for_host(&config, "bad.example").is_err());
}

#[test]
fn headers_are_dockers() {
    assert_eq!(Credentials::default().header(), "e30=");
    let text = URL_SAFE.decode(login("h:1", "u", "p\"").header()).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"{"username":"u","password":"p\"","serveraddress":"h:1"}"#
    );
    assert!(!format!("{:?}", login("h", "u", "secret")).contains("secret"));
}

#[test]
fn the_file_keeps_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path(), "");
    store(&first, &login("h:1", "u", "p")).unwrap();
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        "{\n\t\"auths\": {\n\t\t\"h:1\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}\n\t}\n}"
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let second = config(
        dir.path(),
        r#"{"unknown":{"z":1.50,"a":null},"auths":{"z.example":{"auth":"dTpw","email":"x"}},"credsStore":""}"#,
    );
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    store(&second, &login("a.example", "u", "p")).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        json_of(&text),
        r#"{"unknown":{"z":1.50,"a":null},"auths":{"a.example":{"auth":"dTpw"},"z.example":{"auth":"dTpw","email":"x"}},"credsStore":""}"#
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    erase(&second, "z.example").unwrap();
    erase(&second, "z.example").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("z.example") && text.contains("a.example"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    // A broken file is not thrown away.
    let broken = config(dir.path(), "{\"auths\":");
    assert!(store(&broken, &login("h", "u", "p")).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"auths\":");
}

fn json_of(text: &str) -> String {
    crate::output::json::compact(text)
}

#[test]
fn symbolic_links_stay() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.json");
    std::os::unix::fs::symlink(&real, dir.path().join("config.json")).unwrap();
    let config = config(dir.path(), "");
    store(&config, &login("h", "u", "p")).unwrap();
    assert!(dir.path().join("config.json").is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().contains("dTpw"));
}

#[test]
fn helpers_keep_passwords_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = helper::Helper::at(&helper(dir.path()));
    assert_eq!(keeper.get("h:1").unwrap(), Credentials::default());
    keeper.store(&login("h:1", "u", "secret")).unwrap();
    assert_eq!(keeper.get("h:1").unwrap(), login("h:1", "u", "secret"));
    let token = Credentials {
        identitytoken: "tok".to_owned(),
        ..login("h:1", "u", "")
    };
    keeper.store(&token).unwrap();
    let kept = std::fs::read_to_string(dir.path().join("kept")).unwrap();
    assert_eq!(
        kept.trim(),
        r#"{"ServerURL":"h:1","Username":"<token>","Secret":"tok"}"#
    );
    let found = keeper.get("h:1").unwrap();
    assert_eq!(
        (found.username.as_str(), found.identitytoken.as_str()),
        ("", "tok")
    );
    keeper.erase("h:1").unwrap();
    assert_eq!(keeper.get("h:1").unwrap(), Credentials::default());
    assert_eq!(
        keeper.get("broken").unwrap_err().message,
        "error getting credentials - err: exit status 1, out: `the keychain is locked`"
    );
    let arguments = std::fs::read_to_string(dir.path().join("arguments")).unwrap();
    assert!(!arguments.contains("secret") && !arguments.contains("tok"));
    let missing = helper::Helper::new("none-such").get("h").unwrap_err();
    assert_eq!(
        missing.message,
        "error getting credentials - err: exec: \"docker-credential-none-such\": executable file not found in $PATH, out: ``"
    );
}

#[test]
fn addresses_become_host_names() {
    for (address, host) in [
        ("https://r.example/v2/", "r.example"),
        ("http://r.example:5000", "r.example:5000"),
        ("r.example/x", "r.example"),
    ] {
        assert_eq!(hostname(address), host);
    }
}
