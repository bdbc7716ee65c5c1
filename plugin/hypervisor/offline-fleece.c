// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/offline-fleece.h"

#include <errno.h>
#include <gio/gio.h>
#include <json-c/json.h>
#include <libnbd.h>
#include <unistd.h>

#include "nbd-export/pull/extents.h"
#include "plugin/error.h"
#include "plugin/hypervisor/qemu-nbd.h"

// A block-status request's length has 32 bits; aligned.
#define ASK_MOST_BYTES (UINT32_C(1) << 31)

// What an image says of its blocks ----------------------------------------------------------------

// A context's extents, asked for one request after the other.
typedef struct {
    struct nbd_handle *nbd;
    const char *context;
    uint64_t size;
    uint64_t asked;  // offset of the request in flight
    GArray *extents; // of VsExtent
    bool is_sound;   // the answer made progress
} Question;

static bool
set_silent(const char *context, GError **error)
{
    const char *cause = nbd_get_error();
    g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS, "asking for %s: %s", context,
                cause ? cause : "no answer");
    return false;
}

static int
on_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t count,
           int *error)
{
    Question *question = user_data;
    if (g_str_equal(context, question->context) && offset == question->asked)
        question->is_sound =
            vs_extents_append(question->extents, offset, question->size, entries, count);
    return 0;
}

// Until is_over() is no longer 0: 1, or -1 on failure or silence.
static int
wait_for(struct nbd_handle *nbd, int (*is_over)(struct nbd_handle *nbd, uint64_t cookie),
         uint64_t cookie)
{
    int64_t deadline_us = g_get_monotonic_time() + VS_OFFLINE_SILENCE_MS * INT64_C(1000);
    for (;;) {
        int over = is_over(nbd, cookie);
        if (over != 0)
            return over;
        int left_ms = (int)((deadline_us - g_get_monotonic_time()) / 1000);
        if (left_ms <= 0 || nbd_poll(nbd, left_ms) == -1)
            return -1;
    }
}

static int
is_connected(struct nbd_handle *nbd, uint64_t cookie)
{
    return nbd_aio_is_connecting(nbd) == 1 ? 0 : nbd_aio_is_ready(nbd) == 1 ? 1 : -1;
}

static bool
ask_all(Question *question, char **command, GError **error)
{
    struct nbd_handle *nbd = question->nbd;
    if (nbd_set_export_name(nbd, "") < 0 || nbd_add_meta_context(nbd, question->context) < 0 ||
        nbd_aio_connect_systemd_socket_activation(nbd, command) < 0 ||
        wait_for(nbd, is_connected, 0) < 0 || nbd_can_meta_context(nbd, question->context) != 1 ||
        nbd_get_size(nbd) != (int64_t)question->size)
        return set_silent(question->context, error);
    for (uint64_t offset = 0; offset < question->size;) {
        question->asked = offset;
        question->is_sound = false;
        nbd_extent_callback callback = {.callback = on_extents, .user_data = question};
        int64_t cookie = nbd_aio_block_status(nbd, MIN(question->size - offset, ASK_MOST_BYTES),
                                              offset, callback, NBD_NULL_COMPLETION, 0);
        if (cookie < 0 || wait_for(nbd, nbd_aio_command_completed, cookie) != 1 ||
            !question->is_sound)
            return set_silent(question->context, error);
        const VsExtent *last =
            &g_array_index(question->extents, VsExtent, question->extents->len - 1);
        offset = last->offset + last->length;
    }
    return true;
}

// What the program's image says of its blocks in that context; NULL with error.
static GArray *
find_extents(char **command, const char *context, uint64_t size, GError **error)
{
    Question question = {
        .nbd = nbd_create(), .context = context, .size = size, .extents = vs_extents_new()};
    if (!question.nbd || !ask_all(&question, command, error)) {
        if (!question.nbd)
            set_silent(context, error);
        g_clear_pointer(&question.extents, g_array_unref);
    }
    nbd_close(question.nbd);
    return question.extents;
}

// The first byte that is dirty but not there, size: there is none.
static uint64_t
find_gap(const GArray *dirty, const GArray *there, uint64_t size)
{
    for (unsigned i = 0; i < dirty->len; i++) {
        const VsExtent *extent = &g_array_index(dirty, VsExtent, i);
        uint64_t end = extent->offset + extent->length;
        for (uint64_t at = extent->offset; extent->flags && at < end;) {
            const VsExtent *below = vs_extents_at(there, at);
            if (!below->flags)
                return at;
            at = below->offset + below->length;
        }
    }
    return size;
}

// What is there of the fleece.
static GArray *
find_copied(int fd, uint64_t size, GError **error)
{
    int inherited = dup(fd);
    if (inherited < 0) {
        int code = errno;
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                    "duplicating the scratch file's descriptor: %s", g_strerror(code));
        return NULL;
    }
    g_auto(GStrv) command = vs_qemu_nbd_allocation(inherited);
    GArray *extents = find_extents(command, "qemu:allocation-depth", size, error);
    close(inherited);
    return extents;
}

bool
vs_offline_fleece_covers(int fd, const VsDisk *disk, const char *bitmap, GError **error)
{
    uint64_t size = disk->virtual_size_bytes;
    g_auto(GStrv) command = vs_qemu_nbd_disk(disk, bitmap);
    g_autofree char *context = g_strconcat("qemu:dirty-bitmap:", bitmap, NULL);
    g_autoptr(GArray) dirty = find_extents(command, context, size, error);
    g_autoptr(GArray) there = dirty ? find_copied(fd, size, error) : NULL;
    if (!there)
        return false;
    vs_extents_mark(dirty, 1);
    vs_extents_mark(there, UINT32_MAX);
    uint64_t gap = find_gap(dirty, there, size);
    if (gap == size)
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                "disk '%s' was written to at %" G_GUINT64_FORMAT
                ", but what was there before was not kept: QEMU did not end in order, or its "
                "machine has run again",
                disk->target, gap);
    return false;
}

// Reading it --------------------------------------------------------------------------------------

static struct json_object *
image_node(const char *format, const char *filename)
{
    struct json_object *file = json_object_new_object();
    struct json_object *image = json_object_new_object();
    json_object_object_add(file, "filename", json_object_new_string(filename));
    json_object_object_add(image, "driver", json_object_new_string(format));
    json_object_object_add(image, "force-share", json_object_new_boolean(true));
    json_object_object_add(image, "file", file);
    return image;
}

char **
vs_offline_fleece_command(int fd, const VsDisk *disk, const char *bitmap)
{
    g_autofree char *path = g_strdup_printf("/dev/fd/%d", fd);
    struct json_object *fleece = image_node("qcow2", path);
    struct json_object *image = image_node(disk->format, disk->source);
    if (vs_disk_is_cut_off(disk))
        json_object_object_add(image, "backing", NULL);
    json_object_object_add(fleece, "backing", image);
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    g_strv_builder_add_many(builder, "setpriv", "--pdeathsig", "KILL", "qemu-nbd", "--read-only",
                            NULL);
    g_autofree char *option = bitmap ? g_strdup_printf("--bitmap=%s", bitmap) : NULL;
    if (option)
        g_strv_builder_add(builder, option);
    g_autofree char *name = g_strconcat("json:", json_object_to_json_string(fleece), NULL);
    g_strv_builder_add(builder, name);
    json_object_put(fleece);
    return g_strv_builder_end(builder);
}
