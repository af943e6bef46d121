#!/usr/bin/env bash
# Builds real projects (tests/projects: C, Rust, Go, Python, Node), each with its
# tool chain from package registries, runs what comes out, and builds all of them
# again in a second, fresh engine: the images must have the same digests.
#   scripts/projects.sh DIRECTORY_OF_THE_BINARIES [PROJECT]...
# The engines are of the script's own, without a network of theirs: RUN steps use
# the host's, to reach the registries.
set -euo pipefail

[ "$(id -u)" -eq 0 ] || { echo 'This starts engines, which takes root.' >&2; exit 1; }
bin=$(cd "${1:?usage: scripts/projects.sh DIRECTORY_OF_THE_BINARIES [PROJECT]...}" && pwd)
shift
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/root.sh
. "$here/scripts/root.sh"
root=$here/.cache/demo-root
mkdir -p "$here/.cache"
[ -e "$root/etc/os-release" ] || make_root "$root" "$here/.cache/debootstrap.log"
projects=("$@")
[ ${#projects[@]} -gt 0 ] || projects=(c rust go python node)

work=$(mktemp -d "${BERTH_PROJECTS_DIR:-/var/tmp}/berth-projects.XXXXXX")
unset DOCKER_HOST DOCKER_CONTEXT BERTH_HOST
export BERTH_NO_AUTOSTART=1 PATH=$bin:$PATH
engines=()

ours() { pgrep -f -- "$work/" | grep -vx $$ || true; }

clean() {
    local status=$? pid group
    set +e
    [ ${#engines[@]} -eq 0 ] || kill "${engines[@]}" 2>/dev/null
    for pid in "${engines[@]}"; do wait "$pid" 2>/dev/null; done
    for pid in $(ours); do kill -9 "$pid" 2>/dev/null; done
    for group in $(find /sys/fs/cgroup -depth -type d -path "*/${work##*/}*" 2>/dev/null); do rmdir "$group" 2>/dev/null; done
    rm -rf "$work"
    [ "$status" -eq 0 ] || echo "Failed (exit status $status)." >&2
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

# engine NAME: a fresh engine; sets BERTH_HOST.
engine() {
    local at=$work/$1
    mkdir -p "$at"
    berth daemon -H "unix://$at/berth.sock" --data-root "$at/data" --exec-root "$at/run" \
        --pidfile "$at/pid" --bridge none --cgroup-parent "/${work##*/}-$1" >"$at/log" 2>&1 &
    engines+=($!)
    export BERTH_HOST=unix://$at/berth.sock
    until berth version >/dev/null 2>&1; do
        kill -0 "${engines[-1]}" || { cat "$at/log" >&2; exit 1; }
        sleep 0.05
    done
}

build() {
    local tag=$1 dir=$2 started
    shift 2
    started=$(date +%s%N)
    berth build --quiet --network host --allow network.host -t "$tag" "$@" "$dir" >/dev/null
    printf '  %-14s %6d ms\n' "$tag" $((($(date +%s%N) - started) / 1000000))
}

declare -A says=(
    [c]='Hello from C, built on Jan  2 1980'
    [rust]='Hello from Rust, 42'
    [go]='Hello from Go 1.2.3'
    [python]='Hello from Python 42'
    [node]='Hello from Node, 1 minute'
)

engine first
# The machine's own certificate authorities, for registries behind a proxy.
tar --numeric-owner -C "$root" --exclude=./etc/ssl/certs/ca-certificates.crt -c . >"$work/base.tar"
tar --numeric-owner -rhf "$work/base.tar" -C / ./etc/ssl/certs/ca-certificates.crt ./usr/local/share/ca-certificates
berth import "$work/base.tar" debian:base >/dev/null
rm "$work/base.tar"

echo 'Tool chains (from package registries):'
for project in "${projects[@]}"; do
    build "tools:$project" "$here/tests/projects/tools" --target "$project"
done
declare -A digest=()
echo 'Projects, first time:'
for project in "${projects[@]}"; do
    build "$project" "$here/tests/projects/$project"
    digest[$project]=$(berth images --no-trunc --quiet "$project")
done
echo 'The same again, from the cache:'
for project in "${projects[@]}"; do
    build "$project" "$here/tests/projects/$project"
    [ "$(berth images --no-trunc --quiet "$project")" = "${digest[$project]}" ]
done
echo 'What they say:'
for project in "${projects[@]}"; do
    said=$(berth run --rm --network none "$project")
    printf '  %-8s %s\n' "$project" "$said"
    [[ $said == "${says[$project]}"* ]] || { echo "  expected: ${says[$project]}" >&2; exit 1; }
done

tools=()
for project in "${projects[@]}"; do tools+=("tools:$project"); done
berth save -o "$work/tools.tar" debian:base "${tools[@]}"
engine second
berth load --quiet -i "$work/tools.tar" >/dev/null
rm "$work/tools.tar"
echo 'Projects, in another engine:'
for project in "${projects[@]}"; do
    build "$project" "$here/tests/projects/$project"
    other=$(berth images --no-trunc --quiet "$project")
    [ "$other" = "${digest[$project]}" ] || {
        echo "  $project: $other is not ${digest[$project]}" >&2
        exit 1
    }
done
echo 'All have the digests of the first engine.'
