// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/program.h"

int
main(int argc, char **argv)
{
    return vs_program_run(argv);
}
