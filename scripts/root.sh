# shellcheck shell=bash
# Sourced by scripts that want a real root filesystem to make images of.

# make_root DIRECTORY LOG: a Debian root filesystem, or one of busybox where no
# mirror answers.
make_root() {
    local root=$1 log=$2
    local codename mirror
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } | awk '
        $1 == "URIs:" { print $2 }
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^http/) print $i }' | awk '/\/(debian|ubuntu)\/?$/ && !n++')
    rm -rf "$root" "$root.new"
    mkdir -p "$root.new"
    echo "Making a Debian root filesystem with debootstrap (once, a minute or two) ..."
    if [ -n "$mirror" ] && timeout 180 unshare --mount --propagation private \
        debootstrap --variant=minbase "$codename" "$root.new" "$mirror" >"$log" 2>&1; then
        rm -rf "$root.new"/var/cache/apt/archives/*.deb "$root.new"/var/lib/apt/lists/*
    else
        echo "No package mirror answers (see $log): a root filesystem of busybox instead."
        rm -rf "$root.new"
        mkdir -p "$root.new"/{bin,dev,etc,proc,root,sys,tmp,usr,var}
        cp "$(command -v busybox)" "$root.new/bin/busybox"
        local applet
        for applet in $("$root.new/bin/busybox" --list); do
            [ "$applet" = busybox ] || ln -s busybox "$root.new/bin/$applet"
        done
        echo 'root:x:0:0:root:/root:/bin/sh' >"$root.new/etc/passwd"
        echo 'PRETTY_NAME="busybox"' >"$root.new/etc/os-release"
    fi
    mv "$root.new" "$root"
}
