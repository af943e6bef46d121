//! The commands on container.

use super::{Command, FORMAT, Words, run_flags};
use crate::flags::Kind::*;
use crate::flags::flag;
use crate::{container, inspect, run};

pub(super) static COMMANDS: &[Command] = &[
    Command {
        names: &["container attach", "attach"],
        usage: "[OPTIONS] CONTAINER",
        about: "Attach local standard input, output, and error streams to a running container",
        flags: &[&[
            flag(
                "detach-keys",
                Text,
                "Override the key sequence for detaching a container",
            ),
            flag("no-stdin", Bool, "Do not attach STDIN"),
            flag(
                "sig-proxy",
                Bool,
                "Proxy all received signals to the process",
            )
            .default("true"),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::attach::attach(cx, args)),
    },
    Command {
        names: &["container commit", "commit"],
        usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        about: "Create a new image from a container's changes",
        flags: &[&[
            flag(
                "author",
                Text,
                "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")",
            )
            .short('a'),
            flag(
                "change",
                List,
                "Apply Dockerfile instruction to the created image",
            )
            .short('c'),
            flag("message", Text, "Commit message").short('m'),
            flag("no-pause", Bool, "Disable pausing container during commit"),
            flag(
                "pause",
                Bool,
                "Pause container during commit (deprecated: use --no-pause instead)",
            )
            .short('p')
            .default("true")
            .hidden(),
        ]],
        words: Words::Between(1, 2),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::commit::commit(cx, args)),
    },
    Command {
        names: &["container create", "create"],
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        about: "Create a new container",
        flags: &[run_flags::CREATE],
        words: Words::AtLeast(1),
        stop_at_word: true,
        run: |cx, args| Box::pin(run::create(cx, args)),
    },
    Command {
        names: &["container exec", "exec"],
        usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
        about: "Execute a command in a running container",
        flags: &[&[
            flag(
                "detach",
                Bool,
                "Detached mode: run command in the background",
            )
            .short('d'),
            flag(
                "detach-keys",
                Text,
                "Override the key sequence for detaching a container",
            ),
            flag("env", List, "Set environment variables")
                .short('e')
                .check(run::validate::env),
            flag("env-file", List, "Read in a file of environment variables"),
            flag("interactive", Bool, "Keep STDIN open even if not attached").short('i'),
            flag(
                "privileged",
                Bool,
                "Give extended privileges to the command",
            ),
            flag("tty", Bool, "Allocate a pseudo-TTY").short('t'),
            flag(
                "user",
                Text,
                "Username or UID (format: \"<name|uid>[:<group|gid>]\")",
            )
            .short('u'),
            flag("workdir", Text, "Working directory inside the container").short('w'),
        ]],
        words: Words::AtLeast(2),
        stop_at_word: true,
        run: |cx, args| Box::pin(container::exec::exec(cx, args)),
    },
    Command {
        names: &["container export", "export"],
        usage: "[OPTIONS] CONTAINER",
        about: "Export a container's filesystem as a tar archive",
        flags: &[&[flag("output", Text, "Write to a file, instead of STDOUT").short('o')]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::export::export(cx, args)),
    },
    Command {
        names: &["container inspect"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Display detailed information on one or more containers",
        flags: &[&[
            flag("format", Text, FORMAT).short('f'),
            flag("size", Bool, "Display total file sizes").short('s'),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(inspect::containers(cx, args)),
    },
    Command {
        names: &["container kill", "kill"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Kill one or more running containers",
        flags: &[&[flag("signal", Text, "Signal to send to the container").short('s')]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::kill(cx, args)),
    },
    Command {
        names: &["container logs", "logs"],
        usage: "[OPTIONS] CONTAINER",
        about: "Fetch the logs of a container",
        flags: &[&[
            flag("details", Bool, "Show extra details provided to logs"),
            flag("follow", Bool, "Follow log output").short('f'),
            flag(
                "since",
                Text,
                "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
            ),
            flag(
                "tail",
                Text,
                "Number of lines to show from the end of the logs",
            )
            .short('n')
            .default("all"),
            flag("timestamps", Bool, "Show timestamps").short('t'),
            flag(
                "until",
                Text,
                "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
            ),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::logs::logs(cx, args)),
    },
    Command {
        names: &["container ls", "container list", "container ps", "ps"],
        usage: "[OPTIONS]",
        about: "List containers",
        flags: &[&[
            flag(
                "all",
                Bool,
                "Show all containers (default shows just running)",
            )
            .short('a'),
            flag(
                "filter",
                Filter,
                "Filter output based on conditions provided",
            )
            .short('f'),
            flag("format", Text, FORMAT),
            flag(
                "last",
                Int,
                "Show n last created containers (includes all states)",
            )
            .short('n')
            .default("-1"),
            flag(
                "latest",
                Bool,
                "Show the latest created container (includes all states)",
            )
            .short('l'),
            flag("no-trunc", Bool, "Don't truncate output"),
            flag("quiet", Bool, "Only display container IDs").short('q'),
            flag("size", Bool, "Display total file sizes").short('s'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::ls::ls(cx, args)),
    },
    Command {
        names: &["container pause", "pause"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Pause all processes within one or more containers",
        flags: &[],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::pause(cx, args)),
    },
    Command {
        names: &["container port", "port"],
        usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
        about: "List port mappings or a specific mapping for the container",
        flags: &[],
        words: Words::Between(1, 2),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::port::port(cx, args)),
    },
    Command {
        names: &["container prune"],
        usage: "[OPTIONS]",
        about: "Remove all stopped containers",
        flags: &[&[
            flag(
                "filter",
                Filter,
                "Provide filter values (e.g. \"until=<timestamp>\")",
            ),
            flag("force", Bool, "Do not prompt for confirmation").short('f'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::prune::prune(cx, args)),
    },
    Command {
        names: &["container rename", "rename"],
        usage: "CONTAINER NEW_NAME",
        about: "Rename a container",
        flags: &[],
        words: Words::Exactly(2),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::rename(cx, args)),
    },
    Command {
        names: &["container restart", "restart"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Restart one or more containers",
        flags: &[&[
            flag("signal", Text, "Signal to send to the container").short('s'),
            flag(
                "timeout",
                Int,
                "Seconds to wait before killing the container",
            )
            .short('t'),
            flag("time", Int, "Seconds to wait before killing the container").hidden(),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::restart(cx, args)),
    },
    Command {
        names: &["container rm", "container remove", "rm"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Remove one or more containers",
        flags: &[&[
            flag(
                "force",
                Bool,
                "Force the removal of a running container (uses SIGKILL)",
            )
            .short('f'),
            flag("link", Bool, "Remove the specified link").short('l'),
            flag(
                "volumes",
                Bool,
                "Remove anonymous volumes associated with the container",
            )
            .short('v'),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::rm(cx, args)),
    },
    Command {
        names: &["container run", "run"],
        usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        about: "Create and run a new container from an image",
        flags: &[run_flags::CREATE, run_flags::RUN],
        words: Words::AtLeast(1),
        stop_at_word: true,
        run: |cx, args| Box::pin(run::run(cx, args)),
    },
    Command {
        names: &["container start", "start"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Start one or more stopped containers",
        flags: &[&[
            flag("attach", Bool, "Attach STDOUT/STDERR and forward signals").short('a'),
            flag("checkpoint", Text, "Restore from this checkpoint"),
            flag(
                "checkpoint-dir",
                Text,
                "Use a custom checkpoint storage directory",
            ),
            flag(
                "detach-keys",
                Text,
                "Override the key sequence for detaching a container",
            ),
            flag("interactive", Bool, "Attach container's STDIN").short('i'),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::start::start(cx, args)),
    },
    Command {
        names: &["container stats", "stats"],
        usage: "[OPTIONS] [CONTAINER...]",
        about: "Display a live stream of container(s) resource usage statistics",
        flags: &[&[
            flag(
                "all",
                Bool,
                "Show all containers (default shows just running)",
            )
            .short('a'),
            flag("format", Text, FORMAT),
            flag(
                "no-stream",
                Bool,
                "Disable streaming stats and only pull the first result",
            ),
            flag("no-trunc", Bool, "Do not truncate output"),
        ]],
        words: Words::Any,
        stop_at_word: false,
        run: |cx, args| Box::pin(container::stats::stats(cx, args)),
    },
    Command {
        names: &["container stop", "stop"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Stop one or more running containers",
        flags: &[&[
            flag("signal", Text, "Signal to send to the container").short('s'),
            flag(
                "timeout",
                Int,
                "Seconds to wait before killing the container",
            )
            .short('t'),
            flag("time", Int, "Seconds to wait before killing the container").hidden(),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::stop(cx, args)),
    },
    Command {
        names: &["container isolation", "isolation"],
        usage: "CONTAINER",
        about: "Show what isolates a running container",
        flags: &[&[flag("format", Text, "'json': print in JSON format")]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::isolation::isolation(cx, args)),
    },
    Command {
        names: &["container top", "top"],
        usage: "CONTAINER [ps OPTIONS]",
        about: "Display the running processes of a container",
        flags: &[],
        words: Words::AtLeast(1),
        stop_at_word: true,
        run: |cx, args| Box::pin(container::top::top(cx, args)),
    },
    Command {
        names: &["container unpause", "unpause"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Unpause all processes within one or more containers",
        flags: &[],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::unpause(cx, args)),
    },
    Command {
        names: &["container update", "update"],
        usage: "[OPTIONS] CONTAINER [CONTAINER...]",
        about: "Update configuration of one or more containers",
        flags: &[&[
            flag(
                "blkio-weight",
                Uint16,
                "Block IO (relative weight), between 10 and 1000, or 0 to disable",
            )
            .default("0"),
            flag(
                "cpu-period",
                Int,
                "Limit CPU CFS (Completely Fair Scheduler) period",
            ),
            flag(
                "cpu-quota",
                Int,
                "Limit CPU CFS (Completely Fair Scheduler) quota",
            ),
            flag(
                "cpu-rt-period",
                Int,
                "Limit the CPU real-time period in microseconds",
            ),
            flag(
                "cpu-rt-runtime",
                Int,
                "Limit the CPU real-time runtime in microseconds",
            ),
            flag("cpu-shares", Int, "CPU shares (relative weight)").short('c'),
            flag("cpus", Cpus, "Number of CPUs"),
            flag(
                "cpuset-cpus",
                Text,
                "CPUs in which to allow execution (0-3, 0,1)",
            ),
            flag(
                "cpuset-mems",
                Text,
                "MEMs in which to allow execution (0-3, 0,1)",
            ),
            flag("memory", Bytes, "Memory limit").short('m'),
            flag("memory-reservation", Bytes, "Memory soft limit"),
            flag(
                "memory-swap",
                Bytes,
                "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
            ),
            flag(
                "pids-limit",
                Int,
                "Tune container pids limit (set -1 for unlimited)",
            ),
            flag(
                "restart",
                Text,
                "Restart policy to apply when a container exits",
            ),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::update::update(cx, args)),
    },
    Command {
        names: &["container wait", "wait"],
        usage: "CONTAINER [CONTAINER...]",
        about: "Block until one or more containers stop, then print their exit codes",
        flags: &[],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(container::lifecycle::wait(cx, args)),
    },
];
