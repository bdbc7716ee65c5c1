#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The benchmarks: installs and builds what is needed, then runs one of them.
#   tests/bench/run.sh [--runs N] [--size GIB]            create.py (which see): about 20 GiB in $TMPDIR (default: /var/tmp) and half an hour
#   tests/bench/run.sh guest [--rounds N] [--data GIB]    guest.py (which see): about 10 GiB there and ten minutes; Debian's virtnbdbackup
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${VIRTSNAP_BENCH_BUILD:-$top/build-bench}
part=create
groups=(build test)
targets=(plugin/virtsnap)
if [ "${1:-}" = guest ]; then
    shift
    part=guest
    groups+=(guest bench)
    targets+=(vm-images/kernel)
fi
"$top/.ci/install" "${groups[@]}"
[ -e "$build/build.ninja" ] || meson setup --buildtype=release "$build" "$top" >/dev/null
ninja -C "$build" "${targets[@]}" >/dev/null
options=(--program "$build/plugin/virtsnap")
[ "$part" = create ] || options+=(--guest "$build/vm-images")
exec python3 -B "$top/tests/bench/$part.py" "${options[@]}" "$@"
