#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs what is missing, builds, runs the suites, then the memory-safe ones again with ASan and
# UBSan, and what has threads (the data plane) with TSan. The last line is `N passed, N failed, N skipped`; exit 1 if anything failed.
#   tests/run.sh               every suite but bench, which tests/bench/run.sh runs
#   tests/run.sh unit lint     only these, plain and, where they have one, sanitized
# Build directories: $VIRTSNAP_BUILD (default build/) and the same with -asan and -tsan.
set -uo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${VIRTSNAP_BUILD:-$top/build}
results=$(mktemp)
trap 'rm -f "$results"' EXIT

all_suites=(lint unit component integration system fault fuzz)
sanitized_suites=(unit component integration fuzz)
# What has threads. GLib isn't built for TSan, so only programs that leave its threads alone are fit for it.
threaded_tests=(chunk_store ingest pull)

# What can't run on the machine that is to run everything is a failure, not a skip.
export VIRTSNAP_TEST_REQUIRE=${VIRTSNAP_TEST_REQUIRE-qemu,nbd,guest,libvirt}
export ASAN_OPTIONS=abort_on_error=1:detect_leaks=1:strict_string_checks=1
export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1

contains() { # WORD LIST...
    local word=$1 item
    shift
    for item in "$@"; do
        [ "$item" != "$word" ] || return 0
    done
    return 1
}

compile() { # BUILD SETUP-OPTION...
    local directory=$1
    shift
    if [ ! -e "$directory/build.ninja" ]; then
        meson setup --werror "$@" "$directory" "$top" || return 1
    fi
    ninja -C "$directory" all meson-test-prereq
}

run_suite() { # BUILD SUITE LABEL
    # GTest's result files are named after the test alone: none of an earlier run may remain.
    rm -f "$1"/*.xml "$1/meson-logs/$2.json"
    meson test -C "$1" --no-rebuild --suite "$2" --logbase "$2" --print-errorlogs
    python3 "$top/tests/support/count-results.py" "$1" "$2" "$3" >>"$results"
}

run_suites() { # BUILD LABEL-SUFFIX SUITE...
    local directory=$1 suffix=$2 suite
    shift 2
    for suite in "$@"; do
        printf '\n== %s%s\n' "$suite" "$suffix"
        run_suite "$directory" "$suite" "$suite$suffix"
    done
}

run_threaded() { # BUILD
    if compile_threaded "$1"; then
        rm -f "$1"/*.xml "$1/meson-logs/tsan.json"
        meson test -C "$1" --no-rebuild --logbase tsan --print-errorlogs "${threaded_tests[@]}"
        python3 "$top/tests/support/count-results.py" "$1" tsan tsan >>"$results"
    else
        echo "build/tsan 0 1 0" >>"$results"
    fi
}

compile_threaded() { # BUILD
    if [ ! -e "$1/build.ninja" ]; then
        meson setup --werror -Db_sanitize=thread -Db_lundef=false "$1" "$top" || return 1
    fi
    ninja -C "$1" tests/component/component-{chunk_store,ingest} tests/integration/integration-pull
}

main() {
    local suites=("$@") sanitized=() suite
    [ ${#suites[@]} -gt 0 ] || suites=("${all_suites[@]}")
    for suite in "${suites[@]}"; do
        if ! contains "$suite" "${all_suites[@]}"; then
            echo "run.sh: no suite '$suite' among: ${all_suites[*]}" >&2
            exit 2
        fi
        if contains "$suite" "${sanitized_suites[@]}"; then
            sanitized+=("$suite")
        fi
    done

    if ! "$top/.ci/install" build guest test; then
        echo "install 0 1 0" >>"$results"
    elif ! compile "$build"; then
        echo "build 0 1 0" >>"$results"
    else
        run_suites "$build" "" "${suites[@]}"
        if [ ${#sanitized[@]} -gt 0 ]; then
            if compile "$build-asan" -Db_sanitize=address,undefined; then
                run_suites "$build-asan" "/asan" "${sanitized[@]}"
            else
                echo "build/asan 0 1 0" >>"$results"
            fi
            run_threaded "$build-tsan"
        fi
    fi

    printf '\n'
    sed -n 's/^! /failed: /p' "$results"
    sed -i '/^! /d' "$results"
    awk '{ printf "%-20s %5d passed %3d failed %3d skipped\n", $1, $2, $3, $4 }' "$results"
    awk '{ p += $2; f += $3; s += $4 }
        END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' "$results"
}

main "$@"
