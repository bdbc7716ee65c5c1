// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/output.h"
#include "plugin/cli/progress-bar.h"
#include "plugin/cli/validate.h"
#include "plugin/error.h"

static void
add_number(VsInvocation *invocation, const char *key, uint64_t number)
{
    json_object_object_add(invocation->document, key, json_object_new_uint64(number));
}

static void
add_size_line(VsInvocation *invocation, const char *label, uint64_t bytes)
{
    g_autofree char *size = vs_format_size(bytes);
    g_string_append_printf(invocation->text, "%-12s %s (%" G_GUINT64_FORMAT " bytes)\n", label,
                           size, bytes);
}

static void
add_count_line(VsInvocation *invocation, const char *label, uint64_t count)
{
    g_string_append_printf(invocation->text, "%-12s %" G_GUINT64_FORMAT "\n", label, count);
}

static void
answer_init(VsInvocation *invocation, const VsRepository *repository)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "id", vs_output_string(vs_repository_id(repository)));
    json_object_object_add(object, "path", vs_output_string(vs_repository_path(repository)));
    json_object_object_add(object, "chunk_size",
                           json_object_new_uint64(vs_repository_chunk_size(repository)));
    invocation->document = json_object_new_object();
    json_object_object_add(invocation->document, "repository", object);
    g_autofree char *path = vs_error_quote(vs_repository_path(repository));
    g_string_append_printf(invocation->text, "Repository %s made in %s.\n",
                           vs_repository_id(repository), path);
}

bool
vs_cmd_repo_init(VsInvocation *invocation, GError **error)
{
    g_autofree char *chunk_size_text = NULL;
    const GOptionEntry options[] = {
        {"chunk-size", 0, 0, G_OPTION_ARG_FILENAME, &chunk_size_text,
         "A power of two from 64K (default) to 4M", "N"},
        VS_OPTION_END,
    };
    if (!vs_options_parse(invocation, options, error))
        return false;
    uint32_t chunk_size = VS_CHUNK_SIZE_DEFAULT;
    if (chunk_size_text != NULL && !vs_parse_chunk_size(chunk_size_text, &chunk_size, error))
        return false;
    if (!vs_repository_init(invocation->repo, chunk_size, error))
        return false;
    g_autoptr(VsRepository) repository = vs_repository_open(invocation->repo, error);
    if (repository == NULL)
        return false;
    answer_init(invocation, repository);
    return true;
}

typedef struct {
    VsProgressBar *bar;
    uint64_t total_bytes;
} CheckProgress;

static void
on_check_progress(double fraction, gpointer user_data)
{
    CheckProgress *progress = user_data;
    vs_progress_bar_update(progress->bar, (uint64_t)(fraction * (double)progress->total_bytes),
                           progress->total_bytes);
}

static bool
check(const VsInvocation *invocation, double percent, VsCheckResult *result, GError **error)
{
    g_autoptr(VsRepository) repository = vs_context_open_repository(invocation, error);
    if (repository == NULL)
        return false;
    g_autoptr(VsProgressBar) bar = vs_progress_bar_new(invocation->quiet);
    CheckProgress progress = {.bar = bar};
    uint64_t packs;
    if (!vs_chunk_store_size(vs_repository_chunks(repository), &progress.total_bytes, &packs,
                             error))
        return false;
    return vs_repository_check(repository, percent, on_check_progress, &progress, result, error);
}

bool
vs_cmd_repo_check(VsInvocation *invocation, GError **error)
{
    g_autofree char *sample = NULL;
    const GOptionEntry options[] = {
        {"sample", 0, 0, G_OPTION_ARG_FILENAME, &sample, "Verify only so much, chosen at random",
         "PERCENT"},
        VS_OPTION_END,
    };
    if (!vs_options_parse(invocation, options, error))
        return false;
    double percent = 100;
    if (sample != NULL && !vs_parse_percent(sample, &percent, error))
        return false;
    g_auto(VsCheckResult) result = {NULL, 0, 0, 0};
    if (!check(invocation, percent, &result, error))
        return false;

    invocation->document = json_object_new_object();
    add_number(invocation, "objects", result.objects);
    add_number(invocation, "bytes", result.bytes);
    add_number(invocation, "snapshots", result.snapshots);
    add_count_line(invocation, "objects:", result.objects);
    add_size_line(invocation, "bytes:", result.bytes);
    add_count_line(invocation, "snapshots:", result.snapshots);
    guint count = result.problems != NULL ? result.problems->len : 0;
    add_count_line(invocation, "problems:", count);
    struct json_object *problems = json_object_new_array();
    for (guint i = 0; i < count; i++) {
        const char *problem = g_ptr_array_index(result.problems, i);
        g_autofree char *line = vs_error_escape(problem, G_MAXSIZE);
        json_object_array_add(problems, vs_output_string(problem));
        g_string_append_printf(invocation->text, "problem: %s\n", line);
    }
    json_object_object_add(invocation->document, "problems", problems);
    if (count == 0)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_REPOSITORY_DAMAGED,
                "repository %s: check: %u problem%s found: %s", invocation->repo, count,
                count == 1 ? "" : "s", (char *)g_ptr_array_index(result.problems, 0));
    return false;
}

bool
vs_cmd_repo_prune(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsContext) context = vs_context_open_to_write(invocation, error);
    VsCompactResult result = {0};
    if (context == NULL ||
        !vs_repository_lock(context->repository, VS_REPOSITORY_EXCLUSIVE, VS_LOCK_TIMEOUT_MS,
                            error) ||
        !vs_repository_prune(context->repository, &result, error))
        return false;
    invocation->document = json_object_new_object();
    add_number(invocation, "removed_packs", result.removed_packs);
    add_number(invocation, "rewritten_packs", result.rewritten_packs);
    add_number(invocation, "freed_bytes", result.freed_bytes);
    add_count_line(invocation, "removed:", result.removed_packs);
    add_count_line(invocation, "rewritten:", result.rewritten_packs);
    add_size_line(invocation, "freed:", result.freed_bytes);
    return true;
}

bool
vs_cmd_repo_usage(VsInvocation *invocation, GError **error)
{
    if (!vs_options_parse(invocation, NULL, error))
        return false;
    g_autoptr(VsRepository) repository = vs_context_open_repository(invocation, error);
    VsUsage usage = {0};
    if (repository == NULL || !vs_repository_usage(repository, &usage, error))
        return false;
    invocation->document = json_object_new_object();
    add_number(invocation, "snapshots", usage.snapshots);
    add_number(invocation, "logical_bytes", usage.logical_bytes);
    add_number(invocation, "referenced_bytes", usage.referenced_bytes);
    add_number(invocation, "stored_bytes", usage.stored_bytes);
    add_number(invocation, "packs", usage.packs);
    add_count_line(invocation, "snapshots:", usage.snapshots);
    add_size_line(invocation, "logical:", usage.logical_bytes);
    add_size_line(invocation, "referenced:", usage.referenced_bytes);
    add_size_line(invocation, "stored:", usage.stored_bytes);
    add_count_line(invocation, "packs:", usage.packs);
    return true;
}
