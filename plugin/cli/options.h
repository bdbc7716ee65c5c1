// SPDX-License-Identifier: LGPL-2.1-or-later
// The command line: global options, which may stand before or after the subcommand, its own
// options, and its arguments.
//
// Values are byte strings: what must be UTF-8 is checked where it is used.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

G_BEGIN_DECLS

typedef struct _VsInvocation VsInvocation;

typedef struct {
    const char *name;      // "list", "repo init"
    const char *arguments; // for the help: "ID..."
    const char *summary;
    unsigned min_arguments;
    unsigned max_arguments;
    // Calls vs_options_parse() first. What it has to say goes into the invocation's text or
    // document. False without an error: only help was asked for.
    bool (*run)(VsInvocation *invocation, GError **error);
} VsCommand;

// One run of the program.
struct _VsInvocation {
    const VsCommand *command;
    char **words; // what is left to parse: everything but the subcommand itself

    // Set by vs_options_parse().
    char *repo;    // never NULL
    char *connect; // NULL: not given
    bool json;
    bool quiet;
    char **arguments;

    GString *text;                // for standard output, of --output table
    struct json_object *document; // the same of --output json
};

// Finds the subcommand in argv (argv[0] is the program). commands ends with a NULL name. Errors are
// VS_ERROR_INVALID_PARAMETER. Where there is no subcommand but --help or --version (also as -h, -V,
// or "help" alone) the invocation's command is NULL and *word is that option, in its long form.
VsInvocation *vs_options_find_command(char *const *argv, const VsCommand *commands,
                                      const char **word, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_invocation_free(VsInvocation *invocation);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsInvocation, vs_invocation_free)

// Parses everything, with the subcommand's own options in entries (NULL: none).
// G_OPTION_ARG_FILENAME and _FILENAME_ARRAY are to be used for texts; one that is no array may be
// given once. False without an error: the
// help is in the invocation's text, and there is nothing more to do.
bool vs_options_parse(VsInvocation *invocation, const GOptionEntry *entries,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Whether --output json is among the words, however wrong the rest may be: decides how a usage
// error is told.
bool vs_options_want_json(char *const *argv);

// The help without a subcommand.
char *vs_options_overview(const VsCommand *commands);

// Where the repository is, without --repo.
char *vs_options_default_repository(void);

G_END_DECLS
