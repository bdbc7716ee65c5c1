// SPDX-License-Identifier: LGPL-2.1-or-later
// Jobs end at any moment, also between a question and its answer. So nothing here decides by an
// event alone: an event (or a short time, should one be lost) only makes it ask query-jobs again.
#include "qmp/job.h"

#include <string.h>

#include "qmp/args.h"
#include "qmp/reply.h"

// At the latest after this time a job's state is asked for again.
#define ASK_AGAIN_MS 500u

void
vs_qmp_job_free(VsQmpJob *job)
{
    if (job == NULL)
        return;
    g_free(job->id);
    g_free(job->type);
    g_free(job->status);
    g_free(job->error);
    g_free(job);
}

static VsQmpJob *
parse_job(VsQmpReader *reader, struct json_object *object)
{
    VsQmpJob *job = g_new0(VsQmpJob, 1);

    job->id = vs_qmp_reader_string(reader, object, "id");
    job->type = vs_qmp_reader_string(reader, object, "type");
    job->status = vs_qmp_reader_string(reader, object, "status");
    job->current_progress = vs_qmp_reader_uint(reader, object, "current-progress");
    job->total_progress = vs_qmp_reader_uint(reader, object, "total-progress");
    job->error = vs_qmp_reader_optional_string(reader, object, "error");
    return job;
}

static GPtrArray *
query_jobs(VsQmpClient *client, const VsQmpCommand *command, GCancellable *cancellable,
           GError **error)
{
    VsQmpReader reader = {.command = command->name};
    struct json_object *reply = vs_qmp_client_run(client, command, cancellable, error);
    if (reply == NULL)
        return NULL;

    g_autoptr(GPtrArray) jobs = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_job_free);
    for (size_t i = 0; i < vs_qmp_reader_array_length(&reader, reply); i++)
        g_ptr_array_add(jobs, parse_job(&reader, vs_qmp_reader_element(&reader, reply, i)));
    json_object_put(reply);
    return vs_qmp_reader_finish(&reader, error) ? g_steal_pointer(&jobs) : NULL;
}

GPtrArray *
vs_qmp_query_jobs(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    const VsQmpCommand command = {.name = "query-jobs"};

    return query_jobs(client, &command, cancellable, error);
}

// One job that is being watched until a deadline.
typedef struct {
    VsQmpClient *client;
    const char *id;
    GCancellable *cancellable;
    int64_t deadline_us; // G_MAXINT64: none
    unsigned subscription;
    bool changed; // since it was last asked for
    char *status; // NULL: there is no such job
    char *error;
} Watch;

static void
on_event(const char *name, struct json_object *data, gpointer user_data)
{
    Watch *watch = user_data;
    struct json_object *id = NULL;

    if (g_strcmp0(name, "JOB_STATUS_CHANGE") != 0 || !json_object_object_get_ex(data, "id", &id) ||
        g_strcmp0(json_object_get_string(id), watch->id) != 0)
        return;
    watch->changed = true;
}

static Watch *
watch_new(VsQmpClient *client, const char *job_id, unsigned timeout_ms, GCancellable *cancellable)
{
    Watch *watch = g_new0(Watch, 1);

    watch->client = client;
    watch->id = job_id;
    watch->cancellable = cancellable;
    watch->deadline_us =
        timeout_ms != 0 ? g_get_monotonic_time() + (int64_t)timeout_ms * 1000 : G_MAXINT64;
    watch->subscription = vs_qmp_client_subscribe(client, on_event, watch);
    return watch;
}

static void
watch_free(Watch *watch)
{
    vs_qmp_client_unsubscribe(watch->client, watch->subscription);
    g_free(watch->status);
    g_free(watch->error);
    g_free(watch);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Watch, watch_free)

// Milliseconds until the deadline, from 1 to limit_ms.
static unsigned
remaining_ms(const Watch *watch, unsigned limit_ms)
{
    int64_t left_ms = (watch->deadline_us - g_get_monotonic_time()) / 1000;

    return (unsigned)CLAMP(left_ms, 1, (int64_t)limit_ms);
}

static bool
watch_command(const Watch *watch, const char *name, GError **error)
{
    const VsQmpCommand command = {.name = name,
                                  .arguments = vs_qmp_args("id", vs_qmp_str(watch->id), NULL),
                                  .timeout_ms = remaining_ms(watch, VS_QMP_COMMAND_TIMEOUT_MS)};
    struct json_object *result =
        vs_qmp_client_run(watch->client, &command, watch->cancellable, error);

    json_object_put(result);
    return result != NULL;
}

