#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shows that each rule of sources.py finds what it is for, and lets pass what it should."""
import unittest

import sources

SPDX = "/* SPDX-License-Identifier: LGPL-2.1-or-later */\n"
SLASH = "/"


class SourcesTest(unittest.TestCase):
    """Each case gives one small file to the rules."""

    def expect(self, path, body, complaint):
        """The rules must find exactly COMPLAINT, or nothing where it is None."""
        found = sources.check_file(path, SPDX + body)
        if complaint is None:
            self.assertEqual([], found)
        else:
            self.assertEqual(1, len(found), found)
            self.assertIn(complaint, found[0])

    def test_layers_look_only_downwards(self):
        self.expect("plugin/cli/main.c", '#include "qmp/client.h"\n', None)
        self.expect("plugin/cli/main.c", '#include "nbd-export/store/tree.h"\n', None)
        self.expect("qmp/client.c", '#include "plugin/error.h"\n', "qmp/ must not include")
        self.expect("qmp/client.c", '#include "nbd-export/pull/pull.h"\n', "must not include")
        self.expect("nbd-export/pull/pull.c", '#include "qmp/client.h"\n', "must not include")
        self.expect("nbd-export/store/tree.c", '#include "nbd-export/pull/pull.h"\n', "store/")

    def test_include_paths_start_with_a_layer(self):
        self.expect("qmp/client.c", '#include "client.h"\n', "does not start with a layer")

    def test_headers_stay_with_their_owners(self):
        self.expect("plugin/catalogue/sql.c", "#include <sqlite3.h>\n", None)
        self.expect("plugin/cli/list.c", "#include <sqlite3.h>\n", "belongs to plugin/catalogue/")
        self.expect("nbd-export/store/tree.c", "#include <libnbd.h>\n", "belongs to")
        self.expect("qmp/client.c", "#  include <openssl/evp.h>\n", "belongs to")
        self.expect("tests/unit/tree_test.cc", "#include <zstd.h>\n", None)

    def test_banned_words_count_in_code_only(self):
        self.expect("qmp/a.c", "    goto out;\n", "goto")
        self.expect("qmp/a.c", '/* no goto\n here */ f("goto"); // goto\n', None)
        self.expect("qmp/a.c", "G_DEFINE_QUARK(a, b)\n", "by hand")

    def test_files_are_short_and_named_after_an_idea(self):
        self.expect("qmp/a.c", "x;\n" * 599, None)
        self.expect("qmp/a.c", "x;\n" * 600, "601 lines")
        self.expect("qmp/utils.c", "", "no idea")

    def test_the_licence_stands_first(self):
        self.assertEqual(1, len(sources.check_file("qmp/a.c", "int x;\n" + SPDX)))
        self.assertEqual(1, len(sources.check_file("a/run", "#!/bin/sh\necho\n")))
        self.assertEqual([], sources.check_file("a/run", "#!/bin/sh\n# " + SPDX))
        self.assertEqual([], sources.check_file("README.md", "text\n"))

    def test_nothing_is_left_unfinished(self):
        self.expect("qmp/a.c", "/* TO" + "DO: rest */\n", "unfinished")

    def test_no_path_of_a_machine(self):
        for user in ("root", "work", "home"):
            path = SLASH + user + SLASH + "project"
            self.assertEqual(1, len(sources.check_file("README.md", "see " + path)))
            self.assertEqual([], sources.check_file("README.md", '"$top' + path))


if __name__ == "__main__":
    unittest.main()
