//! The commands on builds: those of Docker's plugin buildx, for the one builder
//! "default".

use super::{Command, FORMAT, Words};
use crate::build::{self, builders, cache};
use crate::flags::Kind::*;
use crate::flags::{Flag, flag};
use crate::run::validate;

const BUILDER: Flag = flag("builder", Text, "Override the configured builder instance");
const DEBUG: Flag = flag("debug", Bool, "Enable debug logging").short('D');

#[rustfmt::skip]
static BUILD: &[Flag] = &[
    flag("add-host", Strings, "Add a custom host-to-IP mapping (format: \"host:ip\")").check(validate::extra_hosts),
    flag("allow", Array, "Allow extra privileged entitlement (e.g., \"network.host\", \"security.insecure\")"),
    flag("annotation", Array, "Add annotation to the image"),
    flag("attest", Array, "Attestation parameters (format: \"type=sbom,generator=image\")"),
    flag("build-arg", Array, "Set build-time variables"),
    flag("build-context", Array, "Additional build contexts (e.g., name=path)"),
    BUILDER,
    flag("cache-from", Array, "External cache sources (e.g., \"user/app:cache\", \"type=local,src=path/to/dir\")"),
    flag("cache-to", Array, "Cache export destinations (e.g., \"user/app:cache\", \"type=local,dest=path/to/dir\")"),
    flag("call", Text, "Set method for evaluating build (\"check\", \"outline\", \"targets\")").default("build"),
    flag("cgroup-parent", Text, "Set the parent cgroup for the \"RUN\" instructions during build"),
    flag("check", Bool, "Shorthand for \"--call=check\""),
    DEBUG,
    flag("file", Text, "Name of the Dockerfile (default: \"PATH/Dockerfile\")").short('f'),
    flag("iidfile", Text, "Write the image ID to a file"),
    flag("label", Array, "Set metadata for an image"),
    flag("load", Bool, "Shorthand for \"--output=type=docker\""),
    flag("metadata-file", Text, "Write build result metadata to a file"),
    flag("network", Text, "Set the networking mode for the \"RUN\" instructions during build").default("default"),
    flag("no-cache", Bool, "Do not use cache when building the image"),
    flag("no-cache-filter", Array, "Do not cache specified stages"),
    flag("output", Array, "Output destination (format: \"type=local,dest=path\")").short('o'),
    flag("platform", Array, "Set target platform for build"),
    flag("policy", Array, "Policy configuration (format: \"filename=path\")").hidden(),
    flag("progress", Text, "Set type of progress output (\"auto\", \"none\", \"plain\", \"quiet\", \"rawjson\", \"tty\"). Use plain to show container output").default("auto"),
    flag("provenance", Text, "Shorthand for \"--attest=type=provenance\""),
    flag("pull", Bool, "Always attempt to pull all referenced images"),
    flag("push", Bool, "Shorthand for \"--output=type=registry,unpack=false\""),
    flag("quiet", Bool, "Suppress the build output and print image ID on success").short('q'),
    flag("sbom", Text, "Shorthand for \"--attest=type=sbom\""),
    flag("secret", Array, "Secret to expose to the build (format: \"id=mysecret[,src=/local/secret]\")"),
    flag("shm-size", Bytes, "Shared memory size for build containers").default("0"),
    flag("ssh", Array, "SSH agent socket or keys to expose to the build (format: \"default|<id>[=<socket>|<key>[,<key>]]\")"),
    flag("tag", Array, "Image identifier (format: \"[registry/]repository[:tag]\")").short('t'),
    flag("target", Text, "Set the target build stage to build"),
    flag("ulimit", Ulimit, "Ulimit options").default("[]").check(validate::ulimit),
    // Of the classic client.
    flag("compress", Bool, "Compress the build context using gzip").hidden(),
    flag("cpu-period", Int, "Limit the CPU CFS (Completely Fair Scheduler) period"),
    flag("cpu-quota", Int, "Limit the CPU CFS (Completely Fair Scheduler) quota"),
    flag("cpu-shares", Int, "CPU shares (relative weight)").short('c'),
    flag("cpuset-cpus", Text, "CPUs in which to allow execution (\"0-3\", \"0,1\")"),
    flag("cpuset-mems", Text, "MEMs in which to allow execution (\"0-3\", \"0,1\")"),
    flag("force-rm", Bool, "Always remove intermediate containers").hidden(),
    flag("isolation", Text, "Container isolation technology").hidden(),
    flag("memory", Bytes, "Memory limit").short('m').default("0"),
    flag("memory-swap", Bytes, "Swap limit equal to memory plus swap: \"-1\" to enable unlimited swap").default("0"),
    flag("rm", Bool, "Remove intermediate containers after a successful build").hidden(),
    flag("security-opt", Strings, "Security options").hidden(),
    flag("squash", Bool, "Squash newly built layers into a single new layer").hidden(),
];

pub(super) static COMMANDS: &[Command] = &[
    Command {
        names: &[
            "buildx build",
            "build",
            "builder build",
            "image build",
            "buildx b",
        ],
        usage: "[OPTIONS] PATH | URL | -",
        about: "Start a build",
        flags: &[BUILD],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(build::build(cx, args)),
    },
    Command {
        names: &["buildx prune", "builder prune"],
        usage: "[OPTIONS]",
        about: "Remove build cache",
        flags: &[&[
            flag("all", Bool, "Include internal/frontend images").short('a'),
            BUILDER,
            DEBUG,
            flag("filter", Filter, "Provide filter values"),
            flag("force", Bool, "Do not prompt for confirmation").short('f'),
            flag(
                "keep-storage",
                Bytes,
                "Amount of disk space to keep for cache",
            )
            .hidden(),
            flag(
                "max-used-space",
                Bytes,
                "Maximum amount of disk space allowed to keep for cache",
            )
            .default("0"),
            flag(
                "min-free-space",
                Bytes,
                "Target amount of free disk space after pruning",
            )
            .default("0"),
            flag(
                "reserved-space",
                Bytes,
                "Amount of disk space always allowed to keep for cache",
            )
            .default("0"),
            flag("verbose", Bool, "Provide a more verbose output"),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(cache::prune(cx, args)),
    },
    Command {
        names: &["buildx du", "builder du"],
        usage: "[OPTIONS]",
        about: "Disk usage",
        flags: &[&[
            BUILDER,
            DEBUG,
            flag("filter", Filter, "Provide filter values"),
            flag("format", Text, FORMAT),
            flag("verbose", Bool, "Shorthand for \"--format=pretty\""),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(cache::du(cx, args)),
    },
    Command {
        names: &["buildx inspect"],
        usage: "[NAME]",
        about: "Inspect current builder instance",
        flags: &[&[
            flag(
                "bootstrap",
                Bool,
                "Ensure builder has booted before inspecting",
            ),
            BUILDER,
            DEBUG,
        ]],
        words: Words::AtMost(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(builders::inspect(cx, args)),
    },
    Command {
        names: &["buildx ls"],
        usage: "[OPTIONS]",
        about: "List builder instances",
        flags: &[&[
            DEBUG,
            flag("format", Text, "Format the output").default("table"),
            flag("no-trunc", Bool, "Don't truncate output"),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(builders::ls(cx, args)),
    },
    Command {
        names: &["buildx version"],
        usage: "",
        about: "Show buildx version information",
        flags: &[&[DEBUG]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(builders::version(cx, args)),
    },
];
