// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/interrupt.h"
#include "plugin/cli/output.h"
#include "plugin/cli/progress-bar.h"
#include "plugin/cli/validate.h"
#include "plugin/error.h"

// The options as they were given.
typedef struct {
    char **disks;
    char *name;
    char *description;
    char **tags;
    char *retain;
    gboolean quiesce;
    gboolean full;
    char *capture;
    char *speed_limit;
    char *scratch_dir;
    char *scratch_size;

    char *absolute_scratch_dir; // QEMU has another working directory
    GHashTable *tag_table;
} Given;

static void
given_clear(Given *given)
{
    g_strfreev(given->disks);
    g_free(given->name);
    g_free(given->description);
    g_strfreev(given->tags);
    g_free(given->retain);
    g_free(given->capture);
    g_free(given->speed_limit);
    g_free(given->scratch_dir);
    g_free(given->scratch_size);
    g_free(given->absolute_scratch_dir);
    g_clear_pointer(&given->tag_table, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Given, given_clear)

static bool
validate_disks(char *const *disks, GError **error)
{
    for (unsigned i = 0; disks != NULL && disks[i] != NULL; i++) {
        bool twice = false;
        for (unsigned j = 0; j < i && !twice; j++)
            twice = g_str_equal(disks[i], disks[j]);
        if (!twice && *disks[i] != '\0')
            continue;
        g_autofree char *quoted = vs_error_quote(disks[i]);
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "--disk %s: it is %s", quoted,
                    twice ? "named twice" : "empty");
        return false;
    }
    return true;
}

static bool
validate_scratch_dir(const char *path, GError **error)
{
    if (path == NULL || *path != '\0')
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "--scratch-dir: it is empty");
    return false;
}

static bool
make_request(Given *given, const char *instance, VsCreateRequest *request, GError **error)
{
    *request = (VsCreateRequest){.instance = instance,
                                 .disks = (const char *const *)given->disks,
                                 .name = given->name,
                                 .quiesce = given->quiesce,
                                 .full = given->full};
    if (given->scratch_dir != NULL && *given->scratch_dir != '\0')
        given->absolute_scratch_dir = g_canonicalize_filename(given->scratch_dir, NULL);
    request->scratch_dir = given->absolute_scratch_dir;
    if (given->description != NULL && *given->description != '\0')
        request->description = given->description;
    if ((given->name != NULL && !vs_validate_name(given->name, error)) ||
        (given->description != NULL && !vs_validate_description(given->description, error)))
        return false;
    given->tag_table = vs_parse_tags(given->tags, error);
    request->tags = given->tag_table;
    if (request->tags == NULL || !validate_disks(given->disks, error) ||
        !validate_scratch_dir(given->scratch_dir, error))
        return false;
    if (given->retain != NULL && !vs_parse_retention(given->retain, &request->retain_us, error))
        return false;
    if (given->capture != NULL && !vs_parse_capture(given->capture, &request->capture, error))
        return false;
    if (given->speed_limit != NULL &&
        !vs_parse_size("--speed-limit", given->speed_limit, &request->speed_limit_bytes, error))
        return false;
    if (given->scratch_size != NULL &&
        !vs_parse_size("--scratch-size", given->scratch_size, &request->scratch_size_bytes, error))
        return false;
    return vs_validate_instance(instance, error);
}

static void
on_progress(const VsProgress *progress, gpointer user_data)
{
    vs_progress_bar_show(user_data, progress->done_bytes, progress->total_bytes,
                         progress->rate_bytes, progress->remaining_seconds);
}

static VsCreateResult *
create(const VsInvocation *invocation, const VsCreateRequest *request, GError **error)
{
    g_autoptr(VsContext) context = vs_context_open_to_write(invocation, error);
    if (context == NULL)
        return NULL;
    g_autoptr(VsInterrupt) interrupt = vs_interrupt_new();
    g_autoptr(VsProgressBar) bar = vs_progress_bar_new(invocation->quiet);
    VsEngine engine = {.repository = context->repository,
                       .catalogue = context->catalogue,
                       .connect_uri = invocation->connect,
                       .cancellable = vs_interrupt_cancellable(interrupt),
                       .progress = bar != NULL ? on_progress : NULL,
                       .progress_data = bar};
    return vs_engine_create(&engine, request, error);
}

bool
vs_cmd_create(VsInvocation *invocation, GError **error)
{
    g_auto(Given) given = {NULL};
    const GOptionEntry options[] = {
        {"disk", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given.disks,
         "Only this disk; repeatable (default: all)", "DISK"},
        {"name", 0, 0, G_OPTION_ARG_FILENAME, &given.name, "A name for people", "S"},
        {"description", 0, 0, G_OPTION_ARG_FILENAME, &given.description, "What it is for", "S"},
        {"tag", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given.tags, "A tag; repeatable", "K=V"},
        {"retain", 0, 0, G_OPTION_ARG_FILENAME, &given.retain,
         "Keep it so long: Nd (1 to 65536 days) or forever (default)", "Nd|forever"},
        {"quiesce", 0, 0, G_OPTION_ARG_NONE, &given.quiesce,
         "Have the guest's agent freeze its file systems for the moment", NULL},
        {"full", 0, 0, G_OPTION_ARG_NONE, &given.full, "Read everything", NULL},
        {"capture", 0, 0, G_OPTION_ARG_FILENAME, &given.capture, "How to read (default: auto)",
         "auto|live|staged"},
        {"speed-limit", 0, 0, G_OPTION_ARG_FILENAME, &given.speed_limit,
         "Bytes a second, also with suffix K, M, G or T", "N"},
        {"scratch-dir", 0, 0, G_OPTION_ARG_FILENAME, &given.scratch_dir,
         "Where old blocks are kept meanwhile", "DIR"},
        {"scratch-size", 0, 0, G_OPTION_ARG_FILENAME, &given.scratch_size,
         "Most bytes that a disk may take there, also with suffix K, M, G or T", "N"},
        VS_OPTION_END,
    };
    VsCreateRequest request;
    if (!vs_options_parse(invocation, options, error) ||
        !make_request(&given, invocation->arguments[0], &request, error))
        return false;
    g_autoptr(VsCreateResult) result = create(invocation, &request, error);
    if (result == NULL)
        return false;
    for (guint i = 0; result->warnings != NULL && i < result->warnings->len; i++)
        vs_warn(invocation, g_ptr_array_index(result->warnings, i));
    invocation->document = json_object_new_object();
    json_object_object_add(invocation->document, "group", vs_output_string(result->group));
    json_object_object_add(invocation->document, "snapshots",
                           vs_output_snapshots(result->snapshots));
    vs_output_snapshot_table(result->snapshots, invocation->text);
    return true;
}
