//! `version`.

use std::fmt::Write as _;

use berth_api::system::Version;
use berth_api::version::{ApiVersion, DOCKER_VERSION};
use serde_json::json;

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::{print, print_line, template};
use crate::transport::Request;
use crate::tree::Outcome;

pub(crate) async fn version(context: &Context, args: &Parsed) -> Outcome {
    let server = context.json::<Version>(Request::get("/version")).await;
    let api = context.version.get();
    let client = json!({
        "Platform": {"Name": "berth"},
        "Version": if context.program == "docker" { DOCKER_VERSION } else { env!("CARGO_PKG_VERSION") },
        "ApiVersion": api.to_string(),
        "DefaultAPIVersion": ApiVersion::MAX.to_string(),
        "Os": std::env::consts::OS,
        "Arch": architecture(),
        "Context": "default",
    });
    let format = args.get("format").unwrap_or_default();
    if format.is_empty() {
        print(&describe_client(&client));
        let server = server?;
        print(&format!("\n{}", describe_server(&server)));
        return Ok(0);
    }
    let (shown, failure) = match server {
        Ok(server) => (json!({"Client": client, "Server": server}), None),
        Err(failure) => (json!({"Client": client, "Server": null}), Some(failure)),
    };
    match template::over_json(format, &shown.to_string()) {
        Ok(text) => print_line(&text),
        Err(problem) => return Err(failure.unwrap_or(problem)),
    }
    failure.map_or(Ok(0), Err)
}

/// The machine in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn describe_client(client: &serde_json::Value) -> String {
    let field = |name: &str| client[name].as_str().unwrap_or_default().to_owned();
    let mut api = field("ApiVersion");
    if api != field("DefaultAPIVersion") {
        let _ = write!(api, " (downgraded from {})", field("DefaultAPIVersion"));
    }
    format!(
        "Client: berth\n Version:           {}\n API version:       {api}\n OS/Arch:           {}/{}\n Context:           {}\n",
        field("Version"),
        field("Os"),
        field("Arch"),
        field("Context"),
    )
}

fn describe_server(server: &Version) -> String {
    let mut text = match server.platform.name.as_str() {
        "" => "Server:\n".to_owned(),
        name => format!("Server: {name}\n"),
    };
    let minimum = format!(
        "{} (minimum version {})",
        server.api_version, server.min_api_version
    );
    let _ = write!(
        text,
        " Engine:\n  Version:          {}\n  API version:      {minimum}\n",
        server.version
    );
    for (name, value) in [
        ("Go version:", &server.go_version),
        ("Git commit:", &server.git_commit),
        ("Built:", &server.build_time),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "  {name:<17} {value}");
        }
    }
    let _ = writeln!(text, "  OS/Arch:          {}/{}", server.os, server.arch);
    let _ = writeln!(text, "  Experimental:     {}", server.experimental);
    for component in server
        .components
        .iter()
        .filter(|component| component.name != "Engine")
    {
        let _ = writeln!(
            text,
            " {}:\n  Version:          {}",
            component.name, component.version
        );
        for (name, value) in component.details.iter().flatten() {
            let _ = writeln!(text, "  {:<17} {value}", format!("{name}:"));
        }
    }
    text
}
