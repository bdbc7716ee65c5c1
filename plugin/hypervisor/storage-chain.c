// SPDX-License-Identifier: LGPL-2.1-or-later
// A definition may say of which images a disk consists, and a machine that is started follows it.
// Images that are read by themselves follow their headers.
#include "plugin/hypervisor/image-info.h"
#include "plugin/hypervisor/qmp-disks.h"
#include "plugin/hypervisor/storage-driver-private.h"

#define ADVICE                                                                                     \
    "snapshot it while its machine runs, or make both say the same (`virsh edit`, `qemu-img "      \
    "rebase -u`)"

static char *
name_of(const GPtrArray *images, unsigned index)
{
    const VsImageInfo *info = g_ptr_array_index(images, index);
    return vs_qmp_image_name(info->filename, NULL);
}

// Layer index of the definition's chain; the ones above are the same.
static char *
compare_layer(const VsDisk *disk, const GPtrArray *images, unsigned index)
{
    const char *format = g_ptr_array_index(disk->chain_formats, index);
    g_autofree char *above = name_of(images, index - 1);
    g_autofree char *defined = vs_qmp_image_name(g_ptr_array_index(disk->chain, index), NULL);
    if (index >= images->len)
        return g_strdup_printf("its definition has a backing file '%s' of '%s', which names none "
                               "in its header; " ADVICE,
                               defined, above);
    g_autofree char *named = name_of(images, index);
    if (!g_str_equal(defined, named))
        return g_strdup_printf("its definition has the backing file '%s' of '%s', which names '%s' "
                               "in its header; " ADVICE,
                               defined, above, named);
    const VsImageInfo *info = g_ptr_array_index(images, index);
    if (format && !g_str_equal(format, info->format))
        return g_strdup_printf("its definition has the backing file '%s' as %s, but by the header "
                               "of '%s' it is %s; " ADVICE,
                               named, format, above, info->format);
    return NULL;
}

char *
vs_storage_find_difference(const VsDisk *disk, const GPtrArray *images)
{
    unsigned defined = disk->chain_formats->len;
    for (unsigned i = 1; i < defined; i++) {
        char *difference = compare_layer(disk, images, i);
        if (difference)
            return difference;
    }
    // Where the definition leaves off without an end, the headers tell the machine too.
    if (!disk->chain_ends || images->len <= defined)
        return NULL;
    g_autofree char *last = name_of(images, defined - 1);
    g_autofree char *next = name_of(images, defined);
    return g_strdup_printf("its definition ends the backing chain at '%s', which names a backing "
                           "file '%s' in its header; " ADVICE,
                           last, next);
}

char *
vs_storage_find_link(const VsDisk *disk, const GPtrArray *images, const GPtrArray *own)
{
    for (unsigned i = 0; i < MIN(images->len, own->len); i++) {
        g_autofree char *by_link = name_of(images, i);
        g_autofree char *by_file = name_of(own, i);
        if (!g_str_equal(by_link, by_file))
            return g_strdup_printf("its image '%s' is a link, beside which there is another "
                                   "backing file, '%s', than beside the image itself, '%s'; "
                                   "snapshot it while its machine runs, or define it without links",
                                   disk->source, by_link, by_file);
    }
    return NULL;
}
