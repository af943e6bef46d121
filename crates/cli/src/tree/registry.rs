//! `registry` and what is below it.

use super::{Command, FORMAT, Words};
use crate::flags::Kind::*;
use crate::flags::{Flag, flag};
use crate::registry;

const INSECURE: Flag = flag(
    "insecure",
    Bool,
    "Allow plain HTTP and certificates that are not verified",
);

pub(super) static COMMANDS: &[Command] = &[
    Command {
        names: &["registry inspect"],
        usage: "[OPTIONS] HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]...",
        about: "Display manifests, indexes and configurations of a registry",
        flags: &[&[flag("format", Text, FORMAT).short('f'), INSECURE]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(registry::inspect::inspect(cx, args)),
    },
    Command {
        names: &["registry ls", "registry list"],
        usage: "[OPTIONS] [HOST[:PORT][/REPOSITORY]]",
        about: "List the repositories of a registry, or the tags of a repository",
        flags: &[&[
            flag("format", Text, FORMAT),
            INSECURE,
            flag("json", Bool, "Print in JSON format, as --format json"),
            flag("quiet", Bool, "Only display names").short('q'),
        ]],
        words: Words::AtMost(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(registry::ls::ls(cx, args)),
    },
    Command {
        names: &["registry rm", "registry remove"],
        usage: "[OPTIONS] HOST[:PORT]/REPOSITORY:TAG|@DIGEST...",
        about: "Remove tags and manifests from a registry",
        flags: &[&[
            flag("force", Bool, "Do not prompt for confirmation").short('f'),
            INSECURE,
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(registry::rm::rm(cx, args)),
    },
    Command {
        names: &["registry serve"],
        usage: "[OPTIONS] --root DIR",
        about: "Run a registry in the foreground",
        flags: &[&[
            flag("addr", Text, "Address to listen on, HOST:PORT").default("127.0.0.1:5000"),
            flag(
                "anonymous-pull",
                Bool,
                "Let whoever has no password pull (with --htpasswd-tokens)",
            ),
            flag(
                "gc-grace",
                Duration,
                "Keep what was uploaded or asked for within this time",
            )
            .default("1h"),
            flag(
                "gc-interval",
                Duration,
                "Time between garbage collections, 0 for only on SIGUSR1",
            )
            .default("24h"),
            flag(
                "gc-untagged",
                Bool,
                "Collect manifests that no tag leads to",
            ),
            flag(
                "htpasswd",
                Text,
                "File of users and bcrypt hashes, as of 'htpasswd -B'",
            ),
            flag(
                "htpasswd-tokens",
                Bool,
                "Let users of the htpasswd file get tokens from this registry",
            ),
            flag(
                "insecure-no-auth",
                Bool,
                "Serve other hosts without authentication",
            ),
            flag("insecure-no-tls", Bool, "Serve other hosts without TLS"),
            flag("max-manifest", Bytes, "Longest manifest that is accepted").default("4MiB"),
            flag(
                "metrics-addr",
                Text,
                "Address of /metrics and /healthz, HOST:PORT",
            ),
            flag(
                "proxy",
                Text,
                "URL of a registry whose content is served and kept",
            ),
            flag(
                "proxy-password-file",
                Text,
                "File with the password for the registry behind the proxy",
            ),
            flag(
                "proxy-ttl",
                Duration,
                "Time before a tag is asked for again",
            )
            .default("5m"),
            flag("proxy-user", Text, "User for the registry behind the proxy"),
            flag(
                "public-url",
                Text,
                "URL by which clients reach this registry (with --htpasswd-tokens)",
            ),
            flag("read-only", Bool, "Refuse all that changes something"),
            flag("root", Text, "Directory of the registry's data"),
            flag("tls-cert", Text, "Certificate chain in PEM"),
            flag(
                "tls-client-ca",
                Text,
                "Certificates in PEM that sign those clients must show",
            ),
            flag("tls-key", Text, "Private key in PEM"),
            flag("token-issuer", Text, "Issuer of tokens"),
            flag(
                "token-keys",
                Text,
                "JSON web key set, or PEM with public keys or certificates",
            ),
            flag("token-realm", Text, "URL of the server that gives tokens"),
            flag("token-service", Text, "Service that tokens are for"),
            flag(
                "upload-expiry",
                Duration,
                "Remove unfinished uploads after this time without a byte",
            )
            .default("168h"),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(registry::serve::serve(cx, args)),
    },
];
