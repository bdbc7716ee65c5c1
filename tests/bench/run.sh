#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The benchmark: installs and builds what it needs, then runs create.py (which see). Needs about 20 GiB in $TMPDIR (default: /var/tmp) and half an hour.
#   tests/bench/run.sh [--runs N] [--size GIB]
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${VIRTSNAP_BENCH_BUILD:-$top/build-bench}
"$top/.ci/install" build test
[ -e "$build/build.ninja" ] || meson setup --buildtype=release "$build" "$top" >/dev/null
ninja -C "$build" plugin/virtsnap >/dev/null
exec python3 "$top/tests/bench/create.py" --program "$build/plugin/virtsnap" "$@"
