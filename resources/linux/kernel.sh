# SPDX-License-Identifier: Apache-2.0
# The kernel's part of build.sh. What is cached of it depends on this file, the configuration and the patch.

kernel_tools=(bc bison cpio flex gcc libc6-dev libelf-dev libssl-dev lz4 make patch xz-utils)

# Every requested symbol must have survived Kconfig's dependencies.
check_config() {
    local lost
    lost=$(grep '^CONFIG_' "$here/config" | grep -vxFf "$1" || true)
    [[ -z $lost ]] || die "the kernel's configuration lacks: ${lost//$'\n'/ }"
}

build_kernel() {
    local source=$1/source out=$1/out make
    require "${kernel_tools[@]}"
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
