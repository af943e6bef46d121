#!/usr/bin/env bash
# Runs the tests in small virtual machines with nothing but cgroup v2, on the
# kernels of Debian 12 (6.1) and Debian 13 (6.12).
#   scripts/vm.sh DEBUG_DIR [--kernel 6.1|6.12] [--package CRATE]... [--filter TEXT]...
#       [--init systemd] [--append "KERNEL OPTIONS"]
#   scripts/vm.sh RELEASE_DIR --bench ROUNDS [--kernel 6.1|6.12]
# The second measures the OCI runtimes instead, with the crun and runc of Debian.
# With --init systemd the tests run from a unit, else there is no other process.
# DEBUG_DIR is where `cargo build` put the debug binaries. Everything else (root
# filesystem, kernels) is made once and kept in .cache/vm; remove it to renew.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/debian.sh
. scripts/debian.sh

repo=$PWD
cache=$repo/.cache/vm
debug=$(realpath -m "${1:?usage: scripts/vm.sh DEBUG_DIR [--kernel VERSION] [--package CRATE] [--filter TEXT]}")
shift
declare -A suites=([6.1]=bookworm [6.12]=trixie)
# The newest suite of the two: its C library runs what was built on older ones.
root_suite=trixie
root_packages=attr,busybox-static,criu,crun,curl,dbus,docker-registry,e2fsprogs,erofs-utils,iproute2,kmod,libpam-systemd,nftables,procps,runc,strace,systemd,systemd-sysv
# Seconds for one machine, from power-on to power-off.
limit=${BERTH_VM_TIMEOUT:-3600}

kernels=() packages=() filters=() append= rounds=
while [ $# -gt 0 ]; do
    case $1 in
    --kernel) kernels+=("$2") ;;
    --package) packages+=(-p "$2") ;;
    --filter) filters+=("$2") ;;
    --bench) rounds=$2 ;;
    --append) append+=" $2" ;;
    --init)
        [ "$2" = systemd ] || { echo "vm.sh: no --init $2, only systemd" >&2; exit 1; }
        append+=" berth.init=systemd systemd.unit=berth-tests.service systemd.log_level=warning"
        ;;
    *)
        echo "vm.sh: unknown option $1" >&2
        exit 1
        ;;
    esac
    shift 2
