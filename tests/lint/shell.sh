#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# shell.sh TOP: every shell script passes shellcheck, and bash's own parser where it is for bash.
set -euo pipefail
cd "$1"
scripts=()
while IFS= read -r -d '' file; do
    read -r first <"$file" || true
    case $first in
    '#!'*bash) bash -n "$file" ;;
    '#!'*/sh) sh -n "$file" ;;
    *) continue ;;
    esac
    scripts+=("$file")
done < <(git ls-files -z)
[ ${#scripts[@]} -gt 0 ]
shellcheck "${scripts[@]}"
