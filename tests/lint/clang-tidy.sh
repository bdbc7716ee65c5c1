#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# clang-tidy.sh TOP BUILD: the checks of .clang-tidy over the C sources, with the flags they are built
# with; the guest's writer and targets of other configurations, which BUILD does not compile, with plain ones.
set -euo pipefail
cd "$1"
mapfile -t sources < <(git ls-files '*.c')
[ ${#sources[@]} -gt 0 ]
built=$(jq -r '.[] | .directory + "/" + .file' "$2/compile_commands.json" |
    xargs realpath --relative-to=. | sort -u)
known=() other=()
for source in "${sources[@]}"; do
    if grep -qxF "$source" <<<"$built"; then
        known+=("$source")
    else
        other+=("$source")
    fi
done
printf '%s\0' "${known[@]}" | xargs -0 -n 4 -P "$(nproc)" clang-tidy --quiet -p "$2"
if [ ${#other[@]} -gt 0 ]; then
    clang-tidy --quiet "${other[@]}" -- -std=c11 -D_GNU_SOURCE -I .
fi
