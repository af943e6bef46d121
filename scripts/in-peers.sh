#!/usr/bin/env bash
# Runs PROGRAM from a tree made by scripts/peers.sh, laid over the host's in
# a mount namespace of its own, so that its libraries are found and the host
# sees nothing of it.
#   scripts/in-peers.sh ROOT PROGRAM [ARGUMENT...]
set -euo pipefail
BERTH_PEERS_ROOT=$(cd "$1" && pwd)
export BERTH_PEERS_ROOT
shift
exec unshare --mount --propagation private bash -c '
    set -e
    # crun and podman refuse the hybrid layout: the empty v2 hierarchy goes.
    [ ! -d /sys/fs/cgroup/unified ] || umount -l /sys/fs/cgroup/unified
    mount -t overlay overlay -o "lowerdir=$BERTH_PEERS_ROOT/usr:/usr" /usr
    # What the packages configure and this host does not.
    mount -t overlay overlay -o "lowerdir=/etc:$BERTH_PEERS_ROOT/etc" /etc
    exec "$@"' sh "$@"
