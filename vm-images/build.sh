#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds the test guest into OUTDIR: `kernel` and `initramfs`, from the installed packages
# linux-image-cloud-amd64 and busybox-static; see README.md. Needs no privileges.
#   build.sh OUTDIR
#   build.sh --probe     exit 0 if what it needs is installed, else say what is missing and exit 1
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What a disk may hang on (virtio-blk, virtio-scsi, nvme, ide), and the ACPI power button.
modules=(virtio_pci virtio_blk virtio_scsi nvme ata_piix sd_mod evdev button)
PATH=$PATH:/usr/sbin:/sbin

die() {
    echo "build.sh: $*" >&2
    exit 1
}

# The newest installed cloud kernel that has its modules.
find_kernel() {
    local image version
    for image in $(printf '%s\n' /boot/vmlinuz-*-cloud-amd64 | sort -rV); do
        version=${image#/boot/vmlinuz-}
        if [ -r "$image" ] && [ -d "/lib/modules/$version" ]; then
            echo "$version"
            return
        fi
    done
    die "no kernel in /boot with modules (install linux-image-cloud-amd64)"
}

find_busybox() {
    local path=/bin/busybox
    [ -x "$path" ] || die "no $path (install busybox-static)"
    # Without a dynamic loader in the guest only a static one runs.
    if ldd "$path" >/dev/null 2>&1; then
        die "$path is not static (install busybox-static)"
    fi
    echo "$path"
}

# Copies each module and what it depends on, and writes the order to load them in.
copy_modules() { # VERSION DIR
    local module line path
    mkdir -p "$2"
    for module in "${modules[@]}"; do
        while read -r line path _; do
            if [ "$line" != insmod ] || [ -e "$2/$(basename "$path")" ]; then
                continue
            fi
            cp "$path" "$2/"
            basename "$path" >>"$2/order"
        done < <(modprobe --set-version "$1" --show-depends "$module")
    done
    [ -s "$2/order" ] || die "found none of the modules ${modules[*]} of $1"
}

build_root() { # VERSION BUSYBOX ROOT
    local applet
    mkdir -p "$3"/{bin,dev,proc,sys,etc/acpi/PWRF}
    cp "$2" "$3/bin/busybox"
    for applet in $("$2" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$3/bin/$applet"
    done
    copy_modules "$1" "$3/modules"
    "${CC:-cc}" -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -static \
        -I "$here/.." -o "$3/bin/writer" "$here/writer.c"
    install -m 755 "$here/init" "$3/init"
    install -m 755 "$here/poweroff" "$3/etc/acpi/PWRF/00000080"
}

main() {
    local version busybox root
    [ $# -eq 1 ] || die "usage: build.sh OUTDIR | --probe"
    version=$(find_kernel)
    busybox=$(find_busybox)
    for tool in modprobe cpio "${CC:-cc}"; do
        command -v "$tool" >/dev/null || die "no $tool"
    done
    [ "$1" != --probe ] || return 0

    mkdir -p "$1"
    root=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$root'" EXIT
    build_root "$version" "$busybox" "$root"
    # Not compressed: under TCG unpacking would take longer than loading.
    (cd "$root" && find . -print0 | LC_ALL=C sort -z |
        cpio --null --create --format=newc --owner=0:0 --quiet) >"$1/initramfs.partial"
    mv "$1/initramfs.partial" "$1/initramfs"
    cp "/boot/vmlinuz-$version" "$1/kernel"
}

main "$@"
