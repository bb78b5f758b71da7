#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the programs with which tests look at the guest from the host's side. Nothing of Bantam needs them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Package: what it is for.
packages=(
    e2fsprogs       # mkfs.ext4, fsck.ext4: disks that the guest mounts, and whether it left them clean
    fio             # what the host's own disk does
    iproute2        # ip, ss: taps, bridges and network namespaces
    iputils-ping    # ping: whether a guest answers
    qemu-system-x86 # another monitor, with the same guest
    qemu-utils      # qemu-img: image formats made and checked by others
    socat           # the other end of sockets and terminals
    tshark          # dumpcap, tshark: what went over the wire
)

. "$here/packages.sh"

usage() {
    cat <<END
Usage: resources/linux/host-tools.sh [--check]

Installs what the tests use on the host. Without the right to do so it says what is missing, and still
succeeds: the tests that need it are skipped, and say so.

  --check   install nothing; list the packages that are missing, one a line; exit code 1 if there are any
END
}

case ${1-} in
    '') ;;
    --check)
        wanted=$(missing "${packages[@]}")
        [[ -z $wanted ]] || { echo "$wanted" && exit 1; }
        exit
        ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
esac

(require "${packages[@]}") || say "going on; tests that need these are skipped"
