// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/qemu-nbd.h"

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
