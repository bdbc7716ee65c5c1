#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# cppcheck.sh TOP. Suppressed: NULL at the end of variable arguments (POSIX and GLib rely on it), string
# literals in macros that also take NULL, readdir (one stream is read by one thread only), leaks (it does not see
# a pointer handed to a thread or a callback; the sanitizer's run finds real ones).
set -euo pipefail
cd "$1"
mapfile -t sources < <(git ls-files '*.c')
[ ${#sources[@]} -gt 0 ]
cppcheck --quiet -j "$(nproc)" --std=c11 --library=gtk,posix --error-exitcode=1 --inline-suppr \
    --enable=warning,performance,portability --suppress=varFuncNullUB \
    --suppress=incorrectStringBooleanError --suppress=readdirCalled --suppress=memleak \
    '-DG_DEFINE_AUTOPTR_CLEANUP_FUNC(a,b)=' -I . "${sources[@]}"
