// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/offline-fleece.h"

#include <errno.h>
#include <gio/gio.h>
#include <json-c/json.h>
#include <unistd.h>

#include "nbd-export/pull/pull-cover.h"
#include "plugin/error.h"
#include "plugin/hypervisor/qemu-nbd.h"

static VsPull *
connect_program(char **command, const char *bitmap, uint64_t size, GError **error)
{
    VsPullSource source = {.socket = -1,
                           .command = (const char *const *)command,
                           .export_name = "",
                           .bitmap = bitmap,
                           .allocated_only = !bitmap};
    return vs_pull_connect(&source, size, error);
}

// The first byte that was written to and is not in the fleece, whose descriptor may be inherited.
static bool
find_gap(int inherited, const VsDisk *disk, const char *bitmap, uint64_t *gap, GError **error)
{
    uint64_t size = disk->virtual_size_bytes;
    g_auto(GStrv) image_command = vs_qemu_nbd_disk(disk, bitmap);
    g_auto(GStrv) fleece_command = vs_qemu_nbd_allocation(inherited);
    g_autoptr(VsPull) image = connect_program(image_command, bitmap, size, error);
    g_autoptr(VsPull) fleece = image ? connect_program(fleece_command, NULL, size, error) : NULL;
    return fleece && vs_pull_find_uncovered(image, fleece, VS_OFFLINE_SILENCE_MS, gap, error);
}

bool
vs_offline_fleece_covers(int fd, const VsDisk *disk, const char *bitmap, GError **error)
{
    int inherited = dup(fd);
    if (inherited < 0) {
        int code = errno;
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(code),
                    "duplicating the scratch file's descriptor: %s", g_strerror(code));
        return false;
    }
    uint64_t gap = 0;
    bool is_known = find_gap(inherited, disk, bitmap, &gap, error);
    close(inherited);
    if (!is_known || gap == disk->virtual_size_bytes)
        return is_known;
    g_set_error(error, VS_ERROR, VS_ERROR_INSTANCE_STATUS,
                "disk '%s' was written to at %" G_GUINT64_FORMAT
                ", but what was there before was not kept: QEMU did not end in order, or its "
                "machine has run again",
                disk->target, gap);
    return false;
}

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
