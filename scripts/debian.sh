# shellcheck shell=bash
# Sourced by scripts that take packages of another Debian suite without
# installing them: from the mirror this machine already uses.

# The mirror; an error when this machine has none.
debian_mirror() {
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } | awk '
        $1 == "URIs:" { for (i = 2; i <= NF; i++) print $i }
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^http/) print $i }' | awk '
        /\/debian\/?$/ && !n++
        END { if (!n) { print "No Debian mirror among the package sources of this machine." >"/dev/stderr"; exit 1 } }'
}

# debian_apt DIR SUITE: sets the array `apt` to the options that make apt-get and
# apt-cache work on that suite, with all state in DIR, and fetches its lists.
debian_apt() {
    local dir=$1 suite=$2 mirror
    mirror=$(debian_mirror)
    mkdir -p "$dir"/{lists/partial,cache/archives/partial,etc/preferences.d}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/sources.list"
    : >"$dir/status"
    apt=(-o "Dir::State=$dir" -o "Dir::State::status=$dir/status" -o "Dir::Cache=$dir/cache"
        -o "Dir::Etc::SourceList=$dir/sources.list" -o "Dir::Etc::SourceParts=/dev/null"
        -o "Dir::State::Lists=$dir/lists" -o Acquire::Languages=none -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" -qq update
}
