// SPDX-License-Identifier: LGPL-2.1-or-later
// The connection to libvirt: made, lost, made again; its errors.
#include <stdlib.h>
#include <string.h>

#include "plugin/error.h"
#include "plugin/hypervisor/domain-private.h"

#define RECONNECT_POLL_MS 100u
// How long libvirt may take to answer a new connection: the first, and at least any other.
#define OPEN_TIMEOUT_MS 30000u
#define REOPEN_TIMEOUT_MS 1000u

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

char *
vs_domain_flatten(const char *text)
{
    char *line = g_strstrip(g_strdup(text));
    return g_strdelimit(line, "\n\r", ' ');
}

static const virError *
last_failure(const VsDomain *domain)
{
    const virError *last = virGetLastError();
    return last && last->code != VIR_ERR_OK ? last : domain->failure;
}

int
vs_domain_last_code(const VsDomain *domain)
{
    const virError *last = last_failure(domain);
    return last ? last->code : VIR_ERR_OK;
}

void
vs_domain_set_error(const VsDomain *domain, const char *operation, GError **error)
{
    const virError *last = last_failure(domain);
    int code = last ? last->code : VIR_ERR_OK;
    g_autofree char *text =
        vs_domain_flatten(last && last->message ? last->message : "no reason was given");
    if (domain->why_gone) {
        g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_FAILED,
                    "domain '%s': %s: libvirt is gone: %s", domain->name, operation,
                    domain->why_gone);
        return;
    }
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
    vs_domain_start_event_loop();
    g_autofree char *why = NULL;
    g_autoptr(VsDomainOpening) pending = NULL;
    virConnectPtr connection = vs_domain_open_connection(uri, OPEN_TIMEOUT_MS, &pending, &why);
    if (connection)
        return connection;
    g_set_error(error, VS_DOMAIN_ERROR, VS_DOMAIN_ERROR_CONNECT, "connecting to libvirt%s%s: %s",
                uri ? " at " : "", uri ? uri : "", why);
    return NULL;
}

static void
disconnect(VsDomain *domain)
{
    vs_domain_unwatch(domain);
    if (domain->handle)
        virDomainFree(domain->handle);
    if (domain->connection)
        virConnectClose(domain->connection);
    domain->handle = NULL;
    domain->connection = NULL;
}

static bool
connect_again(VsDomain *domain, unsigned timeout_ms)
{
    disconnect(domain);
    g_clear_pointer(&domain->why_gone, g_free);
    // What has had its time already is only looked at.
    unsigned least_ms = domain->pending ? 0 : REOPEN_TIMEOUT_MS;
    domain->connection = vs_domain_open_connection(domain->uri, MAX(timeout_ms, least_ms),
                                                   &domain->pending, &domain->why_gone);
    if (domain->connection)
        domain->handle = virDomainLookupByUUIDString(domain->connection, domain->uuid);
    return domain->handle != NULL;
}

bool
vs_domain_can_retry(VsDomain *domain, unsigned timeout_ms)
{
    virFreeError(domain->failure);
    domain->failure = virSaveLastError();
    if (domain->handle && virConnectIsAlive(domain->connection) == 1)
        return false;
    if (domain->is_given_up)
        timeout_ms = 0;
    int64_t deadline_us = g_get_monotonic_time() + timeout_ms * INT64_C(1000);
    bool is_back = connect_again(domain, timeout_ms);
    while (!is_back && g_get_monotonic_time() < deadline_us) {
        g_usleep(RECONNECT_POLL_MS * 1000);
        is_back = connect_again(domain, timeout_ms);
    }
    domain->is_given_up = !is_back && (timeout_ms > 0 || domain->is_given_up);
    return is_back;
}

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
    vs_domain_opening_release(domain->pending);
    virFreeError(domain->failure);
    g_free(domain->why_gone);
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
