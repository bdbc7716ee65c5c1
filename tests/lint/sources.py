#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The project's own rules on its sources, those that no compiler knows (see CONTRIBUTING.md).

    sources.py TOP        checks every tracked file below TOP; prints what breaks a rule, exits 1 if any

Each rule is a function from a file's path and text to complaints, so that sources_test.py can show that
it finds what it is for.
"""
import pathlib
import re
import subprocess
import sys

C_SUFFIXES = (".c", ".h", ".cc")
MAX_FILE_LINES = 600

LAYERS = ("qmp", "nbd-export", "plugin", "vm-images", "tests")

# A file below the first part may include no path below the second ones.
FORBIDDEN_INCLUDES = {
    "qmp/": ("nbd-export/", "plugin/", "vm-images/", "tests/"),
    "nbd-export/": ("qmp/", "plugin/", "vm-images/", "tests/"),
    "nbd-export/store/": ("nbd-export/pull/", "nbd-export/restore/", "nbd-export/serve/"),
    "plugin/": ("vm-images/", "tests/"),
    "vm-images/": ("qmp/", "nbd-export/", "plugin/", "tests/"),
}

# Who may include a library's headers; tests may include all.
HEADER_OWNERS = {
    r"sqlite3\.h": ("plugin/catalogue/",),
    r"libnbd\.h": ("nbd-export/pull/", "nbd-export/restore/"),
    r"libvirt/.*": ("plugin/hypervisor/domain",),
    r"libxml/.*": ("plugin/hypervisor/domain-xml",),
    r"openssl/.*": ("nbd-export/store/",),
    r"zstd.*\.h": ("nbd-export/store/",),
    r"nbdkit.*\.h": ("nbd-export/serve/",),
    r"libsoup/.*": ("plugin/api/",),
}

BANNED_WORDS = {
    r"\bgoto\b": "goto: use g_autoptr and early returns",
    r"\bG_DEFINE_QUARK\b": "G_DEFINE_QUARK: write the quark function by hand",
}


def without_comments(text):
    """C text with comments and the content of literals taken out, line breaks kept."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''

    def blank(match):
        token = match.group(0)
        if token[0] in "\"'":
            return token[0] * 2
        return "\n" * token.count("\n")

    return re.sub(pattern, blank, text, flags=re.DOTALL)


def includes(text):
    """Line number, opening sign and path of each #include."""
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if match:
            yield number, match.group(1), match.group(2)


def check_layers(path, text):
    """Include paths start with a layer and follow the direction between layers."""
    for number, sign, included in includes(text):
        if sign == '"' and included.split("/")[0] not in LAYERS:
            yield f"{path}:{number}: #include \"{included}\" does not start with a layer"
        for owner, forbidden in FORBIDDEN_INCLUDES.items():
            if path.startswith(owner) and included.startswith(forbidden):
                yield f"{path}:{number}: {owner} must not include {included}"


def check_header_owners(path, text):
    """A third-party header is included only where it is owned."""
    if path.startswith("tests/"):
        return
    for number, _, included in includes(text):
        for header, owners in HEADER_OWNERS.items():
            if re.fullmatch(header, included) and not path.startswith(owners):
                yield f"{path}:{number}: <{included}> belongs to {', '.join(owners)}"


def check_banned_words(path, text):
    """Constructs that the conventions rule out."""
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        for pattern, reason in BANNED_WORDS.items():
            if re.search(pattern, line):
                yield f"{path}:{number}: {reason}"


def check_file_length(path, text):
    """A file is a sitting."""
    count = len(text.splitlines())
    if count > MAX_FILE_LINES:
        yield f"{path}: {count} lines, at most {MAX_FILE_LINES}"


def check_file_name(path, _text):
    """A helper lives with the layer that owns its idea."""
    if re.fullmatch(r"(utils?|helpers?|common|misc)\.\w+", path.rsplit("/", 1)[-1]):
        yield f"{path}: named after no idea"


def check_spdx(path, text):
    """The licence stands in the first line, or the one after '#!'."""
    lines = text.splitlines()[:2]
    first = lines[1:2] if lines and lines[0].startswith("#!") else lines[:1]
    if not first or "SPDX-License-Identifier: LGPL-2.1-or-later" not in first[0]:
        yield f"{path}: no SPDX line at the top"


def check_leftovers(path, text):
    """Nothing unfinished."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\b(TO[D]O|FIX[M]E|XX[X]|HA[C]K)\b", line):
            yield f"{path}:{number}: unfinished: {line.strip()}"


def check_machine_paths(path, text):
    """No path of the machine that a file was written on."""
    for number, line in enumerate(text.splitlines(), 1):
        match = re.search(r"(?<![\w.$}/)*])/(?:root|work|home)/[\w.]", line)
        if match:
            yield f"{path}:{number}: a path of some machine: {line.strip()}"


def is_script(path, text):
    """A program by its first line, or a file of a language that has one."""
    return text.startswith("#!") or path.endswith((".sh", ".py", "meson.build"))


def check_file(path, text):
    """All complaints about one file."""
    rules = [check_machine_paths]
    if path.endswith(C_SUFFIXES):
        rules += [check_layers, check_header_owners, check_banned_words, check_file_length]
    if path.endswith(C_SUFFIXES) or is_script(path, text):
        rules += [check_file_name, check_spdx, check_leftovers]
    return [complaint for rule in rules for complaint in rule(path, text)]


def main():
    """Checks the tracked files."""
    top = pathlib.Path(sys.argv[1])
    listing = subprocess.run(
        ["git", "-C", str(top), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    paths = [path for path in listing.split("\0") if path and (top / path).is_file()]
    complaints = []
    for path in paths:
        text = (top / path).read_text(encoding="utf-8", errors="replace")
        complaints += check_file(path, text)
    print("\n".join(complaints) if complaints else f"{len(paths)} files keep the rules")
    return 1 if complaints or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
