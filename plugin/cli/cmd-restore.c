// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/commands.h"
#include "plugin/cli/context.h"
#include "plugin/cli/interrupt.h"
#include "plugin/cli/output.h"
#include "plugin/cli/progress-bar.h"
#include "plugin/cli/validate.h"
#include "plugin/error.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbd-export/restore/restore.h"

// One snapshot, and the file it goes into.
typedef struct {
    VsManifest *manifest;
    char *path;
} Job;

static void
job_free(Job *job)
{
    g_clear_pointer(&job->manifest, vs_manifest_free);
    g_free(job->path);
    g_free(job);
}

typedef struct {
    VsContext *context; // borrowed
    const char *format;
    GPtrArray *jobs; // Job *
    VsProgressBar *bar;
    uint64_t done_bytes; // of the jobs that are done
    uint64_t total_bytes;
} Restore;

static void
on_progress(uint64_t done_bytes, uint64_t total_bytes, gpointer user_data)
{
    Restore *restore = user_data;
    vs_progress_bar_update(restore->bar, restore->done_bytes + done_bytes, restore->total_bytes);
}

// The target as a file name of its own within the folder: a QOM path has slashes.
static char *
member_path(const char *folder, const VsManifest *manifest, const char *format, GHashTable *names)
{
    const char *target = manifest->disk_target != NULL && *manifest->disk_target != '\0'
                             ? manifest->disk_target
                             : manifest->disk_id;
    g_autofree char *safe = g_strdelimit(g_strdup(target), "/", '_');
    if (safe[0] == '.')
        safe[0] = '_';
    g_autofree char *name = g_strdup_printf("%s.%s", safe, format);
    if (g_hash_table_contains(names, name)) {
        g_free(name);
        name = g_strdup_printf("%s-%s.%s", safe, manifest->disk_id, format);
    }
    char *path = g_build_filename(folder, name, NULL);
    g_hash_table_add(names, g_steal_pointer(&name));
    return path;
}

static bool
plan(Restore *restore, const GPtrArray *snapshots, bool is_group, const char *to, GError **error)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        VsManifest *manifest =
            vs_context_load_accomplished(restore->context, snapshot->manifest->id, error);
        if (manifest == NULL)
            return false;
        Job *job = g_new0(Job, 1);
        job->manifest = manifest;
        job->path = is_group ? member_path(to, manifest, restore->format, names) : g_strdup(to);
        restore->total_bytes += manifest->virtual_size_bytes;
        g_ptr_array_add(restore->jobs, job);
    }
    return true;
}

// Before the first byte is written, so that a group is not half restored for a file that was there
// all the time.
static bool
check_paths(const Restore *restore, GError **error)
{
    for (guint i = 0; i < restore->jobs->len; i++) {
        const Job *job = g_ptr_array_index(restore->jobs, i);
        struct stat status;
        if (lstat(job->path, &status) != 0)
            continue;
        g_autofree char *quoted = vs_error_quote(job->path);
        g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_EXISTS,
                    "restore to %s: it exists: give another path, or remove it", quoted);
        return false;
    }
    return true;
}

static bool
make_folder(const char *folder, bool *made, GError **error)
{
    *made = mkdir(folder, 0777) == 0;
    if (*made || (errno == EEXIST && g_file_test(folder, G_FILE_TEST_IS_DIR)))
        return true;
    g_autofree char *quoted = vs_error_quote(folder);
    g_set_error(error, VS_ERROR, VS_ERROR_FAILED, "restore to %s: make the folder: %s", quoted,
                g_strerror(errno));
    return false;
}

static bool
run_jobs(Restore *restore, GError **error)
{
    g_autoptr(VsInterrupt) interrupt = vs_interrupt_new_for_blocking();
    g_autoptr(VsProgressBar) bar = vs_progress_bar_new(restore->context->invocation->quiet);
    restore->bar = bar;
    bool ok = true;
    for (guint i = 0; i < restore->jobs->len && ok; i++) {
        const Job *job = g_ptr_array_index(restore->jobs, i);
        VsRestoreRequest request = {.manifest = job->manifest,
                                    .path = job->path,
                                    .format = restore->format,
                                    .cancellable = vs_interrupt_cancellable(interrupt),
                                    .progress = on_progress,
                                    .progress_data = restore};
        ok = vs_restore(restore->context->repository, &request, error);
        restore->done_bytes += job->manifest->virtual_size_bytes;
    }
    restore->bar = NULL;
    return ok;
}

