#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# function-length.sh TOP: no function of more than 80 lines (about 60 is what to aim for).
set -euo pipefail
cd "$1"
mapfile -t sources < <(git ls-files '*.c' '*.h' '*.cc')
functions=$(ctags -x --_xformat='%{end} %n %N %F' --kinds-C=f --kinds-C++=f --fields=+ne "${sources[@]}")
[ -n "$functions" ]
awk '$1 - $2 + 1 > 80 { printf "%s: %s has %d lines, at most 80\n", $4, $3, $1 - $2 + 1; bad = 1 }
    END { exit bad }' <<<"$functions"
