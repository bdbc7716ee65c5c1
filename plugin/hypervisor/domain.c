// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/domain.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/error.h"

#define POLL_MS 20u
#define RECONNECT_POLL_MS 100u
// For what an agent does at once.
#define AGENT_TIMEOUT_S 5

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virDomainCheckpoint, virDomainCheckpointFree)

struct _VsDomain {
    char *uri; // NULL: libvirt's default
    virConnectPtr connection;
    virDomainPtr handle;
    char *name;
    char uuid[VIR_UUID_STRING_BUFLEN];
    virErrorPtr failure; // of the last call that failed: asking whether the connection is alive
                         // makes libvirt forget it
    bool is_given_up;    // libvirt has not come back in time: no longer waited for
};

GQuark
vs_domain_error_quark(void)
{
    return g_quark_from_static_string("vs-domain-error-quark");
}

// Errors ----------------------------------------------------------------------------------------

// libvirt prints errors by itself unless told otherwise.
static void
ignore_error(void *user_data, virErrorPtr error)
{
}

static const virError *
last_failure(const VsDomain *domain)
{
    const virError *last = virGetLastError();
    return last && last->code != VIR_ERR_OK ? last : domain->failure;
}

static int
last_code(const VsDomain *domain)
{
    const virError *last = last_failure(domain);
    return last ? last->code : VIR_ERR_OK;
}

static void
set_error(const VsDomain *domain, const char *operation, GError **error)
{
    const virError *last = last_failure(domain);
    int code = last ? last->code : VIR_ERR_OK;
    const char *text = last && last->message ? last->message : "no reason was given";
    if (code == VIR_ERR_CHECKPOINT_INCONSISTENT || code == VIR_ERR_NO_DOMAIN_CHECKPOINT)
        g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_CHECKPOINT, "domain '%s': %s: %s",
                    domain->name, operation, text);
    else if (code == VIR_ERR_OPERATION_TIMEOUT)
        g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, "domain '%s' is busy: %s: %s",
                    domain->name, operation, text);
    else
        g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_FAILED, "domain '%s': %s: %s",
                    domain->name, operation, text);
}

// Connections -----------------------------------------------------------------------------------

static virConnectPtr
connect_to(const char *uri, GError **error)
{
    virSetErrorFunc(NULL, ignore_error);
    virConnectPtr connection = virConnectOpen(uri);
    if (connection)
        return connection;
    const char *text = virGetLastErrorMessage();
    g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_CONNECT, "connecting to libvirt%s%s: %s",
                uri ? " at " : "", uri ? uri : "", text);
    return NULL;
}

static void
disconnect(VsDomain *domain)
{
    if (domain->handle)
        virDomainFree(domain->handle);
    if (domain->connection)
        virConnectClose(domain->connection);
    domain->handle = NULL;
    domain->connection = NULL;
}

static bool
connect_again(VsDomain *domain)
{
    disconnect(domain);
    domain->connection = virConnectOpen(domain->uri);
    if (domain->connection)
        domain->handle = virDomainLookupByUUIDString(domain->connection, domain->uuid);
    return domain->handle != NULL;
}

// Whether the failed call is worth another try: the connection was gone, and is there again.
static bool
can_retry_for(VsDomain *domain, unsigned timeout_ms)
{
    virFreeError(domain->failure);
    domain->failure = virSaveLastError();
    if (domain->handle && virConnectIsAlive(domain->connection) == 1)
        return false;
    if (domain->is_given_up)
        timeout_ms = 0;
    int64_t deadline_us = g_get_monotonic_time() + timeout_ms * INT64_C(1000);
    bool is_back = connect_again(domain);
    while (!is_back && g_get_monotonic_time() < deadline_us) {
        g_usleep(RECONNECT_POLL_MS * 1000);
        is_back = connect_again(domain);
    }
    domain->is_given_up = !is_back && (timeout_ms > 0 || domain->is_given_up);
    return is_back;
}

static bool
can_retry(VsDomain *domain)
{
    return can_retry_for(domain, VS_DOMAIN_RECONNECT_MS);
}

// A domain without a handle is fine: libvirt's functions refuse NULL with an error.
#define WITH_RETRY(result, failed, call)                                                           \
    do {                                                                                           \
        (result) = (call);                                                                         \
        if ((failed) && can_retry(domain))                                                         \
            (result) = (call);                                                                     \
    } while (0)

static VsDomain *
domain_new(const char *uri, virConnectPtr connection, virDomainPtr handle)
{
    VsDomain *domain = g_new0(VsDomain, 1);
    domain->uri = g_strdup(uri);
    domain->connection = connection;
    domain->handle = handle;
    domain->name = g_strdup(virDomainGetName(handle));
    if (virDomainGetUUIDString(handle, domain->uuid) < 0)
        domain->uuid[0] = '\0';
    return domain;
}

