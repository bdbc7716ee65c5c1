#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds the test guest into OUTDIR: `kernel`, `initramfs`, and `initramfs-agent`, which is the same with QEMU's guest
# agent; from the installed packages linux-image-cloud-amd64, busybox-static and qemu-guest-agent; see
# README.md. Needs no privileges.
#   build.sh OUTDIR
#   build.sh --probe     exit 0 if what it needs is installed, else say what is missing and exit 1
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What a disk may hang on (virtio-blk, virtio-scsi, nvme, ide), and the ACPI power button.
modules=(virtio_pci virtio_blk virtio_scsi nvme ata_piix sd_mod evdev button)
# What the guest agent needs beyond: its channel, and the file system that it freezes.
agent_modules=(virtio_console ext4)
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

find_agent() {
    command -v qemu-ga || die "no qemu-ga (install qemu-guest-agent)"
}

# Copies each module and what it depends on, and writes the order to load them in.
copy_modules() { # VERSION DIR MODULE...
    local version=$1 dir=$2 line path
    shift 2
    mkdir -p "$dir"
    for module in "$@"; do
        while read -r line path _; do
            if [ "$line" != insmod ] || [ -e "$dir/$(basename "$path")" ]; then
                continue
            fi
            cp "$path" "$dir/"
            basename "$path" >>"$dir/order"
        done < <(modprobe --set-version "$version" --show-depends "$module")
    done
    [ -s "$dir/order" ] || die "found none of the modules $* of $version"
}

build_root() { # VERSION BUSYBOX ROOT
    local applet
    mkdir -p "$3"/{bin,dev,proc,sys,etc/acpi/PWRF}
    cp "$2" "$3/bin/busybox"
    for applet in $("$2" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$3/bin/$applet"
    done
    copy_modules "$1" "$3/modules" "${modules[@]}"
    "${CC:-cc}" -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -static \
        -I "$here/.." -o "$3/bin/writer" "$here/writer.c"
    "${CC:-cc}" -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -static -o "$3/bin/load" "$here/load.c"
    install -m 755 "$here/init" "$3/init"
    install -m 755 "$here/poweroff" "$3/etc/acpi/PWRF/00000080"
}

# What the agent's initramfs has beyond the other. A module that is in both is loaded once and then found there.
build_agent_root() { # VERSION AGENT ROOT
    local library
    mkdir -p "$3/bin"
    cp "$2" "$3/bin/qemu-ga"
    while read -r library; do
        mkdir -p "$3$(dirname "$library")"
        cp -L "$library" "$3$library"
    done < <(ldd "$2" | grep -o '/[^ ]*')
    copy_modules "$1" "$3/agent-modules" "${agent_modules[@]}"
}

# Not compressed: under TCG unpacking would take longer than loading.
pack() { # ROOT
    (cd "$1" && find . -print0 | LC_ALL=C sort -z |
        cpio --null --create --format=newc --owner=0:0 --quiet)
}

main() {
    local version busybox agent root
    [ $# -eq 1 ] || die "usage: build.sh OUTDIR | --probe"
    version=$(find_kernel)
    busybox=$(find_busybox)
    agent=$(find_agent)
    for tool in modprobe cpio "${CC:-cc}"; do
        command -v "$tool" >/dev/null || die "no $tool"
    done
    [ "$1" != --probe ] || return 0

    mkdir -p "$1"
    root=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$root'" EXIT
    build_root "$version" "$busybox" "$root/base"
    build_agent_root "$version" "$agent" "$root/agent"
    pack "$root/base" >"$1/initramfs.partial"
    # The kernel unpacks archives one after the other, so that the second adds to the first. Apart, since it more than
    # doubles what has to be loaded at each boot.
    pack "$root/agent" | cat "$1/initramfs.partial" - >"$1/initramfs-agent.partial"
    mv "$1/initramfs.partial" "$1/initramfs"
    mv "$1/initramfs-agent.partial" "$1/initramfs-agent"
    cp "/boot/vmlinuz-$version" "$1/kernel"
}

main "$@"
