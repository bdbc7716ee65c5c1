// SPDX-License-Identifier: LGPL-2.1-or-later
// A domain's state and its jobs.
#include <stdio.h>
#include <stdlib.h>

#include "plugin/error.h"
#include "plugin/hypervisor/domain-private.h"

// Beginning a backup takes libvirt some 100 ms, with pauses for writing files.
#define CALM_MS 500
#define CALM_LIMIT_MS 10000
#define CALM_POLL_MS 10

#define POLL_MS 20u

// State -----------------------------------------------------------------------------------------

void
vs_domain_state(VsDomain *domain, VsDomainState *state)
{
    int number = VIR_DOMAIN_NOSTATE, reason = 0;
    int result = virDomainGetState(domain->handle, &number, &reason, 0);
    if (result < 0 && vs_domain_can_retry(domain, 0))
        result = virDomainGetState(domain->handle, &number, &reason, 0);
    *state = (VsDomainState){.is_unreachable = result < 0};
    if (result < 0)
        return;
    state->is_active = number != VIR_DOMAIN_SHUTOFF && number != VIR_DOMAIN_CRASHED;
    state->is_paused = number == VIR_DOMAIN_PAUSED || number == VIR_DOMAIN_PMSUSPENDED;
    state->has_io_error = number == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_IOERROR;
}

void
vs_domain_wait_for_calm(VsDomain *domain)
{
    int64_t now_us = g_get_monotonic_time(), calm_us = now_us;
    const int64_t limit_us = now_us + CALM_LIMIT_MS * 1000;
    for (; now_us < limit_us && now_us - calm_us < CALM_MS * 1000;
         now_us = g_get_monotonic_time()) {
        virDomainControlInfo info;
        if (virDomainGetControlInfo(domain->handle, &info, 0) < 0 ||
            info.state != VIR_DOMAIN_CONTROL_OK)
            calm_us = now_us;
        g_usleep(CALM_POLL_MS * 1000);
    }
}

bool
vs_domain_resume(VsDomain *domain, GError **error)
{
    int result;
    WITH_RETRY(result, result < 0, virDomainResume(domain->handle));
    if (result < 0)
        vs_domain_set_error(domain, "resuming it", error);
    return result == 0;
}

char *
vs_domain_xml(VsDomain *domain, bool inactive, GError **error)
{
    unsigned flags = inactive ? VIR_DOMAIN_XML_INACTIVE : 0;
    char *xml;
    WITH_RETRY(xml, !xml, virDomainGetXMLDesc(domain->handle, flags));
    if (!xml)
        vs_domain_set_error(domain, "reading its definition", error);
    char *copy = g_strdup(xml);
    free(xml);
    return copy;
}

bool
vs_domain_disk_size(VsDomain *domain, const char *target, uint64_t *size_bytes, GError **error)
{
    virDomainBlockInfo info;
    int result;
    WITH_RETRY(result, result < 0, virDomainGetBlockInfo(domain->handle, target, &info, 0));
    if (result < 0) {
        g_autofree char *operation = g_strdup_printf("asking for the size of disk '%s'", target);
        vs_domain_set_error(domain, operation, error);
        return false;
    }
    *size_bytes = info.capacity;
    return true;
}

const char *
vs_domain_block_job(VsDomain *domain, const char *target)
{
    virDomainBlockJobInfo info;
    int result;
    WITH_RETRY(result, result < 0, virDomainGetBlockJobInfo(domain->handle, target, &info, 0));
    if (result <= 0)
        return NULL;
    switch (info.type) {
    case VIR_DOMAIN_BLOCK_JOB_TYPE_PULL:
        return "a block pull";
    case VIR_DOMAIN_BLOCK_JOB_TYPE_COPY:
        return "a block copy";
    case VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT:
    case VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT:
        return "a block commit";
    default:
        return "a block job";
    }
}

// libvirt's label of the "dac" model is "+uid:+gid".
static bool
parse_owner(const char *label, uid_t *user, gid_t *group)
{
    unsigned long uid, gid;
    char end;
    if (sscanf(label, "+%lu:+%lu%c", &uid, &gid, &end) != 2) // NOLINT(cert-err34-c)
        return false;
    *user = uid;
    *group = gid;
    return true;
}

bool
vs_domain_owner(VsDomain *domain, uid_t *user, gid_t *group)
{
    virSecurityLabelPtr labels = NULL;
    int count;
    WITH_RETRY(count, count < 0, virDomainGetSecurityLabelList(domain->handle, &labels));
    bool found = false;
    for (int i = 0; i < count && !found; i++)
        found = parse_owner(labels[i].label, user, group);
    free(labels);
    return found;
}

// Jobs ------------------------------------------------------------------------------------------

bool
vs_domain_backup_begin(VsDomain *domain, const char *backup_xml, const char *checkpoint_xml,
                       GError **error)
{
    if (virDomainBackupBegin(domain->handle, backup_xml, checkpoint_xml,
                             VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) == 0)
        return true;
    vs_domain_set_error(domain, "beginning a backup", error);
    return false;
}

