#!/usr/bin/env bash
# Fetches newer peers (Docker Engine, containerd, runc, crun, podman, CRIU) and unpacks
# them into DIR without installing anything: packages of another Debian suite,
# from the mirror this machine already uses.
#   scripts/peers.sh DIR [SUITE] [PACKAGE...]
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
suite=${2:-sid}
shift $(($# < 2 ? $# : 2))
packages=("$@")
# Names of libraries differ between suites: those that do not exist are passed over.
[ ${#packages[@]} -gt 0 ] || packages=(docker.io docker-cli docker-buildx containerd runc crun podman conmon netavark aardvark-dns
    golang-github-containers-common golang-github-containers-image
    criu iptables libassuan9 libblake3-0 libbsd0 libbtrfs0t64 libc6 libcap2 libcompel1 libcriu2
    libdevmapper1.02.1 libedit2 libffi8 libglib2.0-0t64 libgmp10 libgnutls30t64
    libgpgme11t64 libgpgme45 libhogweed6t64 libidn2-0 libip4tc2 libip6tc2 libjansson4 libmd0 libmnl0 libnet9
    libnetfilter-conntrack3 libnettle8t64 libnfnetlink0 libnftables1 libnftnl11 libnl-3-200 libp11-kit0
    libpcre2-8-0 libprotobuf-c1 libseccomp2 libsqlite3-0 libsubid5 libsubid6 libsystemd0 libtasn1-6
    libtinfo6 libunistring5 libuuid1 libxtables12 libyajl2)

# shellcheck source=scripts/debian.sh
. "$(dirname "$0")/debian.sh"
debian_apt "$dir/apt" "$suite"
mkdir -p "$dir/deb"
mapfile -t packages < <(apt-cache "${apt[@]}" --names-only search . | awk '{ print $1 }' | sort |
    comm -12 - <(printf '%s\n' "${packages[@]}" | sort))
(cd "$dir/deb" && apt-get "${apt[@]}" -qq download "${packages[@]}")
for deb in "$dir"/deb/*.deb; do dpkg-deb -x "$deb" "$dir/root"; done
# What the alternatives system would do after an installation.
for name in iptables ip6tables iptables-save ip6tables-save iptables-restore ip6tables-restore; do
    ln -sf xtables-nft-multi "$dir/root/usr/sbin/$name"
done
rm -rf "$dir/apt" "$dir/deb"
echo "$dir/root"
