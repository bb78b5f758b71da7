#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the test guest (a kernel, initramfs archives, a root file system) into a cache folder and prints that folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${BANTAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bantam}
# Their versions are part of the results' names.
kernel_packages=(linux-source-6.1)
image_packages=(busybox-static e2fsprogs musl-dev)
image_tools=(gcc libc6-dev musl-tools)
# The shell knows all of busybox's programs by itself; links serve everything else, and each costs boot time.
links=(sh cat dd dmesg ls mount nproc poweroff ps reboot sleep uname vi)
folders=(bin dev etc mnt proc root sys tmp)

. "$here/packages.sh"
. "$here/kernel.sh"

usage() {
    cat <<'END'
Usage: resources/linux/build.sh [--help]

Builds a small Linux kernel from Debian's linux-source-6.1 and images around Debian's busybox-static.
Takes some minutes once; later runs only print the folder with the result:
  vmlinux         the kernel: ELF with a PVH note; bzImage, System.map, config
  initramfs.cpio  an initramfs with a shell
  devices.cpio    the same with jobs for virtio devices
  root.ext4       the same as a root file system of 16 MiB; copy it before use

  BANTAM_CACHE   cache folder  (default: ${XDG_CACHE_HOME:-~/.cache}/bantam)
  JOBS           compiler jobs (default: one a CPU)
END
}

# archive <work folder> <file>: device nodes come from the list, so nobody needs to be root. The list goes on at stdin.
archive() {
    {
        printf 'dir /%s 755 0 0\n' "${folders[@]}"
        echo 'nod /dev/console 600 0 0 c 5 1'
        echo 'nod /dev/port 600 0 0 c 1 4'
        echo 'file /bin/busybox /bin/busybox 755 0 0'
        echo "file /init $here/init 755 0 0"
        echo "file /etc/profile $here/profile 644 0 0"
        echo "file /etc/fstab $1/fstab 644 0 0"
        printf 'slink /bin/%s busybox 777 0 0\n' "${links[@]}"
        cat
    } >"$1/list"
    "$kernel/gen_init_cpio" -t 0 "$1/list" >"$2"
}

# The kernel mounts /dev by itself if there is no initramfs.
build_root() {
    local root=$1/root link
    mkdir -p "${folders[@]/#/$root/}" "$root/sbin"
    cp /bin/busybox "$1/tools" "$root/bin/"
    cp "$here/init" "$root/sbin/init"
    cp "$here/profile" "$here/jobs" "$root/etc/"
    grep -v devtmpfs "$1/fstab" >"$root/etc/fstab"
    for link in "${links[@]}"; do ln -s busybox "$root/bin/$link"; done
    chmod -R u=rwX,go=rX "$root"
    truncate -s 16M "$1/result/root.ext4"
    /sbin/mkfs.ext4 -q -F -b 4096 -L bantam -m 0 -N 256 -E root_owner=0:0 -d "$root" "$1/result/root.ext4"
}

build_images() {
    require "${image_tools[@]}"
    say "building the initramfs and the root file system"
    printf '%s /%s %s defaults 0 0\n' proc proc proc sysfs sys sysfs dev dev devtmpfs >"$1/fstab"
    # A program linked with musl is a tenth of one linked with glibc; the kernel's headers are the C library's package's.
    musl-gcc -D_GNU_SOURCE -static -s -Os -Wall -Wextra -idirafter /usr/include -idirafter "/usr/include/$(gcc -print-multiarch)" \
        -o "$1/tools" "$here"/tools/*.c
    archive "$1" "$1/result/initramfs.cpio" </dev/null
    archive "$1" "$1/result/devices.cpio" <<END
file /bin/tools $1/tools 755 0 0
file /etc/jobs $here/jobs 644 0 0
END
    build_root "$1"
    cp -l "$kernel"/{vmlinux,bzImage,System.map,config} "$1/result/"
}

# key <package>... -- <file or folder>...: names a version of what is built from them.
key() {
    local packages=()
    while [[ $1 != -- ]]; do packages+=("$1") && shift; done
    shift
    { dpkg-query -W "${packages[@]}" && cd "$here" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum; } |
        sha256sum | cut -c1-12
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
command -v dpkg-query >/dev/null || die "needs Debian 12 or later with its packages ${kernel_packages[*]} ${image_packages[*]}"
require "${kernel_packages[@]}" "${image_packages[@]}"
kernel=$cache/kernel-$(key "${kernel_packages[@]}" -- kernel.sh config interpreted-host.patch)
result=$cache/linux-$(basename "$kernel" | cut -d- -f2)-$(key "${image_packages[@]}" -- build.sh init profile jobs tools)
cached "$kernel" build_kernel
cached "$result" build_images
echo "$result"