VsDomain *
vs_domain_open(const char *uri, const char *name, GError **error)
{
    virConnectPtr connection = connect_to(uri, error);
    if (!connection) {
        g_prefix_error(error, "instance '%.200s': ", name);
        return NULL;
    }
    virDomainPtr handle = virDomainLookupByName(connection, name);
    if (!handle)
        handle = virDomainLookupByUUIDString(connection, name);
    if (handle)
        return domain_new(uri, connection, handle);
    g_autofree char *quoted = vs_error_quote(name);
    g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_INSTANCE,
                "instance %s: libvirt%s%s knows no domain of that name or UUID; `virtsnap "
                "instances` lists them",
                quoted, uri ? " at " : "", uri ? uri : "");
    virConnectClose(connection);
    return NULL;
}

GPtrArray *
vs_domain_list(const char *uri, GError **error)
{
    virConnectPtr connection = connect_to(uri, error);
    if (!connection)
        return NULL;
    virDomainPtr *handles = NULL;
    int count = virConnectListAllDomains(connection, &handles, 0);
    GPtrArray *domains = g_ptr_array_new_with_free_func((GDestroyNotify)vs_domain_free);
    for (int i = 0; i < count; i++) {
        virConnectRef(connection);
        g_ptr_array_add(domains, domain_new(uri, connection, handles[i]));
    }
    free(handles);
    if (count < 0) {
        g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_FAILED, "listing domains: %s",
                    virGetLastErrorMessage());
        g_clear_pointer(&domains, g_ptr_array_unref);
    }
    virConnectClose(connection);
    return domains;
}

void
vs_domain_free(VsDomain *domain)
{
    if (!domain)
        return;
    disconnect(domain);
    virFreeError(domain->failure);
    g_free(domain->uri);
    g_free(domain->name);
    g_free(domain);
}

const char *
vs_domain_name(const VsDomain *domain)
{
    return domain->name;
}

const char *
vs_domain_uuid(const VsDomain *domain)
{
    return domain->uuid;
}

// State -----------------------------------------------------------------------------------------

void
vs_domain_state(VsDomain *domain, VsDomainState *state)
{
    int number = VIR_DOMAIN_NOSTATE, reason = 0;
    int result = virDomainGetState(domain->handle, &number, &reason, 0);
    if (result < 0 && can_retry_for(domain, 0))
        result = virDomainGetState(domain->handle, &number, &reason, 0);
    *state = (VsDomainState){.is_unreachable = result < 0};
    if (result < 0)
        return;
    state->is_active = number != VIR_DOMAIN_SHUTOFF && number != VIR_DOMAIN_CRASHED;
    state->is_paused = number == VIR_DOMAIN_PAUSED || number == VIR_DOMAIN_PMSUSPENDED;
    state->has_io_error = number == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_IOERROR;
}

bool
vs_domain_resume(VsDomain *domain, GError **error)
{
    int result;
    WITH_RETRY(result, result < 0, virDomainResume(domain->handle));
    if (result < 0)
        set_error(domain, "resuming it", error);
    return result == 0;
}

char *
vs_domain_xml(VsDomain *domain, bool inactive, GError **error)
{
    unsigned flags = inactive ? VIR_DOMAIN_XML_INACTIVE : 0;
    char *xml;
    WITH_RETRY(xml, !xml, virDomainGetXMLDesc(domain->handle, flags));
    if (!xml)
        set_error(domain, "reading its definition", error);
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
        set_error(domain, operation, error);
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
    set_error(domain, "beginning a backup", error);
    return false;
}

char *
vs_domain_backup_xml(VsDomain *domain, GError **error)
{
    char *xml;
    WITH_RETRY(xml, !xml && virGetLastErrorCode() != VIR_ERR_NO_DOMAIN_BACKUP,
               virDomainBackupGetXMLDesc(domain->handle, 0));
    if (!xml && last_code(domain) != VIR_ERR_NO_DOMAIN_BACKUP)
        set_error(domain, "asking for its backup job", error);
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
        set_error(domain, "asking for its job", error);
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
        set_error(domain, "asking how its backup ended", error);
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
        set_error(domain, "ending its backup job", &failure);
    // It may have ended by itself in the meantime.
    g_autoptr(GError) unended = NULL;
    bool ok = (!failure || !g_error_matches(failure, VS_ERROR, VS_ERROR_INSTANCE_STATUS)) &&
              wait_for_end(domain, &unended);
    if (!ok)
        g_propagate_error(error, failure ? g_steal_pointer(&failure) : g_steal_pointer(&unended));
    g_clear_error(&failure);
    return ok;
}

// Checkpoints -----------------------------------------------------------------------------------