char *
vs_domain_backup_xml(VsDomain *domain, GError **error)
{
    char *xml;
    WITH_RETRY(xml, !xml && virGetLastErrorCode() != VIR_ERR_NO_DOMAIN_BACKUP,
               virDomainBackupGetXMLDesc(domain->handle, 0));
    if (!xml && vs_domain_last_code(domain) != VIR_ERR_NO_DOMAIN_BACKUP)
        vs_domain_set_error(domain, "asking for its backup job", error);
    char *copy = g_strdup(xml);
    free(xml);
    return copy;
}

static const char *
operation_name(int operation)
{
    switch (operation) {
    case VIR_DOMAIN_JOB_OPERATION_START:
        return "its start";
    case VIR_DOMAIN_JOB_OPERATION_SAVE:
        return "saving its state";
    case VIR_DOMAIN_JOB_OPERATION_RESTORE:
        return "restoring its state";
    case VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
    case VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return "a migration";
    case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT:
        return "a libvirt snapshot";
    case VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT:
        return "reverting to a libvirt snapshot";
    case VIR_DOMAIN_JOB_OPERATION_DUMP:
        return "a core dump";
    case VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return "a backup";
    default:
        return "a job";
    }
}

static void
read_job(virTypedParameterPtr params, int count, VsDomainJob *job)
{
    int operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;
    unsigned long long done = 0, total = 0;
    (void)virTypedParamsGetInt(params, count, VIR_DOMAIN_JOB_OPERATION, &operation);
    (void)virTypedParamsGetULLong(params, count, VIR_DOMAIN_JOB_DISK_PROCESSED, &done);
    (void)virTypedParamsGetULLong(params, count, VIR_DOMAIN_JOB_DISK_TOTAL, &total);
    job->operation = operation_name(operation);
    job->done_bytes = done;
    job->total_bytes = total;
}

bool
vs_domain_job(VsDomain *domain, VsDomainJob *job, GError **error)
{
    virTypedParameterPtr params = NULL;
    int type = VIR_DOMAIN_JOB_NONE, count = 0, result;
    WITH_RETRY(result, result < 0, virDomainGetJobStats(domain->handle, &type, &params, &count, 0));
    if (result < 0) {
        vs_domain_set_error(domain, "asking for its job", error);
        return false;
    }
    *job = (VsDomainJob){.is_active =
                             type == VIR_DOMAIN_JOB_BOUNDED || type == VIR_DOMAIN_JOB_UNBOUNDED};
    read_job(params, count, job);
    virTypedParamsFree(params, count);
    return true;
}

bool
vs_domain_job_succeeded(VsDomain *domain, GError **error)
{
    virTypedParameterPtr params = NULL;
    int type = VIR_DOMAIN_JOB_NONE, count = 0, result;
    unsigned flags = VIR_DOMAIN_JOB_STATS_COMPLETED | VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
    WITH_RETRY(result, result < 0,
               virDomainGetJobStats(domain->handle, &type, &params, &count, flags));
    if (result < 0) {
        vs_domain_set_error(domain, "asking how its backup ended", error);
        return false;
    }
    int success = 0, operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;
    const char *reason = NULL;
    (void)virTypedParamsGetInt(params, count, VIR_DOMAIN_JOB_OPERATION, &operation);
    (void)virTypedParamsGetBoolean(params, count, VIR_DOMAIN_JOB_SUCCESS, &success);
    (void)virTypedParamsGetString(params, count, VIR_DOMAIN_JOB_ERRMSG, &reason);
    bool ok =
        type == VIR_DOMAIN_JOB_COMPLETED && success && operation == VIR_DOMAIN_JOB_OPERATION_BACKUP;
    if (!ok)
        g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_FAILED,
                    "domain '%s': its QEMU did not copy all of the changed blocks%s%s",
                    domain->name, reason ? ": " : "", reason ? reason : "");
    virTypedParamsFree(params, count);
    return ok;
}

static bool
wait_for_end(VsDomain *domain, GError **error)
{
    int64_t deadline_us = g_get_monotonic_time() + VS_DOMAIN_ABORT_TIMEOUT_MS * INT64_C(1000);
    for (;;) {
        g_autoptr(GError) failure = NULL;
        g_autofree char *xml = vs_domain_backup_xml(domain, &failure);
        if (failure) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
        if (!xml)
            return true;
        if (g_get_monotonic_time() >= deadline_us)
            break;
        g_usleep(POLL_MS * 1000);
    }
    g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_FAILED,
                "domain '%s': its backup job has not ended %u s after it was aborted", domain->name,
                VS_DOMAIN_ABORT_TIMEOUT_MS / 1000);
    return false;
}

bool
vs_domain_abort_backup(VsDomain *domain, GError **error)
{
    GError *failure = NULL;
    g_autofree char *xml = vs_domain_backup_xml(domain, &failure);
    if (!xml && failure)
        g_propagate_error(error, failure);
    if (!xml)
        return failure == NULL;
    int result;
    WITH_RETRY(result, result < 0, virDomainAbortJob(domain->handle));
    if (result < 0)
        vs_domain_set_error(domain, "ending its backup job", &failure);
    // It may have ended by itself in the meantime.
    g_autoptr(GError) unended = NULL;
    bool ok = (!failure || !g_error_matches(failure, VS_ERROR, VS_ERROR_INSTANCE_STATUS)) &&
              wait_for_end(domain, &unended);
    if (!ok)
        g_propagate_error(error, failure ? g_steal_pointer(&failure) : g_steal_pointer(&unended));
    g_clear_error(&failure);
    return ok;
}
