#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts what one run of a meson suite gave: prints `LABEL PASSED FAILED SKIPPED`, and for each test
that failed `! LABEL / NAME: HOW`.

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


def read_cases(path):
    """The cases in a GTest result file; none if it is not there."""
    try:
        return list(ElementTree.parse(path).iter("testcase"))
    except (FileNotFoundError, ElementTree.ParseError):
        return []


def failed_cases(path):
    """Names of the cases that failed."""
    return [
        f"{case.get('classname')}.{case.get('name')}"
        for case in read_cases(path)
        if case.find("failure") is not None
    ]


def count_cases(path):
    """Passed, failed and skipped cases in a GTest result file; zeroes if there is none."""
    cases = read_cases(path)
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


def describe_failure(build, test):
    """How a meson test failed: in which cases, or what ended it."""
    name = test["name"].split(" / ")[-1]
    cases = failed_cases(build / f"{name}.xml")
    how = ", ".join(cases) if cases else f"{test['result']} after {test['duration']:.0f} s"
    return f"{name}: {how}"


def main():
    """Sums up and prints."""
    build = pathlib.Path(sys.argv[1])
    log = build / "meson-logs" / f"{sys.argv[2]}.json"
    lines = log.read_text().splitlines() if log.exists() else []
    tests = [json.loads(line) for line in lines if line.strip()]
    counts = [count_test(build, test) for test in tests]
    total = [sum(column) for column in zip(*counts)] or [0, 0, 0]
    print(sys.argv[3], *total)
    for test, (_, failed, _) in zip(tests, counts):
        if failed:
            print(f"! {sys.argv[3]} / {describe_failure(build, test)}")


if __name__ == "__main__":
    main()
