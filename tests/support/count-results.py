#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts what one run of a meson suite gave: prints `LABEL PASSED FAILED SKIPPED`.

    count-results.py BUILD SUITE LABEL

Meson's log of the suite (meson-logs/SUITE.json) says which tests ran and how they ended; where a
test is a GTest program, BUILD/NAME.xml, which it wrote, gives the single cases. Meson has the last word:
a program that failed without a failed case (it crashed, hung, leaked) is one failure more.
"""
import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

MESON_PASSED = {"OK", "EXPECTEDFAIL"}
MESON_SKIPPED = {"SKIP"}


def count_cases(path):
    """Passed, failed and skipped cases in a GTest result file; zeroes if there is none."""
    try:
        cases = list(ElementTree.parse(path).iter("testcase"))
    except (FileNotFoundError, ElementTree.ParseError):
        return 0, 0, 0
    failed = sum(1 for case in cases if case.find("failure") is not None)
    skipped = sum(
        1
        for case in cases
        if case.find("failure") is None
        and (case.find("skipped") is not None or case.get("status") == "notrun")
    )
    return len(cases) - failed - skipped, failed, skipped


def count_test(build, test):
    """The same for one meson test, cases where it has them."""
    name = test["name"].split(" / ")[-1]
    passed, failed, skipped = count_cases(build / f"{name}.xml")
    if test["result"] in MESON_PASSED:
        return (passed, failed, skipped) if passed + skipped else (1, 0, 0)
    if test["result"] in MESON_SKIPPED:
        return 0, 0, 1
    return passed, max(failed, 1), skipped


def main():
    """Sums up and prints."""
    build = pathlib.Path(sys.argv[1])
    log = build / "meson-logs" / f"{sys.argv[2]}.json"
    lines = log.read_text().splitlines() if log.exists() else []
    counts = [count_test(build, json.loads(line)) for line in lines if line.strip()]
    total = [sum(column) for column in zip(*counts)] or [0, 0, 0]
    print(sys.argv[3], *total)


if __name__ == "__main__":
    main()
