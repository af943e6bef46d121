#!/usr/bin/env bash
# Installs what building, running and testing berth need and this machine lacks.
# Says what it does; does nothing when all is there.
set -euo pipefail

need=()
want() { command -v "$1" >/dev/null 2>&1 || need+=("$2"); }
want cc gcc
want make make
want busybox busybox-static
want ip iproute2
want nft nftables
want ps procps
want curl curl
want debootstrap debootstrap
want fsck.erofs erofs-utils
want python3 python3
want docker-registry docker-registry
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
[ -e /usr/include/stdio.h ] || need+=(libc6-dev)

command -v cargo >/dev/null 2>&1 || {
    echo 'berth is built with Rust, which is not installed: see https://rustup.rs' >&2
    exit 1
}

if [ ${#need[@]} -gt 0 ]; then
    echo "Installing: ${need[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "This needs root: sudo apt-get install ${need[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --no-install-recommends "${need[@]}" >/dev/null
fi

# What the tests drive berth with or check it against: the stock Docker client
# (only the client: no engine is installed or started), other clients, the
# reference registry, the EROFS tools. A test whose program is missing says so.
foreign=()
also() { command -v "$1" >/dev/null 2>&1 || foreign+=("$2"); }
also docker docker-cli
also docker-registry docker-registry
also skopeo skopeo
also podman podman
also buildah buildah
also umoci umoci
also fsck.erofs erofs-utils
if [ ${#foreign[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing for the tests: ${foreign[*]}"
    export DEBIAN_FRONTEND=noninteractive
    [ ${#need[@]} -gt 0 ] || apt-get -qq update
    for package in "${foreign[@]}"; do
        apt-get -qq install --no-install-recommends "$package" >/dev/null 2>&1 ||
            echo "(no package $package here: its tests will be skipped)"
    done
fi

if ! cargo nextest --version >/dev/null 2>&1; then
    echo 'Installing: cargo-nextest'
    cargo install --quiet --locked --target "$(rustc -vV | sed -n 's/^host: //p')" cargo-nextest
fi

# docker-py, for the tests that drive berth with it.
venv=$(dirname "$0")/../.cache/venv
docker_py=7.1.0
if [ "$("$venv/bin/python" -c 'import docker; print(docker.__version__)' 2>/dev/null)" != "$docker_py" ]; then
    echo "Installing: docker-py $docker_py into .cache/venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "docker==$docker_py"
fi
