// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/chain-identity.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <sys/stat.h>

#define NS_PER_SECOND 1000000000ll

static struct json_object *
file_identity(const char *path, bool is_top)
{
    struct stat status;
    if (!g_path_is_absolute(path) || stat(path, &status) < 0 || !S_ISREG(status.st_mode))
        return NULL;
    int64_t written_ns = status.st_mtim.tv_sec * NS_PER_SECOND + status.st_mtim.tv_nsec;
    g_autofree char *text =
        is_top ? g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)status.st_ino)
               : g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GINT64_FORMAT ":%" G_GINT64_FORMAT,
                                 (guint64)status.st_ino, (gint64)status.st_size, written_ns);
    return json_object_new_string(text);
}

char *
vs_chain_identity(const GPtrArray *chain)
{
    struct json_object *files = json_object_new_array();
    for (unsigned i = 0; i < chain->len; i++)
        json_object_array_add(files, file_identity(g_ptr_array_index(chain, i), i == 0));
    char *text = g_strdup(json_object_to_json_string_ext(files, JSON_C_TO_STRING_PLAIN));
    json_object_put(files);
    return text;
}
