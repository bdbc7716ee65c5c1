// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gio/gio.h>
#include <libnbd.h>
#include <pthread.h>

#include "nbd-export/restore/restore.h"
#include "nbd-export/restore/target.h"

typedef struct {
    VsTarget base;
    char *path;
    struct nbd_handle *nbd;
    pthread_mutex_t mutex; // guards nbd: one request at a time; decoding is what takes the time
} NbdTarget;

static void
nbd_target_free(VsTarget *target)
{
    NbdTarget *nbd = (NbdTarget *)target;
    nbd_close(nbd->nbd); // ends qemu-nbd, and waits for it
    pthread_mutex_destroy(&nbd->mutex);
    g_free(nbd->path);
    g_free(nbd);
}

static void
set_nbd_error(const NbdTarget *nbd, GError **error)
{
    const char *cause = nbd_get_error();
    g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_FAILED,
                "writing '%s' through qemu-nbd: %s", nbd->path, cause ? cause : "unknown error");
}

static bool
nbd_target_write(VsTarget *target, uint64_t offset, const void *data, size_t length, GError **error)
{
    NbdTarget *nbd = (NbdTarget *)target;
    pthread_mutex_lock(&nbd->mutex);
    bool ok = nbd_pwrite(nbd->nbd, data, length, offset, 0) == 0;
    if (!ok)
        set_nbd_error(nbd, error); // libnbd's error is this thread's
    pthread_mutex_unlock(&nbd->mutex);
    return ok;
}

static bool
nbd_target_finish(VsTarget *target, GError **error)
{
    NbdTarget *nbd = (NbdTarget *)target;
    if (nbd_flush(nbd->nbd, 0) == -1 || nbd_shutdown(nbd->nbd, 0) == -1) {
        set_nbd_error(nbd, error);
        return false;
    }
    // Closing waits for qemu-nbd to have closed the image.
    nbd_close(g_steal_pointer(&nbd->nbd));
    return true;
}

static const VsTargetOps nbd_ops = {nbd_target_free, nbd_target_write, nbd_target_finish};

static bool
create_image(const char *path, const char *format, uint64_t size_bytes, GError **error)
{
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, size_bytes);
    g_autoptr(GError) cause = NULL;
    g_autofree char *complaint = NULL;
    g_autoptr(GSubprocess) create =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE | G_SUBPROCESS_FLAGS_STDERR_PIPE, &cause,
                         "qemu-img", "create", "-q", "-f", format, path, size, NULL);
    if (create && g_subprocess_communicate_utf8(create, NULL, NULL, NULL, &complaint, &cause) &&
        g_subprocess_get_successful(create))
        return true;
    g_set_error(error, VS_RESTORE_ERROR, VS_RESTORE_ERROR_FAILED, "creating the %s image '%s': %s",
                format, path, cause ? cause->message : g_strchomp(complaint));
    return false;
}

VsTarget *
vs_nbd_target_open(const char *path, const char *format, uint64_t size_bytes, GError **error)
{
    if (!create_image(path, format, size_bytes, error))
        return NULL;
    NbdTarget *nbd = g_new0(NbdTarget, 1);
    nbd->base.ops = &nbd_ops;
    nbd->path = g_strdup(path);
    pthread_mutex_init(&nbd->mutex, NULL);
    nbd->nbd = nbd_create();
    const char *command[] = {"qemu-nbd", "--cache=writeback", "--discard=unmap", "-f", format, path,
                             NULL};
    if (!nbd->nbd || nbd_connect_systemd_socket_activation(nbd->nbd, (char **)command) == -1) {
        set_nbd_error(nbd, error);
        nbd_target_free(&nbd->base);
        return NULL;
    }
    return &nbd->base;
}