// Asks for the job's status and error.
static bool
watch_ask(Watch *watch, GError **error)
{
    const VsQmpCommand command = {.name = "query-jobs",
                                  .timeout_ms = remaining_ms(watch, VS_QMP_COMMAND_TIMEOUT_MS)};

    watch->changed = false;
    g_clear_pointer(&watch->status, g_free);
    g_clear_pointer(&watch->error, g_free);
    g_autoptr(GPtrArray) jobs = query_jobs(watch->client, &command, watch->cancellable, error);
    for (guint i = 0; jobs != NULL && i < jobs->len; i++) {
        VsQmpJob *job = g_ptr_array_index(jobs, i);
        if (strcmp(job->id, watch->id) == 0) {
            watch->status = g_steal_pointer(&job->status);
            watch->error = g_steal_pointer(&job->error);
        }
    }
    return jobs != NULL;
}

static bool
has_changed(gpointer user_data, GError **error)
{
    return ((const Watch *)user_data)->changed;
}

// Waits until the job may have another status. False at the deadline.
static bool
watch_wait(Watch *watch, GError **error)
{
    g_autoptr(GError) cause = NULL;

    if (vs_qmp_client_wait(watch->client, has_changed, watch, remaining_ms(watch, ASK_AGAIN_MS),
                           watch->cancellable, &cause))
        return true;
    if (!g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT)) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    if (g_get_monotonic_time() < watch->deadline_us)
        return true;
    g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_TIMEOUT, "it is still %s at the deadline",
                watch->status);
    return false;
}

static bool
finish(Watch *watch, GError **error)
{
    for (;;) {
        if (!watch_ask(watch, error))
            return false;
        if (watch->status == NULL) {
            g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND,
                                "there is no such job (any more)");
            return false;
        }
        if (strcmp(watch->status, "concluded") == 0)
            break;
        if (!watch_wait(watch, error))
            return false;
    }
    if (!watch_command(watch, "job-dismiss", error))
        return false;
    if (watch->error == NULL)
        return true;
    g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND, watch->error);
    return false;
}

bool
vs_qmp_job_finish(VsQmpClient *client, const char *job_id, unsigned timeout_ms,
                  GCancellable *cancellable, GError **error)
{
    g_autoptr(Watch) watch = watch_new(client, job_id, timeout_ms, cancellable);

    if (finish(watch, error))
        return true;
    g_prefix_error(error, "finishing job '%s': ", job_id);
    return false;
}

// What to ask of a job in this status so that it ends and goes; NULL: it is on its way.
static const char *
command_to_end(const char *status)
{
    if (strcmp(status, "concluded") == 0)
        return "job-dismiss";
    if (strcmp(status, "aborting") == 0 || strcmp(status, "null") == 0)
        return NULL;
    // created, running, paused, ready, standby, waiting, pending
    return "job-cancel";
}

static bool
cancel(Watch *watch, GError **error)
{
    const char *done = NULL; // the command that QEMU has accepted
    g_autofree char *refused_in = NULL;

    for (;;) {
        if (!watch_ask(watch, error))
            return false;
        if (watch->status == NULL)
            return true;
        const char *command = command_to_end(watch->status);
        if (command == NULL || g_strcmp0(command, done) == 0) {
            if (!watch_wait(watch, error))
                return false;
            continue;
        }

        g_autoptr(GError) cause = NULL;
        if (watch_command(watch, command, &cause)) {
            done = command;
            continue;
        }
        // The status may have changed between question and command; refused twice in the same one
        // is a refusal.
        if (!g_error_matches(cause, VS_QMP_ERROR, VS_QMP_ERROR_COMMAND) ||
            g_strcmp0(refused_in, watch->status) == 0) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        g_free(refused_in);
        refused_in = g_strdup(watch->status);
    }
}

bool
vs_qmp_job_cancel(VsQmpClient *client, const char *job_id, unsigned timeout_ms,
                  GCancellable *cancellable, GError **error)
{
    g_autoptr(Watch) watch = watch_new(
        client, job_id, timeout_ms != 0 ? timeout_ms : VS_QMP_COMMAND_TIMEOUT_MS, cancellable);

    if (cancel(watch, error))
        return true;
    g_prefix_error(error, "cancelling job '%s': ", job_id);
    return false;
}