done
[ ${#kernels[@]} -gt 0 ] || kernels=(6.1 6.12)
[ ${#packages[@]} -gt 0 ] || packages=(--workspace)
for kernel in "${kernels[@]}"; do
    [ -n "${suites[$kernel]:-}" ] || { echo "vm.sh: no kernel $kernel, only ${!suites[*]}" >&2; exit 1; }
done
[ "$(id -u)" -eq 0 ] || { echo 'vm.sh: making the root filesystem needs root' >&2; exit 1; }

install_tools() {
    local need=()
    command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
    command -v debootstrap >/dev/null || need+=(debootstrap)
    command -v cpio >/dev/null || need+=(cpio)
    command -v mkfs.ext4 >/dev/null || need+=(e2fsprogs)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need+=(debian-archive-keyring)
    [ ${#need[@]} -gt 0 ] || return 0
    echo "Installing: ${need[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${need[@]}" >/dev/null
}

# disk FILE DIRECTORY SIZE: an ext4 image (sparse) with what the directory holds.
disk() {
    rm -f "$1"
    mkfs.ext4 -q -d "$2" -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 "$1" "$3" >/dev/null
}

# A small Debian with the modules of all kernels.
make_root() {
    [ -e "$cache/root.ext4" ] && [ "$(cat "$cache/packages" 2>/dev/null)" = "$root_suite $root_packages" ] && return 0
    local root=$cache/root kernel package version apt
    rm -rf "$root"
    mkdir -p "$cache"
    echo "Making a root filesystem (Debian $root_suite)"
    debootstrap --variant=minbase --include="$root_packages" "$root_suite" "$root" "$(debian_mirror)" \
        >"$cache/debootstrap.log" 2>&1 || { tail -n 20 "$cache/debootstrap.log" >&2; exit 1; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list*
    rm -f "$root/etc/resolv.conf"
    echo 'nameserver 192.0.2.1' >"$root/etc/resolv.conf"
    mkdir -p "$root/payload"
    for kernel in "${!suites[@]}"; do
        echo "Fetching the $kernel kernel (Debian ${suites[$kernel]})"
        debian_apt "$cache/apt" "${suites[$kernel]}"
        package=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
        mkdir -p "$cache/$kernel/deb"
        (cd "$cache/$kernel/deb" && apt-get "${apt[@]}" -qq download "$package")
        dpkg-deb -x "$cache/$kernel/deb/"*.deb "$cache/$kernel/deb/tree"
        version=${package#linux-image-}
        mkdir -p "$root/usr/lib/modules"
        cp -a "$(find "$cache/$kernel/deb/tree" -path "*/lib/modules/$version" -prune)" "$root/usr/lib/modules/"
        chroot "$root" depmod "$version"
        cp "$cache/$kernel/deb/tree/boot/vmlinuz-$version" "$cache/$kernel/vmlinuz"
        make_boot_modules "$root" "$version" "$cache/$kernel/boot"
        rm -rf "$cache/$kernel/deb" "$cache/apt"
    done
    disk "$cache/root.part" "$root" 6G
    rm -rf "$root"
    mv "$cache/root.part" "$cache/root.ext4"
    echo "$root_suite $root_packages" >"$cache/packages"
}

# make_boot_modules ROOT VERSION DIRECTORY: busybox and, in the order in which
# they load, the modules that the disks need.
make_boot_modules() {
    local number=100 path
    rm -rf "$3"
    mkdir -p "$3"/{bin,dev,proc,sys,root,modules}
    cp "$1/usr/bin/busybox" "$3/bin/"
    for path in $(chroot "$1" modprobe -S "$2" --show-depends -a virtio_pci virtio_blk ext4 |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
        number=$((number + 1))
        case $path in
        *.xz) xz -dc "$1$path" >"$3/modules/$number-$(basename "$path" .xz)" ;;
        *) cp "$1$path" "$3/modules/$number-$(basename "$path")" ;;
        esac
    done
}

# What is tested, and the test runner.
make_payload() {
    local payload=$cache/payload binary list=() file
    rm -rf "$payload"
    mkdir -p "$payload"/{debug/deps,repo,bin,lib}
    cargo nextest list "${packages[@]}" --list-type binaries-only --message-format json \
        >"$payload/binaries.json"
    cargo metadata --format-version 1 --no-deps --offline >"$payload/cargo.json"
    for binary in $(grep -o '"binary-path":"[^"]*"' "$payload/binaries.json" | cut -d'"' -f4); do
        objcopy --strip-debug "$binary" "$payload/debug/${binary#"$debug/"}"
    done
    for binary in berth berth-runtime; do
        [ ! -e "$debug/$binary" ] || objcopy --strip-debug "$debug/$binary" "$payload/debug/$binary"
    done
    # The stock client, when this machine has it.
    file=$(command -v docker || true)
    [ -z "$file" ] || cp -L "$file" "$payload/bin/docker"
    git ls-files -z | xargs -0 cp --parents -t "$payload/repo"
    cp "$(command -v cargo-nextest)" "$payload/bin/"
    cp scripts/vm/init "$payload/init"
    cp -r scripts/vm/systemd "$payload/"
    chmod 755 "$payload/init"
    printf '%s\n' "repo:$repo" "debug:$debug" >"$payload/binds"
    cat >"$payload/run" <<EOF
cd $(printf %q "$repo")
export PATH=/payload/bin:\$PATH RUST_BACKTRACE=1 BERTH_TEST_PATIENCE=6 BERTH_BIN_DIR=$(printf %q "$debug")
cargo-nextest nextest run --profile vm --color never --show-progress none \
    --binaries-metadata /payload/binaries.json --cargo-metadata /payload/cargo.json${filters[*]:+$(printf ' %q' "${filters[@]}")}
EOF
    disk "$cache/payload.ext4" "$payload" 4G
    rm -rf "$payload"
}

# What is measured.
make_bench_payload() {
    local payload=$cache/payload program
    rm -rf "$payload"
    mkdir -p "$payload/bin"
    cp "$debug/berth-runtime" "$debug/berth-bench" "$payload/bin/"
    # GNU time tells the peak memory; a peer that this machine has been given.
    for program in time youki; do
        program=$(type -P "$program" || true)
        [ -z "$program" ] || cp -L "$program" "$payload/bin/"
    done
    cp scripts/vm/init "$payload/init"
    chmod 755 "$payload/init"
    : >"$payload/binds"
    cat >"$payload/run" <<EOF
export PATH=\$PATH:/payload/bin
berth-bench --bin-dir /payload/bin --only runtimes --rounds $rounds
EOF
    disk "$cache/payload.ext4" "$payload" 1G
    rm -rf "$payload"
}

# boot KERNEL: true when its tests passed.
boot() {
    local dir=$cache/$1 log=$cache/$1.log
    install -m 755 scripts/vm/boot "$dir/boot/init"
    for applet in sh mount insmod switch_root; do ln -sf busybox "$dir/boot/bin/$applet"; done
    (cd "$dir/boot" && find . | cpio --quiet -o -H newc) >"$dir/initramfs"
    # Software emulation: KVM may be there and not work. Nothing written to the
    # disks outlives the machine.
    timeout "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu Nehalem -smp 2 -m 4096 \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio \
        -kernel "$dir/vmlinuz" -initrd "$dir/initramfs" \
        -append 'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on'"$append" \
        -drive "file=$cache/root.ext4,if=virtio,format=raw,snapshot=on,cache=unsafe" \
        -drive "file=$cache/payload.ext4,if=virtio,format=raw,snapshot=on,cache=unsafe" \
        -object rng-random,filename=/dev/urandom,id=rng -device virtio-rng-pci,rng=rng \
        </dev/null | tr -d '\r' | tee "$log" || true
    grep -qx 'vm: exit status 0' "$log"
}

install_tools
make_root
if [ -n "$rounds" ]; then make_bench_payload; else make_payload; fi
failed=()
for kernel in "${kernels[@]}"; do
    echo "== Linux $kernel, cgroup v2"
    boot "$kernel" || failed+=("$kernel")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "vm.sh: the tests did not pass on Linux ${failed[*]}; the output is in $cache/<kernel>.log" >&2
    exit 1
fi
echo "vm.sh: all tests passed on Linux ${kernels[*]}"