static char *
checkpoint_xml(virDomainCheckpointPtr checkpoint, bool with_size)
{
    unsigned flags = VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
    char *xml = with_size ? virDomainCheckpointGetXMLDesc(checkpoint,
                                                          flags | VIR_DOMAIN_CHECKPOINT_XML_SIZE)
                          : NULL;
    // A bitmap that is not sound may make the question for sizes fail as a whole.
    if (!xml)
        xml = virDomainCheckpointGetXMLDesc(checkpoint, flags);
    char *copy = g_strdup(xml);
    free(xml);
    return copy;
}

GPtrArray *
vs_domain_checkpoints(VsDomain *domain, const char *prefix, bool with_size, GError **error)
{
    virDomainCheckpointPtr *list = NULL;
    int count;
    WITH_RETRY(count, count < 0, virDomainListAllCheckpoints(domain->handle, &list, 0));
    if (count < 0) {
        set_error(domain, "listing its checkpoints", error);
        return NULL;
    }
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);
    for (int i = 0; i < count; i++) {
        g_autoptr(virDomainCheckpoint) checkpoint = list[i];
        if (!g_str_has_prefix(virDomainCheckpointGetName(checkpoint), prefix))
            continue;
        char *xml = checkpoint_xml(checkpoint, with_size);
        if (xml)
            g_ptr_array_add(found, xml);
    }
    free(list);
    return found;
}

bool
vs_domain_checkpoint_delete(VsDomain *domain, const char *name, bool metadata_only, GError **error)
{
    virDomainCheckpointPtr found;
    WITH_RETRY(found, !found, virDomainCheckpointLookupByName(domain->handle, name, 0));
    if (!found && last_code(domain) == VIR_ERR_NO_DOMAIN_CHECKPOINT)
        return true;
    g_autoptr(virDomainCheckpoint) checkpoint = found;
    unsigned flags = metadata_only ? VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY : 0;
    if (checkpoint && virDomainCheckpointDelete(checkpoint, flags) == 0)
        return true;
    set_error(domain, "removing a checkpoint", error);
    return false;
}

bool
vs_domain_checkpoint_redefine(VsDomain *domain, const char *xml, GError **error)
{
    virDomainCheckpointPtr made;
    WITH_RETRY(
        made, !made,
        virDomainCheckpointCreateXML(domain->handle, xml, VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE));
    g_autoptr(virDomainCheckpoint) checkpoint = made;
    if (!checkpoint)
        set_error(domain, "making a bitmap known as a checkpoint", error);
    return checkpoint != NULL;
}

// Guest agent -----------------------------------------------------------------------------------

// How long the agent may take. Libvirt can't be asked what it was set to before; its default is to
// wait for ever, and what it is set to holds for everybody.
static void
set_agent_timeout(VsDomain *domain, int seconds)
{
    if (virDomainAgentSetResponseTimeout(domain->handle, seconds, 0) < 0)
        virResetLastError();
}

static void
set_agent_error(const VsDomain *domain, const char *operation, const char *cause, GError **error)
{
    g_set_error(error, VS_ERROR, VS_ERROR_AGENT, "domain '%s': %s: %s", domain->name, operation,
                cause);
}

bool
vs_domain_find_agent(VsDomain *domain, GError **error)
{
    long long seconds;
    unsigned nanoseconds;
    set_agent_timeout(domain, AGENT_TIMEOUT_S);
    int result = virDomainGetTime(domain->handle, &seconds, &nanoseconds, 0);
    int code = virGetLastErrorCode();
    // Any agent will do that says something, if only that it does not tell the time.
    bool found =
        result == 0 || (code != VIR_ERR_AGENT_UNRESPONSIVE && code != VIR_ERR_ARGUMENT_UNSUPPORTED);
    if (!found)
        set_agent_error(domain, "asking for its guest agent", virGetLastErrorMessage(), error);
    set_agent_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    return found;
}

bool
vs_domain_freeze(VsDomain *domain, unsigned timeout_ms, unsigned *count, GError **error)
{
    set_agent_timeout(domain, (int)MAX(1, timeout_ms / 1000));
    int frozen = virDomainFSFreeze(domain->handle, NULL, 0, 0);
    if (frozen < 0)
        set_agent_error(domain, "having its guest agent freeze the file systems",
                        virGetLastErrorMessage(), error);
    set_agent_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    *count = (unsigned)MAX(0, frozen);
    return frozen >= 0;
}

bool
vs_domain_thaw(VsDomain *domain, GError **error)
{
    set_agent_timeout(domain, AGENT_TIMEOUT_S);
    int result = virDomainFSThaw(domain->handle, NULL, 0, 0);
    // Asking whether the connection is alive would forget why it failed.
    g_autofree char *cause = g_strdup(virGetLastErrorMessage());
    if (result < 0 && can_retry(domain))
        result = virDomainFSThaw(domain->handle, NULL, 0, 0);
    if (result < 0)
        set_agent_error(domain, "having its guest agent thaw the file systems", cause, error);
    set_agent_timeout(domain, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    return result >= 0;
}
