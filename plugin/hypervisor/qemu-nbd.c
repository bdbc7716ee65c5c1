// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/qemu-nbd.h"

#include <json-c/json.h>
#include <string.h>

// Killed, since it can miss a SIGTERM while it starts; it has nothing to put in order.
static char **
make_command(const char *first, const char *second, const char *third, char *image)
{
    GPtrArray *command = g_ptr_array_new();
    const char *const words[] = {"setpriv",     "--pdeathsig", "KILL", "qemu-nbd",
                                 "--read-only", first,         second, third};
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        if (words[i])
            g_ptr_array_add(command, g_strdup(words[i]));
    g_ptr_array_add(command, image);
    g_ptr_array_add(command, NULL);
    return (char **)g_ptr_array_free(command, FALSE);
}

static char *
bitmap_option(const char *bitmap)
{
    return bitmap ? g_strdup_printf("--bitmap=%s", bitmap) : NULL;
}

char **
vs_qemu_nbd_staged(int fd, const char *bitmap)
{
    g_autofree char *option = bitmap_option(bitmap);
    return make_command("--format=qcow2", option, NULL, g_strdup_printf("/dev/fd/%d", fd));
}

char **
vs_qemu_nbd_allocation(int fd)
{
    return make_command("--format=qcow2", "--allocation-depth", NULL,
                        g_strdup_printf("/dev/fd/%d", fd));
}

// QEMU's option syntax takes a comma as the end of a value, and two for one.
static char *
double_commas(const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    return g_strjoinv(",,", parts);
}

char **
vs_qemu_nbd_image(const char *source, const char *format, const char *bitmap)
{
    g_autofree char *option = bitmap_option(bitmap);
    g_autofree char *name = double_commas(source);
    g_autofree char *driver = double_commas(format);
    char *image = g_strdup_printf("driver=%s,force-share=on,file.filename=%s", driver, name);
    return make_command("--image-opts", option, NULL, image);
}

// Only JSON can say that there is no backing file, whatever the header says.
static char *
lone_image(const VsDisk *disk)
{
    struct json_object *file = json_object_new_object();
    struct json_object *image = json_object_new_object();
    json_object_object_add(file, "filename", json_object_new_string(disk->source));
    json_object_object_add(image, "driver", json_object_new_string(disk->format));
    json_object_object_add(image, "force-share", json_object_new_boolean(true));
    json_object_object_add(image, "backing", NULL);
    json_object_object_add(image, "file", file);
    char *name = g_strconcat("json:", json_object_to_json_string(image), NULL);
    json_object_put(image);
    return name;
}

char **
vs_qemu_nbd_disk(const VsDisk *disk, const char *bitmap)
{
    if (!vs_disk_is_cut_off(disk))
        return vs_qemu_nbd_image(disk->source, disk->format, bitmap);
    g_autofree char *option = bitmap_option(bitmap);
    return make_command(option, NULL, NULL, lone_image(disk));
}
