//! The other commands.

use super::{Command, FORMAT, Words};
use crate::flags::Kind::*;
use crate::flags::flag;
use crate::{image, inspect, login, manifest, network, system, volume};

pub(super) static COMMANDS: &[Command] = &[
    Command {
        names: &["manifest annotate"],
        usage: "[OPTIONS] MANIFEST_LIST MANIFEST",
        about: "Add additional information to a local image manifest",
        flags: &[&[
            flag("arch", Text, "Set architecture"),
            flag("os", Text, "Set operating system"),
            flag("os-features", Strings, "Set operating system feature"),
            flag("os-version", Text, "Set operating system version"),
            flag("variant", Text, "Set architecture variant"),
        ]],
        words: Words::Exactly(2),
        stop_at_word: false,
        run: |cx, args| Box::pin(manifest::annotate(cx, args)),
    },
    Command {
        names: &["manifest create"],
        usage: "MANIFEST_LIST MANIFEST [MANIFEST...]",
        about: "Create a local manifest list for annotating and pushing to a registry",
        flags: &[&[
            flag("amend", Bool, "Amend an existing manifest list").short('a'),
            flag(
                "insecure",
                Bool,
                "Allow communication with an insecure registry",
            ),
        ]],
        words: Words::AtLeast(2),
        stop_at_word: false,
        run: |cx, args| Box::pin(manifest::create(cx, args)),
    },
    Command {
        names: &["manifest inspect"],
        usage: "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        about: "Display an image manifest, or manifest list",
        flags: &[&[
            flag(
                "insecure",
                Bool,
                "Allow communication with an insecure registry",
            ),
            flag(
                "verbose",
                Bool,
                "Output additional info including layers and platform",
            )
            .short('v'),
        ]],
        words: Words::Between(1, 2),
        stop_at_word: false,
        run: |cx, args| Box::pin(manifest::inspect(cx, args)),
    },
    Command {
        names: &["manifest push"],
        usage: "[OPTIONS] MANIFEST_LIST",
        about: "Push a manifest list to a repository",
        flags: &[&[
            flag("insecure", Bool, "Allow push to an insecure registry"),
            flag("purge", Bool, "Remove the local manifest list after push").short('p'),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(manifest::push(cx, args)),
    },
    Command {
        names: &["manifest rm"],
        usage: "MANIFEST_LIST [MANIFEST_LIST...]",
        about: "Delete one or more manifest lists from local storage",
        flags: &[],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(manifest::rm(cx, args)),
    },
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
        names: &["system check"],
        usage: "[OPTIONS]",
        about: "Verify images and layers on disk, and repair them",
        flags: &[&[flag(
            "repair",
            Bool,
            "Repair what can be repaired; images that cannot are removed",
        )]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::check::check(cx, args)),
    },
    Command {
        names: &["system df"],
        usage: "[OPTIONS]",
        about: "Show docker disk usage",
        flags: &[&[
            flag("format", Text, FORMAT),
            flag("verbose", Bool, "Show detailed information on space usage").short('v'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::df::df(cx, args)),
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
        names: &["system prune"],
        usage: "[OPTIONS]",
        about: "Remove unused data",
        flags: &[&[
            flag(
                "all",
                Bool,
                "Remove all unused images not just dangling ones",
            )
            .short('a'),
            flag(
                "filter",
                Filter,
                "Provide filter values (e.g. \"label=<key>=<value>\")",
            ),
            flag("force", Bool, "Do not prompt for confirmation").short('f'),
            flag("volumes", Bool, "Prune anonymous volumes"),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::prune::prune(cx, args)),
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
        names: &["search"],
        usage: "[OPTIONS] TERM",
        about: "Search Docker Hub for images",
        flags: &[&[
            flag(
                "filter",
                Filter,
                "Filter output based on conditions provided",
            )
            .short('f'),
            flag("format", Text, "Pretty-print search using a Go template"),
            flag("limit", Int, "Max number of search results"),
            flag("no-trunc", Bool, "Don't truncate output"),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::search::search(cx, args)),
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
