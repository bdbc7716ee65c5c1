#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# format.sh TOP: all C and C++ is as clang-format with the project's .clang-format writes it.
set -euo pipefail
cd "$1"
mapfile -t sources < <(git ls-files '*.c' '*.h' '*.cc')
[ ${#sources[@]} -gt 0 ]
clang-format --dry-run --Werror "${sources[@]}"
