//! `--help` of each command.

/// How a command is used; `None` when there is no such command.
pub(crate) fn of(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "run" => {
            "\
Usage: berth-runtime run [options] <container-id>

Creates and starts a container; waits for its end unless detached.

Options:
  -b, --bundle DIR         directory of config.json (default: the current one)
  --console-socket SOCKET  where the terminal's descriptor is sent
  --pidfd-socket SOCKET    where a descriptor of the process is sent
  --pid-file FILE          where the process's number is written
  -d, --detach             do not wait for the container's end
  --keep                   keep the container's state when it has ended
  --no-pivot               for a host that runs from its initramfs
  --no-subreaper           accepted; orphans come to init when detached
  --no-new-keyring         share the caller's session keyring
  --preserve-fds N         pass on N descriptors after the standard streams
"
        }
        "create" => {
            "\
Usage: berth-runtime create [options] <container-id>

Makes a container that waits for `start`.

Options:
  -b, --bundle DIR         directory of config.json (default: the current one)
  --console-socket SOCKET  where the terminal's descriptor is sent
  --pidfd-socket SOCKET    where a descriptor of the process is sent
  --pid-file FILE          where the process's number is written
  --no-pivot               for a host that runs from its initramfs
  --no-new-keyring         share the caller's session keyring
  --preserve-fds N         pass on N descriptors after the standard streams
"
        }
        "start" => {
            "Usage: berth-runtime start <container-id>\n\nRuns the program of a created container.\n"
        }
        "exec" => {
            "\
Usage: berth-runtime exec [options] <container-id> <command> [arguments]
       berth-runtime exec [options] --process FILE <container-id>

Runs a further program in a running container.

Options:
  -p, --process FILE          the process as JSON
  --cwd DIR                   working directory
  -e, --env NAME=VALUE        set an environment variable
  -t, --tty                   give it a terminal
  -u, --user UID[:GID]        who it runs as
  -g, --additional-gids GIDS  further groups
  --no-new-privs              set no_new_privs
  -c, --cap CAP               add a capability
  --console-socket SOCKET     where the terminal's descriptor is sent
  --pidfd-socket SOCKET       where a descriptor of the process is sent
  --pid-file FILE             where the process's number is written
  -d, --detach                do not wait for its end
  --process-label LABEL       SELinux label
  --apparmor PROFILE          AppArmor profile
  --cgroup [CONTROLLERS:]GROUP  an existing group below the container's
  --ignore-paused             also in a paused container
  --no-subreaper              accepted; orphans come to init when detached
  --preserve-fds N            pass on N descriptors after the standard streams
"
        }
        "kill" => {
            "\
Usage: berth-runtime kill [options] <container-id> [signal]

Sends a signal (default TERM) to a container's first process.

Options:
  -a, --all  to all processes of the container
"
        }
        "delete" => {
            "\
Usage: berth-runtime delete [options] <container-id>

Removes a container that has ended, or was not started.

Options:
  -f, --force  kill it first if it runs
"
        }
        "pause" => {
            "Usage: berth-runtime pause <container-id>\n\nStops all processes of a container.\n"
        }
        "resume" => {
            "Usage: berth-runtime resume <container-id>\n\nLets a paused container go on.\n"
        }
        "ps" => {
            "\
Usage: berth-runtime ps [options] <container-id> [options of ps]

Shows the processes of a container.

Options:
  -f, --format FORMAT  table or json (default: table)
"
        }
        "update" => {
            "\
Usage: berth-runtime update [options] <container-id>

Changes a container's limits.

Options:
  -r, --resources FILE         the limits as JSON; - is standard input
  --blkio-weight WEIGHT        10 to 1000
  --cpu-period MICROSECONDS    period of the quota
  --cpu-quota MICROSECONDS     processor time in a period
  --cpu-burst MICROSECONDS     what may be saved up
  --cpu-share SHARES           weight against other groups
  --cpu-rt-period MICROSECONDS
  --cpu-rt-runtime MICROSECONDS
  --cpu-idle 0|1               run only when nothing else does
  --cpuset-cpus LIST           processors, as 0-2,5
  --cpuset-mems LIST           memory nodes
  --memory SIZE                in bytes, or with a unit; -1 is unlimited
  --memory-reservation SIZE
  --memory-swap SIZE           memory and swap together
  --pids-limit N               most processes
  --l3-cache-schema SCHEMA     of Intel RDT: L3:<cache>=<mask>;…
  --mem-bw-schema SCHEMA       of Intel RDT: MB:<cache>=<share>;…
"
        }
        "events" => {
            "\
Usage: berth-runtime events [options] <container-id>

Prints what a container uses, and when it lacks memory, as lines of JSON.

Options:
  --interval DURATION  between two figures (default: 5s)
  --stats              print the figures once
"
        }
        "checkpoint" => {
            "\
Usage: berth-runtime checkpoint [options] <container-id>

Writes a running container to files, through CRIU, and removes it.

Options:
  --image-path DIR            where to (default: ./checkpoint)
  --work-path DIR             for CRIU's log (default: the same)
  --parent-path DIR           an earlier --pre-dump, from the image path on
  --leave-running             let the container go on
  --tcp-established           also with established TCP connections
  --tcp-skip-in-flight        without TCP connections being established
  --link-remap                link deleted files that are open into place
  --ext-unix-sk               also with unix sockets to outside
  --shell-job                 also with a terminal from outside
  --lazy-pages                serve the memory to a --lazy-pages restore
  --status-fd N               descriptor for a zero byte when it is served
  --page-server ADDRESS:PORT  where the memory is sent
  --file-locks                also with file locks
  --pre-dump                  only the memory; the container goes on
  --manage-cgroups-mode MODE  soft, full, strict or ignore (default: soft)
  --empty-ns NAMESPACE        network: its content is never kept
  --auto-dedup                drop from the parent what is written anew
"
        }
        "restore" => {
            "\
Usage: berth-runtime restore [options] <container-id>

Makes a container from the files that checkpoint wrote, and waits for its end.

Options:
  --console-socket SOCKET     where the terminal's descriptor is sent
  --image-path DIR            where the files are (default: ./checkpoint)
  --work-path DIR             for CRIU's log (default: the same)
  --tcp-established           also with established TCP connections
  --tcp-close                 with established TCP connections closed
  --ext-unix-sk               also with unix sockets to outside
  --shell-job                 also with a terminal from outside
  --file-locks                also with file locks
  --manage-cgroups-mode MODE  soft, full, strict or ignore (default: soft)
  -b, --bundle DIR            with config.json (default: the current directory)
  -d, --detach                do not wait for its end
  --pid-file FILE             where the process's number is written
  --no-subreaper              accepted; orphans come to init when detached
  --no-pivot                  accepted; CRIU makes the root
  --empty-ns NAMESPACE        network: its content is never restored
  --auto-dedup                drop from the files what is restored
  --lazy-pages                fetch the memory when it is used
  --lsm-profile TYPE:NAME     another AppArmor or SELinux profile
  --lsm-mount-context TEXT    another SELinux context for mounts
"
        }
        "state" => {
            "Usage: berth-runtime state <container-id>\n\nPrints a container's state as JSON.\n"
        }
        "list" => {
            "\
Usage: berth-runtime list [options]

Lists the containers of this root.

Options:
  -f, --format FORMAT  table or json (default: table)
  -q, --quiet          only the identifiers
"
        }
        "spec" => {
            "\
Usage: berth-runtime spec [options]

Writes an example config.json.

Options:
  -b, --bundle DIR  where to (default: the current directory)
  --rootless        for a user without privileges
"
        }
        "features" => {
            "Usage: berth-runtime features\n\nPrints what this runtime supports as JSON.\n"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::commands;

    #[test]
    fn every_option_is_told() {
        for (verb, options) in [
            ("run", commands::create::OPTIONS),
            ("exec", commands::exec::OPTIONS),
            ("checkpoint", commands::checkpoint::OPTIONS),
            ("restore", commands::restore::OPTIONS),
            ("update", commands::update::OPTIONS),
            ("list", commands::manage::LIST),
            ("spec", commands::info::SPEC),
        ] {
            let text = of(verb).unwrap();
            for option in options {
                let name = format!("--{} ", option.name());
                assert!(
                    text.replace('\n', " ").contains(&name),
                    "{verb}: {name} is not in its help"
                );
            }
        }
        assert!(of("nope").is_none());
    }
}
