// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "plugin/cli/commands.h"
#include "plugin/cli/output.h"
#include "plugin/error.h"

// An error is one line: long enough for two paths, and never a flood.
#define MESSAGE_MAX_CHARACTERS 1000

static const VsCommand COMMANDS[] = {
    {"repo init", "", "Make a repository", 0, 0, vs_cmd_repo_init},
    {"repo check", "", "Verify what is stored", 0, 0, vs_cmd_repo_check},
    {"repo prune", "", "Free what no snapshot needs", 0, 0, vs_cmd_repo_prune},
    {"repo usage", "", "Tell how much is stored", 0, 0, vs_cmd_repo_usage},
    {"instances", "", "List the known instances", 0, 0, vs_cmd_instances},
    {"disks", "[INSTANCE]", "List the disks of an instance, or all", 0, 1, vs_cmd_disks},
    {"create", "INSTANCE", "Make a snapshot, or a consistent group", 1, 1, vs_cmd_create},
    {"list", "", "List snapshots", 0, 0, vs_cmd_list},
    {"show", "ID|GROUP", "Show a snapshot, or all of a group", 1, 1, vs_cmd_show},
    {"modify", "ID|GROUP", "Change name, description, retention, tags, or speed", 1, 1,
     vs_cmd_modify},
    {"cancel", "ID|GROUP", "Give up what is in progress, with its whole group", 1, 1,
     vs_cmd_cancel},
    {"delete", "ID|GROUP...", "Delete snapshots, or groups", 1, G_MAXUINT, vs_cmd_delete},
    {"restore", "ID|GROUP", "Write a snapshot, or a group, to image files", 1, 1, vs_cmd_restore},
    {"recover", "", "Finish or undo what a crash left", 0, 0, vs_cmd_recover},
    {"diff", "ID ID", "Tell where two snapshots differ", 2, 2, vs_cmd_diff},
    {NULL, NULL, NULL, 0, 0, NULL},
};

// A descriptor 0 to 2 that the caller has closed would be given to the first file that we open, and
// then written to. Standard output becomes one that can't be written, so that the loss of an answer
// is noticed.
static void
occupy_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
            continue;
        int opened = open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
        if (opened != fd)
            _exit(1);
    }
}

static bool
write_all(const char *text, GError **error)
{
    size_t length = strlen(text);
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, text, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "standard output: write: %s",
                        g_strerror(errno));
            return false;
        }
        text += written;
        length -= (size_t)written;
    }
    return true;
}

static bool
write_document(struct json_object *document, GError **error)
{
    int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE;
    return write_all(json_object_to_json_string_ext(document, flags), error) &&
           write_all("\n", error);
}

static bool
answer(const VsInvocation *invocation, GError **error)
{
    if (invocation->json && invocation->document != NULL)
        return write_document(invocation->document, error);
    return write_all(invocation->text->str, error);
}

// The error joins a document that the command has made all the same.
static void
answer_error(const VsInvocation *invocation, const GError *error)
{
    struct json_object *document = invocation != NULL ? invocation->document : NULL;
    document = json_object_is_type(document, json_type_object) ? json_object_get(document)
                                                               : json_object_new_object();
    json_object_object_add(document, "error", vs_output_error(error));
    if (!write_document(document, NULL))
        g_debug("standard output can't be written");
    json_object_put(document);
}

static void
report(const GError *error)
{
    g_autofree char *line = vs_error_escape(error->message, MESSAGE_MAX_CHARACTERS);
    (void)fprintf(stderr, "virtsnap: %s\n", line);
}

static bool
run(char *const *argv, VsInvocation **invocation, GError **error)
{
    const char *information;
    *invocation = vs_options_find_command(argv, COMMANDS, &information, error);
    if (*invocation == NULL)
        return false;
    if ((*invocation)->command != NULL)
        return (*invocation)->command->run(*invocation, error);
    g_autofree char *overview = vs_options_overview(COMMANDS);
    bool help = strcmp(information, "--help") == 0;
    g_string_append((*invocation)->text, help ? overview : "virtsnap " VIRTSNAP_VERSION "\n");
    return true;
}

int
vs_program_run(char *const *argv)
{
    occupy_standard_descriptors();
    // A reader that has gone is an error of the write, to be told like any other.
    (void)signal(SIGPIPE, SIG_IGN);

    g_autoptr(VsInvocation) invocation = NULL;
    g_autoptr(GError) error = NULL;
    bool ok = run(argv, &invocation, &error);
    if (ok || error == NULL)
        ok = answer(invocation, &error);
    else if (vs_options_want_json(argv))
        answer_error(invocation, error);
    else if (invocation != NULL && !write_all(invocation->text->str, NULL))
        g_debug("standard output can't be written");
    if (ok)
        return 0;
    report(error);
    return vs_error_exit_status(error);
}
