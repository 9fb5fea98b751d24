#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs what this checkout's tools need and the machine lacks, with apt.
#   setup.sh          Python with venv, and git
#   setup.sh servers  also mmdebstrap and, where neither podman nor docker works, podman
# PYTHON names the interpreter to use (default python3).
set -eu

python=${PYTHON:-python3}
missing=

fail() {
    echo "setup: $*" >&2
    exit 1
}

lacks() {
    ! command -v "$1" >/dev/null 2>&1
}

need() {
    missing="$missing $*"
}

"$python" -c 'import ensurepip, venv' 2>/dev/null || need python3 python3-venv
lacks git && need git

if [ "${1:-}" = servers ]; then
    lacks mmdebstrap && need mmdebstrap
    lacks ssh && need openssh-client
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need debian-archive-keyring
    # A docker client whose daemon doesn't run is no container engine.
    if lacks podman && ! docker info >/dev/null 2>&1; then
        need podman netavark aardvark-dns iptables nftables
        # An ordinary user's containers need a little more than root's.
        [ "$(id -u)" = 0 ] || need dbus-user-session fuse-overlayfs passt slirp4netns uidmap
        # Podman prefers crun, which can't run systemd on cgroup v1.
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then need crun; else need runc; fi
    fi
fi

if [ -n "$missing" ]; then
    lacks apt-get && fail "please install:$missing (this script knows only apt)."
    as_root=
    if [ "$(id -u)" != 0 ]; then
        lacks sudo && fail "please have root install:$missing (there is no sudo here)."
        as_root=sudo
    fi
    echo "setup: installing$missing"
    log=$(mktemp)
    if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "apt could not install:$missing (see above, all of it in $log)."
    fi
    rm -f "$log"
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" --version 2>&1), but Python 3.11 or newer is needed: say make PYTHON=/path/to/python3."
