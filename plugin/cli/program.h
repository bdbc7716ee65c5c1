// SPDX-License-Identifier: LGPL-2.1-or-later
// The program as a function: finds the subcommand, runs it, and is the only place that writes to
// standard output and reports an error.
#pragma once

#include <glib.h>

G_BEGIN_DECLS

// argv: NULL-terminated, argv[0] is the program. Returns the exit status.
int vs_program_run(char *const *argv);

G_END_DECLS
