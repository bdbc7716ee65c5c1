// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/driver.h"

#include <string.h>

char *
vs_bitmap_name(const char *repository_id, const char *snapshot_id)
{
    return g_strdup_printf("virtsnap.%s.%s", repository_id, snapshot_id);
}

char *
vs_bitmap_end_name(const char *bitmap)
{
    return g_strconcat(bitmap, ".end", NULL);
}

bool
vs_bitmap_is_of(const char *name, const char *repository_id)
{
    g_autofree char *prefix = g_strdup_printf("virtsnap.%s.", repository_id);
    return name && g_str_has_prefix(name, prefix);
}

char *
vs_host_key(void)
{
    char *id = NULL;
    if (g_file_get_contents("/etc/machine-id", &id, NULL, NULL) && strlen(g_strstrip(id)) > 0)
        return id;
    g_free(id);
    return g_strdup(g_get_host_name());
}
