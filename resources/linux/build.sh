#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the test guest (vmlinux, bzImage, initramfs.cpio) into a cache folder and prints that folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${BANTAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bantam}
sources=(linux-source-6.1 busybox-static)
tools=(bc bison cpio flex gcc libelf-dev libssl-dev lz4 make patch xz-utils)
# The shell knows all of busybox's programs by itself; links serve everything else, and each costs boot time.
links=(sh cat dd dmesg ls mount nproc poweroff ps reboot sleep uname vi)

say() { echo "linux/build.sh: $*" >&2; }
die() { say "$*"; exit 1; }

usage() {
    cat <<'END'
Usage: resources/linux/build.sh [--help]

Builds a small Linux kernel from Debian's linux-source-6.1 and an initramfs around Debian's
busybox-static. Takes some minutes once; later runs only print the folder with the result:
vmlinux (ELF with a PVH note), bzImage, initramfs.cpio, System.map, config.

  BANTAM_CACHE   cache folder  (default: ${XDG_CACHE_HOME:-~/.cache}/bantam)
  JOBS           compiler jobs (default: one a CPU)
END
}

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

# Every requested symbol must have survived Kconfig's dependencies.
check_config() {
    local lost
    lost=$(grep '^CONFIG_' "$here/config" | grep -vxFf "$1" || true)
    [[ -z $lost ]] || die "the kernel's configuration lacks: ${lost//$'\n'/ }"
}

build_kernel() {
    local source=$1/source out=$1/out make
    require "${tools[@]}"
    say "unpacking the kernel source"
    mkdir "$source" "$out"
    tar -xf /usr/src/linux-source-6.1.tar.xz -C "$source" --strip-components=1
    patch -d "$source" -p1 --silent <"$here/interpreted-host.patch"

    make=(make -s -C "$source" "O=$out" "-j${JOBS:-$(nproc)}"
        KBUILD_BUILD_USER=bantam KBUILD_BUILD_HOST=bantam KBUILD_BUILD_VERSION=1
        "KBUILD_BUILD_TIMESTAMP=@$(stat -c %Y /usr/src/linux-source-6.1.tar.xz)")
    "${make[@]}" KCONFIG_ALLCONFIG="$here/config" allnoconfig >&2
    check_config "$out/.config"
    say "building the kernel (some minutes)"
    "${make[@]}" bzImage >&2

    strip --strip-all --remove-section=.comment -o "$1/result/vmlinux" "$out/vmlinux"
    cp "$out/arch/x86/boot/bzImage" "$out/System.map" "$1/result/"
    cp "$out/.config" "$1/result/config"
    gcc -O1 -o "$1/result/gen_init_cpio" "$source/usr/gen_init_cpio.c"
}

# Device nodes come from the list, so nobody needs to be root.
build_initramfs() {
    say "building the initramfs"
    printf '%s /%s %s defaults 0 0\n' proc proc proc sysfs sys sysfs dev dev devtmpfs >"$1/fstab"
    {
        printf 'dir /%s 755 0 0\n' bin dev etc mnt proc root sys tmp
        echo 'nod /dev/console 600 0 0 c 5 1'
        echo 'nod /dev/port 600 0 0 c 1 4'
        echo 'file /bin/busybox /bin/busybox 755 0 0'
        echo "file /init $here/init 755 0 0"
        echo "file /etc/profile $here/profile 644 0 0"
        echo "file /etc/fstab $1/fstab 644 0 0"
        printf 'slink /bin/%s busybox 777 0 0\n' "${links[@]}"
    } >"$1/list"
    "$kernel/gen_init_cpio" -t 0 "$1/list" >"$1/result/initramfs.cpio"
    cp -l "$kernel"/{vmlinux,bzImage,System.map,config} "$1/result/"
}

# key <package> <file>...: names a version of what is built from them.
key() {
    local package=$1
    shift
    { dpkg-query -W "$package" && cat "${@/#/$here/}"; } | sha256sum | cut -c1-12
}

# cached <folder> <builder>: builds into a temporary folder's `result` and renames it into place.
cached() {
    [[ -d $1 ]] && return
    mkdir -p "$cache"
    exec 9>"$cache/linux.lock"
    flock 9
    [[ -d $1 ]] && return
    work=$(mktemp -d "$cache/.linux-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/result"
    "$2" "$work"
    mv "$work/result" "$1"
    rm -rf "$work"
}

case ${1-} in
    '') ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
esac

[[ $(uname -m) == x86_64 ]] || die "builds on x86-64 only"
command -v dpkg-query >/dev/null || die "needs Debian 12 or later with its packages ${sources[*]}"
require "${sources[@]}"
kernel=$cache/kernel-$(key linux-source-6.1 build.sh config interpreted-host.patch)
result=$cache/linux-$(basename "$kernel" | cut -d- -f2)-$(key busybox-static init profile)
cached "$kernel" build_kernel
cached "$result" build_initramfs
echo "$result"
