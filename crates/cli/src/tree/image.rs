//! The commands on image.

use super::{Command, FORMAT, Words};
use crate::flags::Kind::*;
use crate::flags::flag;
use crate::{image, inspect};

pub(super) static COMMANDS: &[Command] = &[
    Command {
        names: &["image history", "history"],
        usage: "[OPTIONS] IMAGE",
        about: "Show the history of an image",
        flags: &[&[
            flag("format", Text, FORMAT),
            flag(
                "human",
                Bool,
                "Print sizes and dates in human readable format",
            )
            .short('H')
            .default("true"),
            flag("no-trunc", Bool, "Don't truncate output"),
            flag(
                "platform",
                Text,
                "Show history for the given platform. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
            ),
            flag("quiet", Bool, "Only show image IDs").short('q'),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::history::history(cx, args)),
    },
    Command {
        names: &["image import", "import"],
        usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        about: "Import the contents from a tarball to create a filesystem image",
        flags: &[&[
            flag(
                "change",
                List,
                "Apply Dockerfile instruction to the created image",
            )
            .short('c'),
            flag("message", Text, "Set commit message for imported image").short('m'),
            flag(
                "platform",
                Text,
                "Set platform if server is multi-platform capable",
            ),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::load::import(cx, args)),
    },
    Command {
        names: &["image inspect"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        about: "Display detailed information on one or more images",
        flags: &[&[
            flag("format", Text, FORMAT).short('f'),
            flag(
                "platform",
                Text,
                "Inspect a specific platform of the multi-platform image.\nIf the image or the server is not multi-platform capable, the command will error out if the platform does not match.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
            ),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(inspect::images(cx, args)),
    },
    Command {
        names: &["image load", "load"],
        usage: "[OPTIONS]",
        about: "Load an image from a tar archive or STDIN",
        flags: &[&[
            flag(
                "input",
                Text,
                "Read from tar archive file, instead of STDIN",
            )
            .short('i'),
            flag(
                "platform",
                Strings,
                "Load only the given platform(s). Formatted as a comma-separated list of \"os[/arch[/variant]]\" (e.g., \"linux/amd64,linux/arm64/v8\").",
            ),
            flag("quiet", Bool, "Suppress the load output").short('q'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::load::load(cx, args)),
    },
    Command {
        names: &["image ls", "image list", "images"],
        usage: "[OPTIONS] [REPOSITORY[:TAG]]",
        about: "List images",
        flags: &[&[
            flag(
                "all",
                Bool,
                "Show all images (default hides intermediate images)",
            )
            .short('a'),
            flag("digests", Bool, "Show digests"),
            flag(
                "filter",
                Filter,
                "Filter output based on conditions provided",
            )
            .short('f'),
            flag("format", Text, FORMAT),
            flag("no-trunc", Bool, "Don't truncate output"),
            flag("quiet", Bool, "Only show image IDs").short('q'),
            flag(
                "tree",
                Bool,
                "List multi-platform images as a tree (EXPERIMENTAL)",
            ),
        ]],
        words: Words::AtMost(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::ls::ls(cx, args)),
    },
    Command {
        names: &["image prune"],
        usage: "[OPTIONS]",
        about: "Remove unused images",
        flags: &[&[
            flag(
                "all",
                Bool,
                "Remove all unused images, not just dangling ones",
            )
            .short('a'),
            flag(
                "filter",
                Filter,
                "Provide filter values (e.g. \"until=<timestamp>\")",
            ),
            flag("force", Bool, "Do not prompt for confirmation").short('f'),
        ]],
        words: Words::Exactly(0),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::prune::prune(cx, args)),
    },
    Command {
        names: &["image pull", "pull"],
        usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
        about: "Download an image from a registry",
        flags: &[&[
            flag(
                "all-tags",
                Bool,
                "Download all tagged images in the repository",
            )
            .short('a'),
            flag(
                "platform",
                Text,
                "Set platform if server is multi-platform capable",
            ),
            flag("quiet", Bool, "Suppress verbose output").short('q'),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::pull::pull(cx, args)),
    },
    Command {
        names: &["image push", "push"],
        usage: "[OPTIONS] NAME[:TAG]",
        about: "Upload an image to a registry",
        flags: &[&[
            flag(
                "all-tags",
                Bool,
                "Push all tags of an image to the repository",
            )
            .short('a'),
            flag(
                "platform",
                Text,
                "Push a platform-specific manifest as a single-platform image to the registry.\nImage index won't be pushed, meaning that other manifests, including attestations won't be preserved.\n'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
            ),
            flag("quiet", Bool, "Suppress verbose output").short('q'),
        ]],
        words: Words::Exactly(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::push::push(cx, args)),
    },
    Command {
        names: &["image rm", "image remove", "rmi"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        about: "Remove one or more images",
        flags: &[&[
            flag("force", Bool, "Force removal of the image").short('f'),
            flag("no-prune", Bool, "Do not delete untagged parents"),
            flag(
                "platform",
                Strings,
                "Remove only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
            ),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::rm::rm(cx, args)),
    },
    Command {
        names: &["image save", "save"],
        usage: "[OPTIONS] IMAGE [IMAGE...]",
        about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
        flags: &[&[
            flag("output", Text, "Write to a file, instead of STDOUT").short('o'),
            flag(
                "platform",
                Strings,
                "Save only the given platform(s). Formatted as a comma-separated list of \"os[/arch[/variant]]\" (e.g., \"linux/amd64,linux/arm64/v8\")",
            ),
        ]],
        words: Words::AtLeast(1),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::save::save(cx, args)),
    },
    Command {
        names: &["image tag", "tag"],
        usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        flags: &[],
        words: Words::Exactly(2),
        stop_at_word: false,
        run: |cx, args| Box::pin(image::rm::tag(cx, args)),
    },
];
