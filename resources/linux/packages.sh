# SPDX-License-Identifier: Apache-2.0
# For the scripts beside this file: messages, and Debian's packages.

say() { echo "linux/$(basename "$0"): $*" >&2; }
die() { say "$*"; exit 1; }

missing() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
}

# Installs what is missing of the given Debian packages.
require() {
    local wanted sudo=()
    mapfile -t wanted < <(missing "$@")
    ((${#wanted[@]})) || return 0
    command -v apt-get >/dev/null || die "needs Debian's packages: ${wanted[*]}"
    if ((EUID)); then
        sudo -n true 2>/dev/null || die "not root, no sudo; please run: apt-get install ${wanted[*]}"
        sudo=(sudo -n)
    fi
    say "installing ${wanted[*]}"
    local install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${wanted[@]}")
    "${install[@]}" >&2 && return
    "${sudo[@]}" apt-get update -q >&2
    "${install[@]}" >&2 || die "cannot install ${wanted[*]}"
}