static void
answer(VsInvocation *invocation, const Restore *restore)
{
    struct json_object *restored = json_object_new_array();
    for (guint i = 0; i < restore->jobs->len; i++) {
        const Job *job = g_ptr_array_index(restore->jobs, i);
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "snapshot", vs_output_string(job->manifest->id));
        json_object_object_add(object, "path", vs_output_string(job->path));
        json_object_object_add(object, "format", vs_output_string(restore->format));
        json_object_object_add(object, "virtual_size",
                               json_object_new_uint64(job->manifest->virtual_size_bytes));
        json_object_array_add(restored, object);
        g_autofree char *path = vs_error_escape(job->path, G_MAXSIZE);
        g_string_append_printf(invocation->text, "Restored %s to %s.\n", job->manifest->id, path);
    }
    invocation->document = json_object_new_object();
    json_object_object_add(invocation->document, "restored", restored);
}

// Before anything is read. A name that begins with "-" can be given as "./-".
static bool
validate_target(const char *to, bool is_group, GError **error)
{
    const char *fault = NULL;
    if (to == NULL || *to == '\0') {
        g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "restore: give --to PATH");
        return false;
    }
    if (g_str_equal(to, "-"))
        fault = "standard output can't be restored to: give a path";
    else if (!is_group && (g_str_has_suffix(to, "/") || g_file_test(to, G_FILE_TEST_IS_DIR)))
        fault = "it is a folder: give the new file's name, too";
    if (fault == NULL)
        return true;
    g_autofree char *quoted = vs_error_quote(to);
    g_set_error(error, VS_ERROR, VS_ERROR_INVALID_PARAMETER, "restore to %s: %s", quoted, fault);
    return false;
}

static bool
restore_to(VsInvocation *invocation, const char *to, const char *format, GError **error)
{
    g_autoptr(VsContext) context = vs_context_open(invocation, error);
    if (context == NULL)
        return false;
    const char *id = invocation->arguments[0];
    g_autoptr(GPtrArray) snapshots = vs_context_find(context, id, error);
    if (snapshots == NULL)
        return false;
    bool is_group = vs_context_is_group(id);
    g_autoptr(GPtrArray) jobs = g_ptr_array_new_with_free_func((GDestroyNotify)job_free);
    Restore restore = {.context = context, .format = format, .jobs = jobs};
    bool made = false;
    if (!plan(&restore, snapshots, is_group, to, error) || !check_paths(&restore, error) ||
        (is_group && !make_folder(to, &made, error)))
        return false;
    if (run_jobs(&restore, error)) {
        answer(invocation, &restore);
        return true;
    }
    // Members that are whole stay; a folder of ours without any goes.
    if (made && rmdir(to) != 0)
        g_debug("%s: %s", to, g_strerror(errno));
    return false;
}

bool
vs_cmd_restore(VsInvocation *invocation, GError **error)
{
    g_autofree char *to = NULL;
    g_autofree char *format = NULL;
    const GOptionEntry options[] = {
        {"to", 0, 0, G_OPTION_ARG_FILENAME, &to,
         "The new image file; for a group a folder, which is made where there is none", "PATH"},
        {"format", 0, 0, G_OPTION_ARG_FILENAME, &format,
         "Of the image (raw; qcow2 where PATH ends with .qcow2)", "raw|qcow2"},
        VS_OPTION_END,
    };
    if (!vs_options_parse(invocation, options, error))
        return false;
    if (!validate_target(to, vs_context_is_group(invocation->arguments[0]), error))
        return false;
    if (format != NULL && !vs_validate_format(format, error))
        return false;
    const char *derived = g_str_has_suffix(to, ".qcow2") ? "qcow2" : "raw";
    return restore_to(invocation, to, format != NULL ? format : derived, error);
}
