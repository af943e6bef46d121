//! The other commands.

use super::{Command, FORMAT, Words};
use crate::flags::Kind::*;
use crate::flags::flag;
use crate::{inspect, login, network, system, volume};

pub(super) static COMMANDS: &[Command] = &[
    Command {
        names: &["network inspect"],
        usage: "[OPTIONS] NETWORK [NETWORK...]",
        about: "Display detailed information on one or more networks",
        flags: &[&[
            flag("format", Text, FORMAT).short('f'),
            flag("verbose", Bool, "Verbose output for diagnostics").short('v'),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(inspect::networks(cx, args)),
    },
    Command {
        names: &["network ls", "network list"],
        usage: "[OPTIONS]",
        about: "List networks",
        flags: &[&[
            flag(
                "filter",
                Filter,
                "Provide filter values (e.g. \"driver=bridge\")",
            )
            .short('f'),
            flag("format", Text, FORMAT),
            flag("no-trunc", Bool, "Do not truncate the output"),
            flag("quiet", Bool, "Only display network IDs").short('q'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(network::ls(cx, args)),
    },
    Command {
        names: &["system events", "events"],
        usage: "[OPTIONS]",
        about: "Get real time events from the server",
        flags: &[&[
            flag(
                "filter",
                Filter,
                "Filter output based on conditions provided",
            )
            .short('f'),
            flag("format", Text, FORMAT),
            flag("since", Text, "Show all events created since timestamp"),
            flag("until", Text, "Stream events until this timestamp"),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::events::events(cx, args)),
    },
    Command {
        names: &["system info", "info"],
        usage: "[OPTIONS]",
        about: "Display system-wide information",
        flags: &[&[flag("format", Text, FORMAT).short('f')]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::info::info(cx, args)),
    },
    Command {
        names: &["volume create"],
        usage: "[OPTIONS] [VOLUME]",
        about: "Create a volume",
        flags: &[&[
            flag("driver", Text, "Specify volume driver name")
                .short('d')
                .default("local"),
            flag("label", List, "Set metadata for a volume"),
            flag("opt", Map, "Set driver specific options")
                .short('o')
                .default("map[]"),
        ]],
        words: Words::AtMost(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(volume::create(cx, args)),
    },
    Command {
        names: &["volume inspect"],
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        about: "Display detailed information on one or more volumes",
        flags: &[&[flag("format", Text, FORMAT).short('f')]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(inspect::volumes(cx, args)),
    },
    Command {
        names: &["volume ls", "volume list"],
        usage: "[OPTIONS]",
        about: "List volumes",
        flags: &[&[
            flag(
                "filter",
                Filter,
                "Provide filter values (e.g. \"dangling=true\")",
            )
            .short('f'),
            flag("format", Text, FORMAT),
            flag("quiet", Bool, "Only display volume names").short('q'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(volume::ls(cx, args)),
    },
    Command {
        names: &["volume prune"],
        usage: "[OPTIONS]",
        about: "Remove unused local volumes",
        flags: &[&[
            flag(
                "all",
                Bool,
                "Remove all unused volumes, not just anonymous ones",
            )
            .short('a'),
            flag(
                "filter",
                Filter,
                "Provide filter values (e.g. \"label=<label>\")",
            ),
            flag("force", Bool, "Do not prompt for confirmation").short('f'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(volume::prune(cx, args)),
    },
    Command {
        names: &["volume rm", "volume remove"],
        usage: "[OPTIONS] VOLUME [VOLUME...]",
        about: "Remove one or more volumes",
        flags: &[&[flag("force", Bool, "Force the removal of one or more volumes").short('f')]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(volume::rm(cx, args)),
    },
    Command {
        names: &["inspect"],
        usage: "[OPTIONS] NAME|ID [NAME|ID...]",
        about: "Return low-level information on Docker objects",
        flags: &[&[
            flag("format", Text, FORMAT).short('f'),
            flag(
                "size",
                Bool,
                "Display total file sizes if the type is container",
            )
            .short('s'),
            flag("type", Text, "Only inspect objects of the given type"),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(inspect::inspect(cx, args)),
    },
    Command {
        names: &["login"],
        usage: "[OPTIONS] [SERVER]",
        about: "Authenticate to a registry",
        flags: &[&[
            flag("password", Text, "Password or Personal Access Token (PAT)").short('p'),
            flag(
                "password-stdin",
                Bool,
                "Take the Password or Personal Access Token (PAT) from stdin",
            ),
            flag("username", Text, "Username").short('u'),
        ]],
        words: Words::AtMost(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(login::login(cx, args)),
    },
    Command {
        names: &["logout"],
        usage: "[SERVER]",
        about: "Log out from a registry",
        flags: &[],
        words: Words::AtMost(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(login::logout(cx, args)),
    },
    Command {
        names: &["version"],
        usage: "[OPTIONS]",
        about: "Show the Docker version information",
        flags: &[&[flag("format", Text, FORMAT).short('f')]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::version::version(cx, args)),
    },
];
