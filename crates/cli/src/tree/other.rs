//! The other commands.

use super::{Command, FORMAT, Words};
use crate::flags::Kind::*;
use crate::flags::flag;
use crate::{inspect, network, system};

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
        names: &["version"],
        usage: "[OPTIONS]",
        about: "Show the Docker version information",
        flags: &[&[flag("format", Text, FORMAT).short('f')]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(system::version::version(cx, args)),
    },
];
