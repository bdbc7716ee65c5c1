// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/context.h"

#include "plugin/error.h"
#include "plugin/snapshot/recover.h"

#include <stdio.h>
#include <string.h>

// A maker that undoes its work needs a few QMP round trips; one that needs longer is stuck in the
// guest's storage.
#define CANCEL_TIMEOUT_MS 30000
#define CANCEL_POLL_MS 50

// A message is one line, long enough for two paths.
#define WARNING_MAX_CHARACTERS 1000

void
vs_warn(const VsInvocation *invocation, const char *text)
{
    if (invocation->quiet)
        return;
    g_autofree char *line = vs_error_escape(text, WARNING_MAX_CHARACTERS);
    (void)fprintf(stderr, "virtsnap: warning: %s\n", line);
}

VsRepository *
vs_context_open_repository(const VsInvocation *invocation, GError **error)
{
    GError *cause = NULL;
    VsRepository *repository = vs_repository_open(invocation->repo, &cause);
    if (repository != NULL)
        return repository;
    if (g_error_matches(cause, VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_MISSING) &&
        strstr(cause->message, "repo init") == NULL) {
        g_autofree char *plain = cause->message;
        cause->message = g_strdup_printf("%s: make one with 'virtsnap repo init'", plain);
    }
    g_propagate_error(error, cause);
    return NULL;
}

VsContext *
vs_context_open(const VsInvocation *invocation, GError **error)
{
    g_autoptr(VsContext) context = g_new0(VsContext, 1);
    context->invocation = invocation;
    context->repository = vs_context_open_repository(invocation, error);
    if (context->repository == NULL)
        return NULL;
    g_autofree char *note = NULL;
    context->catalogue = vs_catalogue_open(context->repository, &note, error);
    if (context->catalogue == NULL)
        return NULL;
    if (note != NULL)
        vs_warn(invocation, note);
    return g_steal_pointer(&context);
}

// Whatever comes of it, the command goes on.
static void
recover(VsContext *context)
{
    VsEngine engine = {.repository = context->repository,
                       .catalogue = context->catalogue,
                       .connect_uri = context->invocation->connect};
    g_autoptr(GError) failure = NULL;
    g_autoptr(GPtrArray) recovered = vs_engine_recover(&engine, VS_RECOVER_ABANDONED, &failure);
    if (recovered == NULL)
        vs_warn(context->invocation, failure->message);
    for (guint i = 0; recovered != NULL && i < recovered->len; i++) {
        const VsRecovered *one = g_ptr_array_index(recovered, i);
        g_autofree char *text =
            one->error ? g_strdup_printf("%s has what an interrupted command left, which could not "
                                         "be removed now: %s",
                                         one->instance, one->error)
                       : NULL;
        if (text != NULL)
            vs_warn(context->invocation, text);
    }
}

VsContext *
vs_context_open_to_write(const VsInvocation *invocation, GError **error)
{
    VsContext *context = vs_context_open(invocation, error);
    if (context != NULL)
        recover(context);
    return context;
}

void
vs_context_free(VsContext *context)
{
    if (context == NULL)
        return;
    g_clear_pointer(&context->catalogue, vs_catalogue_free);
    g_clear_pointer(&context->repository, vs_repository_free);
    g_free(context);
}

bool
vs_context_lock(VsContext *context, GError **error)
{
    if (!context->locked)
        context->locked = vs_repository_lock(context->repository, VS_REPOSITORY_SHARED,
                                             VS_LOCK_TIMEOUT_MS, error);
    return context->locked;
}

VsManifest *
vs_context_load_accomplished(VsContext *context, const char *id, GError **error)
{
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(context->catalogue, id, error);
    if (snapshot == NULL)
        return NULL;
    if (snapshot->status == VS_STATUS_ACCOMPLISHED)
        return vs_repository_load(context->repository, id, error);
    g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS, "snapshot %s: it is %s%s%s", id,
                vs_status_name(snapshot->status), snapshot->error != NULL ? ": " : "",
                snapshot->error != NULL ? snapshot->error : "");
    return NULL;
}

bool
vs_context_is_group(const char *id)
{
    return vs_id_is_valid(id, "ssg-");
}

GPtrArray *
vs_context_find(VsContext *context, const char *id, GError **error)
{
    if (vs_context_is_group(id)) {
        VsSnapshotFilter filter = {.group = id, .status = -1};
        g_autoptr(GPtrArray) members = vs_catalogue_list(context->catalogue, &filter, error);
        if (members == NULL || members->len > 0)
            return g_steal_pointer(&members);
        // Falls through to the one error for ids that nothing has.
    }
    VsSnapshot *snapshot = vs_catalogue_get(context->catalogue, id, error);
    if (snapshot == NULL)
        return NULL;
    GPtrArray *found = g_ptr_array_new_with_free_func((GDestroyNotify)vs_snapshot_free);
    g_ptr_array_add(found, snapshot);
    return found;
}

static gboolean
on_timer(gpointer user_data)
{
    return G_SOURCE_CONTINUE;
}

VsSnapshot *
vs_context_cancel(VsContext *context, const char *id, GError **error)
{
    if (!vs_catalogue_request_cancel(context->catalogue, id, error))
        return NULL;
    int64_t deadline_us = g_get_monotonic_time() + CANCEL_TIMEOUT_MS * INT64_C(1000);
    guint timer = g_timeout_add(CANCEL_POLL_MS, on_timer, NULL);
    g_autoptr(VsSnapshot) snapshot = vs_catalogue_get(context->catalogue, id, error);
    while (snapshot != NULL && snapshot->status == VS_STATUS_PROGRESSING &&
           g_get_monotonic_time() < deadline_us) {
        g_main_context_iteration(NULL, TRUE);
        vs_snapshot_free(snapshot);
        snapshot = vs_catalogue_get(context->catalogue, id, error);
    }
    g_source_remove(timer);
    if (snapshot != NULL && snapshot->status == VS_STATUS_PROGRESSING) {
        g_set_error(error, VS_ERROR, VS_ERROR_SNAPSHOT_STATUS,
                    "snapshot %s: cancel: it is still progressing after %d s: try again later", id,
                    CANCEL_TIMEOUT_MS / 1000);
        return NULL;
    }
    return g_steal_pointer(&snapshot);
}
