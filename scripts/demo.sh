#!/usr/bin/env bash
# The main job, shown: an engine on demand, an image from a real root filesystem,
# containers with limits, what isolates them, and what survives. It uses an
# engine of its own, in a network namespace of its own, and removes all it made.
#   scripts/demo.sh DIRECTORY_OF_THE_BINARIES
set -euo pipefail

if [ "$(id -u)" -ne 0 ]; then
    echo 'The demonstration starts an engine, which takes root: sudo make run' >&2
    exit 1
fi
bin=$(cd "${1:?usage: scripts/demo.sh DIRECTORY_OF_THE_BINARIES}" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
root=$here/.cache/demo-root

# shellcheck source=scripts/root.sh
. "$here/scripts/root.sh"

if [ -z "${BERTH_DEMO_NETWORK:-}" ]; then
    mkdir -p "$here/.cache"
    [ -e "$root/etc/os-release" ] || make_root "$root" "$here/.cache/debootstrap.log"
    BERTH_DEMO_NETWORK=$(readlink /proc/self/ns/net) exec unshare --net "$here/scripts/demo.sh" "$bin"
fi
ip link set lo up

# --- an engine of the demonstration's own --------------------------------------

demo=$(mktemp -d "${TMPDIR:-/tmp}/berth-demo.XXXXXX")
export BERTH_HOST=unix://$demo/berth.sock BERTH_DATA_ROOT=$demo/data BERTH_EXEC_ROOT=$demo/run
export BERTH_BRIDGE=default
export PATH=$bin:$PATH
unset DOCKER_HOST DOCKER_CONTEXT BERTH_NO_AUTOSTART DOCKER_API_VERSION

# Processes of this engine: its own directory is in their command line.
ours() { pgrep -f -- "$demo/run" || true; }

clean() {
    local status=$? group pid
    set +e
    if [ -S "$demo/berth.sock" ]; then
        berth ps -aq 2>/dev/null | xargs -r berth rm -f >/dev/null 2>&1
        [ ! -e "$demo/run/berth.pid" ] || kill "$(cat "$demo/run/berth.pid")" 2>/dev/null
    fi
    for _ in $(seq 50); do
        [ -e "$demo/run/berth.pid" ] || break
        sleep 0.1
    done
    # The launcher outlives its daemon, as it should; here it goes too.
    for pid in $(ours); do kill -9 "$pid" 2>/dev/null; done
    for _ in $(seq 50); do
        [ -n "$(ours)" ] || break
        sleep 0.1
    done
    [ -z "${group_name:-}" ] || for group in $(find /sys/fs/cgroup -depth -type d -path "*/$group_name*" 2>/dev/null); do
        rmdir "$group" 2>/dev/null
    done
    rm -rf "$demo"
    [ "$status" -eq 0 ] || echo "The demonstration failed (exit status $status)." >&2
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
[ -t 1 ] || bold='' dim='' plain=''
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
# Shows a command as one would type it, runs it, and indents what it says.
run() {
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'$(tr -s ' \n' ' ' <<<"$word" | sed 's/^ //; s/ $//')'"
        line+=" $word"
    done
    printf '  $%s\n' "$line"
    "$@" 2>&1 | sed 's/^/    /'
}
# The same for a command whose failure is the point.
fails() {
    local status=0
    printf '  $ %s\n' "$1"
    bash -c "$1" 2>&1 | sed 's/^/    /' || status=$?
    printf '    → exit status %s\n' "$status"
}

title "1. An engine on demand"
note "No engine runs. The first command starts one, here with directories of its own."
run berth run --rm hello-world | head -n 8
note "   It is a daemon of its own now (process $(cat "$demo/run/berth.pid")); its log is in its exec root."
group_name=$(tr '\0' '\n' <"/proc/$(cat "$demo/run/berth.pid")/cmdline" | grep -A1 -x -- --cgroup-parent | tail -n 1)
group_name=${group_name#/}

title "2. An image from a real root filesystem"
note "$(. "$root/etc/os-release" && echo "$PRETTY_NAME"), $(du -sh "$root" | cut -f1), as a tar archive into berth import."
started=$(date +%s%N)
tar --numeric-owner -C "$root" -c . | berth import --change 'CMD ["/bin/sh"]' - demo >/dev/null
note "   $((($(date +%s%N) - started) / 1000000)) ms"
run berth images

note "And a build on it: the second time all is known, and the digest is the same."
mkdir "$demo/app"
printf '%s\n' 'FROM demo' 'COPY greeting /etc/' 'RUN tr a-z A-Z </etc/greeting >/etc/shout' 'CMD ["cat", "/etc/shout"]' >"$demo/app/Dockerfile"
echo 'hello from a build' >"$demo/app/greeting"
for _ in 1 2; do
    started=$(date +%s%N)
    run berth build --quiet --tag app "$demo/app"
    note "   $((($(date +%s%N) - started) / 1000000)) ms"
done
run berth run --rm app
run berth image rm app

title "3. A registry of one's own"
note "One command serves one; any client of the OCI distribution specification can use it."
berth registry serve --root "$demo/registry" --addr 127.0.0.1:5000 >"$demo/registry.log" 2>&1 &
registry=$!
until grep -qs ^Serving "$demo/registry.log"; do
    kill -0 "$registry"
    sleep 0.1
done
printf '  $ berth registry serve --root /srv/registry &\n    %s\n' "$(head -n 1 "$demo/registry.log")"
run berth tag demo 127.0.0.1:5000/demo
started=$(date +%s%N)
run berth push --quiet 127.0.0.1:5000/demo
note "   pushed in $((($(date +%s%N) - started) / 1000000)) ms"
run berth registry ls 127.0.0.1:5000/demo
run berth rmi demo 127.0.0.1:5000/demo
started=$(date +%s%N)
run berth pull --quiet 127.0.0.1:5000/demo
note "   pulled in $((($(date +%s%N) - started) / 1000000)) ms; the layer is one file, mounted for containers:"
run berth tag 127.0.0.1:5000/demo demo
run berth system df
kill "$registry"
wait "$registry" || true

title "4. A container with limits"
note "64 MB of memory without swap, half a processor, 20 processes."
run berth run -d --name box --hostname box --memory 64m --memory-swap 64m --cpus 0.5 --pids-limit 20 \
    demo sh -c 'echo "I am process $$ on $(hostname)"; while :; do date +%T; sleep 1; done'
run berth ps --format 'table {{.Names}}\t{{.Image}}\t{{.Status}}'
run berth stats --no-stream box
until [ -n "$(berth logs box)" ]; do sleep 0.1; done
run berth logs box
note "The limits, read back from the kernel in the container's control group:"
run berth exec box sh -c 'cd /sys/fs/cgroup && grep -s . memory/memory.limit_in_bytes memory.max cpu/cpu.cfs_quota_us cpu.max pids/pids.max pids.max; true'
note "And what comes of passing them:"
fails 'berth run --rm --memory 32m --memory-swap 32m demo sh -c "x=a; while :; do x=\$x\$x; done"'
fails 'berth run --rm --pids-limit 5 demo sh -c "for i in 1 2 3 4 5 6; do sleep 1 & done; wait"'

title "5. How it is isolated"
pid=$(berth inspect --format '{{.State.Pid}}' box)
note "Namespaces of the host and of the container (process $pid on the host):"
for kind in mnt pid net ipc uts cgroup user time; do
    [ -e "/proc/$pid/ns/$kind" ] || continue
    theirs=$(readlink "/proc/$pid/ns/$kind")
    host=$(readlink "/proc/self/ns/$kind")
    [ "$kind" != net ] || host=$BERTH_DEMO_NETWORK
    printf '    %-7s %-24s %-24s %s\n' "$kind" "$host" "$theirs" "$([ "$host" = "$theirs" ] && echo shared || echo own)"
done
note "What holds it, read back from the kernel:"
run berth isolation box
note "What of /proc and of the system calls is out of reach:"
run berth exec box sh -c 'head -c 1 /proc/keys | wc -c'
fails 'berth exec box sh -c "echo 1 >/proc/sys/kernel/panic"'
fails 'berth exec box mount -t tmpfs none /mnt'
note "Mounts of this engine in the host's mount table: $(grep -c "$demo" /proc/self/mountinfo || true)"

title "6. The daemon dies, the container does not"
run berth exec box sh -c 'date +%T'
daemon=$(cat "$demo/run/berth.pid")
note "kill -9 $daemon (the daemon)"
kill -9 "$daemon"
sleep 1.2
note "Process $pid still runs: $(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c1-40)..."
note "The next command starts a new daemon, which finds the container again, with every line of its log:"
run berth ps --format 'table {{.Names}}\t{{.Status}}'
run berth logs --tail 3 box
[ "$(berth inspect --format '{{.State.Pid}}' box)" = "$pid" ]

title "7. Speed"
times=()
for _ in 1 2 3 4 5 6 7 8 9 10 11; do
    started=$(date +%s%N)
    berth run --rm demo true
    times+=($((($(date +%s%N) - started) / 100000)))
done
median=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 6p)
note "berth run --rm demo true, the whole command, median of 11: $((median / 10)).$((median % 10)) ms"

title "8. The end"
run berth rm -f box
run berth image rm demo
note "The engine goes with its directories, control groups and network. Next: make test, make bench, README.md"
