// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/object-store.h"

#define NAME_MAX_BYTES 200

GQuark
vs_object_store_error_quark(void)
{
    return g_quark_from_static_string("vs-object-store-error-quark");
}

bool
vs_object_name_is_valid(const char *name)
{
    bool at_start = true; // of a component
    size_t i = 0;
    for (; name[i] != '\0'; i++) {
        char c = name[i];
        if (i >= NAME_MAX_BYTES || (at_start && (c == '.' || c == '/'))) {
            return false;
        }
        if (!g_ascii_isalnum(c) && c != '.' && c != '_' && c != '-' && c != '/') {
            return false;
        }
        at_start = c == '/';
    }
    return i > 0 && !at_start;
}

static bool
check_name(const char *operation, const char *name, GError **error)
{
    if (vs_object_name_is_valid(name)) {
        return true;
    }
    g_autofree char *shown = g_strescape(name, NULL);
    g_set_error(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_FAILED,
                "%s object \"%.200s\": not a valid name", operation, shown);
    return false;
}

void
vs_object_store_free(VsObjectStore *store)
{
    if (store != NULL) {
        store->ops->free(store);
    }
}

bool
vs_object_store_put(VsObjectStore *store, const char *name, const struct iovec *parts,
                    unsigned part_count, GError **error)
{
    return check_name("write", name, error) &&
           store->ops->put(store, name, parts, part_count, error);
}

bool
vs_object_store_put_stream(VsObjectStore *store, const char *name, VsObjectSourceFunc source,
                           gpointer user_data, GError **error)
{
    return check_name("write", name, error) &&
           store->ops->put_stream(store, name, source, user_data, error);
}

bool
vs_object_store_get_range(VsObjectStore *store, const char *name, uint64_t offset, void *buffer,
                          size_t length, GError **error)
{
    return check_name("read", name, error) &&
           store->ops->get_range(store, name, offset, buffer, length, error);
}

GBytes *
vs_object_store_get(VsObjectStore *store, const char *name, size_t max_bytes, GError **error)
{
    uint64_t size_bytes = 0;
    if (!vs_object_store_get_size(store, name, &size_bytes, error)) {
        return NULL;
    }
    if (size_bytes > max_bytes) {
        g_set_error(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_FAILED,
                    "read object \"%s\": %" G_GUINT64_FORMAT " bytes are more than the %zu allowed",
                    name, size_bytes, max_bytes);
        return NULL;
    }
    g_autofree void *buffer = g_malloc(MAX(size_bytes, 1));
    if (!vs_object_store_get_range(store, name, 0, buffer, size_bytes, error)) {
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&buffer), size_bytes);
}

bool
vs_object_store_get_size(VsObjectStore *store, const char *name, uint64_t *size_bytes,
                         GError **error)
{
    return check_name("look up", name, error) &&
           store->ops->get_size(store, name, size_bytes, error);
}

GPtrArray *
vs_object_store_list(VsObjectStore *store, const char *folder, GError **error)
{
    return check_name("list", folder, error) ? store->ops->list(store, folder, error) : NULL;
}

bool
vs_object_store_remove(VsObjectStore *store, const char *name, GError **error)
{
    return check_name("remove", name, error) && store->ops->remove(store, name, error);
}
