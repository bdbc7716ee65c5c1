#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The whole program in one session: builds it, boots a guest that writes all the time to two disks,
# snapshots both disks at one point in time, fully and then incrementally, restores, and proves the
# restored disks by the guest's own records. On a fresh Debian 12, as root. Exit 0: all of it held.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${VIRTSNAP_BUILD:-$top/build}
readonly top build
qemu_pid=
work=

die() {
    echo "demo: FAILED: $*" >&2
    exit 1
}

# Ends only what this script has started.
clean_up() {
    local status=$?
    trap - EXIT
    if [ -n "$qemu_pid" ]; then
        kill "$qemu_pid" 2>/dev/null || true
        wait "$qemu_pid" 2>/dev/null || true
    fi
    if [ $status -ne 0 ] && [ -n "$work" ] && [ -e "$work/console" ]; then
        echo "demo: the last lines of QEMU and its guest:" >&2
        tail -q -n 5 "$work/qemu.log" "$work/console" >&2
    fi
    [ -z "$work" ] || rm -rf "$work"
    exit $status
}

# Prints a command line as one would type it, then runs it: its failure ends the demo.
step() {
    printf '\n$ %s\n' "$1"
    eval "$1" || die "$1"
}

wait_for() { # SECONDS WHAT COMMAND...: until COMMAND succeeds
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || die "$what: not within the time"
        [ -z "$qemu_pid" ] || kill -0 "$qemu_pid" 2>/dev/null || die "$what: QEMU has ended"
        sleep 0.1
    done
}

program_path() { # NAME: the built executable, wherever its meson.build has put it
    local path
    path=$(meson introspect --targets "$build" | jq -r --arg name "$1" \
        'map(select(.name == $name and .type == "executable"))[0].filename[0] // empty')
    [ -x "$path" ] || die "the build has no program $1"
    echo "$path"
}

build_all() {
    local program
    if [ ! -e "$build/build.ninja" ]; then
        meson setup "$build" "$top" >"$work/build.log" 2>&1 || {
            tail -n 20 "$work/build.log"
            die "meson setup $build"
        }
    fi
    ninja -C "$build" >"$work/build.log" 2>&1 || {
        tail -n 40 "$work/build.log"
        die "ninja -C $build"
    }
    program=$(program_path virtsnap)
    PATH=$(dirname "$program"):$PATH
    program=$(program_path check-records)
    PATH=$(dirname "$program"):$PATH
    "$top/vm-images/build.sh" "$work/guest"
}

last_record() {
    tr -d '\r' <console | sed -n 's/^writer: seq=\([0-9]*\) .*/\1/p' | tail -n 1
}

record_reached() { # N
    local last
    last=$(last_record)
    [ -n "$last" ] && [ "$last" -ge "$1" ]
}

boot_guest() {
    local disk
    for disk in a b; do
        qemu-img create -q -f qcow2 "$disk.qcow2" 1G
    done
    qemu-system-x86_64 -accel tcg -machine q35 -m 128 -nodefaults -no-user-config -display none \
        -no-reboot -serial file:console -qmp "unix:$work/vm.qmp,server=on,wait=off" \
        -kernel guest/kernel -initrd guest/initramfs \
        -append "console=ttyS0 quiet panic=-1 nokaslr mitigations=off writer.slots=4096" \
        -blockdev driver=qcow2,node-name=vda,file.driver=file,file.filename="$work/a.qcow2" \
        -device virtio-blk-pci,drive=vda \
        -blockdev driver=qcow2,node-name=vdb,file.driver=file,file.filename="$work/b.qcow2" \
        -device virtio-blk-pci,drive=vdb 2>qemu.log &
    qemu_pid=$!
    touch console
    wait_for 120 "the guest's first record" record_reached 1
}

# Holds if jq's filter $2 is true of the JSON document in file $1.
expect() { # FILE FILTER WHAT
    jq -e "$2" "$1" >/dev/null || die "$3: $(jq -c . "$1")"
}

# Restores GROUP into a new DIR and checks the records of its disks, in the writer's order.
prove() { # GROUP DIR
    local a b
    a=$(jq -r '.[] | select(.source | endswith("a.qcow2")) | .target' disks.json)
    b=$(jq -r '.[] | select(.source | endswith("b.qcow2")) | .target' disks.json)
    step "virtsnap restore $1 --to $2 --format raw"
    step "check-records $2/$a.raw $2/$b.raw"
}

take_groups() {
    local columns='{id, mode, mode_reason, read_bytes, new_bytes}'
    step "virtsnap create $vm --name first --output json | tee first.json | jq -c '.snapshots[] | $columns'"
    expect first.json '.group != null and (.snapshots | length == 2)' "not a group of two disks"
    expect first.json '.snapshots | all(.mode == "full" and .status == "accomplished")' \
        "the first group is not full"
    wait_for 60 "more records" record_reached $(($(last_record) + 500))
    step "virtsnap create $vm --name second --output json | tee second.json | jq -c '.snapshots[] | $columns'"
    expect second.json '.snapshots | all(.mode == "incremental" and .status == "accomplished")' \
        "the second group is not incremental"
}

main() {
    local vm first second old_ids a1 a2
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    work=$(mktemp -d "${TMPDIR:-/tmp}/virtsnap-demo.XXXXXX")
    vm=qmp:$work/vm.qmp
    export VIRTSNAP_REPO=$work/repo

    "$top/.ci/install" build guest
    build_all
    cd "$work"
    echo "a guest with two disks, writing all the time:"
    boot_guest
    tail -n 1 console

    step "virtsnap repo init"
    step "virtsnap instances"
    step "virtsnap disks $vm"
    virtsnap disks "$vm" --output json >disks.json
    take_groups
    step "virtsnap list"
    first=$(jq -r .group first.json)
    second=$(jq -r .group second.json)
    a1=$(jq -r '.snapshots[0].id' first.json)
    a2=$(jq -r --slurpfile first first.json \
        '.snapshots[] | select(.disk.id == $first[0].snapshots[0].disk.id) | .id' second.json)
    step "virtsnap show $a2"
    step "virtsnap diff $a1 $a2 | tail -n 3"
    prove "$first" first
    prove "$second" second
    step "virtsnap repo check"

    old_ids=$(jq -r '[.snapshots[].id] | join(" ")' first.json)
    step "virtsnap delete $old_ids"
    step "virtsnap repo prune"
    step "virtsnap repo check"
    prove "$second" again
    step "virtsnap repo usage"
    printf '\nthe guest all the while, with its longest write in ms:\n'
    tail -n 1 console
    echo "demo: OK: two consistent groups taken, restored and proved"
}

main "$@"
