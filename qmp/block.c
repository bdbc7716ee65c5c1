// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/block.h"

#include "qmp/reply.h"

GPtrArray *
vs_qmp_query_devices(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    struct json_object *reply = vs_qmp_client_call(client, "query-block", NULL, cancellable, error);
    GPtrArray *devices = reply != NULL ? vs_qmp_parse_devices(reply, error) : NULL;

    json_object_put(reply);
    return devices;
}

GPtrArray *
vs_qmp_query_nodes(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    struct json_object *arguments = vs_qmp_args("flat", vs_qmp_bool(true), NULL);
    struct json_object *reply =
        vs_qmp_client_call(client, "query-named-block-nodes", arguments, cancellable, error);
    GPtrArray *nodes = reply != NULL ? vs_qmp_parse_nodes(reply, error) : NULL;

    json_object_put(reply);
    return nodes;
}

char *
vs_qmp_qom_get_string(VsQmpClient *client, const char *path, const char *property,
                      GCancellable *cancellable, GError **error)
{
    struct json_object *arguments =
        vs_qmp_args("path", vs_qmp_str(path), "property", vs_qmp_str(property), NULL);
    struct json_object *reply =
        vs_qmp_client_call(client, "qom-get", arguments, cancellable, error);
    char *value = NULL;

    if (reply == NULL) {
        g_prefix_error(error, "reading property '%s' of '%s': ", property, path);
        return NULL;
    }
    if (json_object_is_type(reply, json_type_string))
        value = g_strdup(json_object_get_string(reply));
    else
        g_set_error(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                    "QMP command 'qom-get': property '%s' of '%s' is not a string", property, path);
    json_object_put(reply);
    return value;
}

bool
vs_qmp_qom_set_string(VsQmpClient *client, const char *path, const char *property,
                      const char *value, GError **error)
{
    struct json_object *arguments =
        vs_qmp_args("path", vs_qmp_str(path), "property", vs_qmp_str(property), "value",
                    vs_qmp_str(value), NULL);

    if (vs_qmp_client_do(client, "qom-set", arguments, NULL, error))
        return true;
    g_prefix_error(error, "setting property '%s' of '%s' to '%s': ", property, path, value);
    return false;
}

bool
vs_qmp_nodes_reopen(VsQmpClient *client, struct json_object *options, GError **error)
{
    size_t count = json_object_array_length(options);

    if (vs_qmp_client_do(client, "blockdev-reopen", vs_qmp_args("options", options, NULL), NULL,
                         error))
        return true;
    g_prefix_error(error, "reopening %zu block nodes: ", count);
    return false;
}

bool
vs_qmp_node_add(VsQmpClient *client, struct json_object *options, GCancellable *cancellable,
                GError **error)
{
    struct json_object *name_member = NULL;
    (void)json_object_object_get_ex(options, "node-name", &name_member);
    g_autofree char *name =
        g_strdup(name_member != NULL ? json_object_get_string(name_member) : "");

    if (vs_qmp_client_do(client, "blockdev-add", options, cancellable, error))
        return true;
    g_prefix_error(error, "adding block node '%s': ", name);
    return false;
}

bool
vs_qmp_node_delete(VsQmpClient *client, const char *node, GCancellable *cancellable, GError **error)
{
    struct json_object *arguments = vs_qmp_args("node-name", vs_qmp_str(node), NULL);

    if (vs_qmp_client_do(client, "blockdev-del", arguments, cancellable, error))
        return true;
    g_prefix_error(error, "deleting block node '%s': ", node);
    return false;
}

bool
vs_qmp_set_write_threshold(VsQmpClient *client, const char *node, uint64_t threshold_bytes,
                           GCancellable *cancellable, GError **error)
{
    struct json_object *arguments = vs_qmp_args("node-name", vs_qmp_str(node), "write-threshold",
                                                vs_qmp_size(threshold_bytes), NULL);

    if (vs_qmp_client_do(client, "block-set-write-threshold", arguments, cancellable, error))
        return true;
    g_prefix_error(error, "setting the write threshold of node '%s': ", node);
    return false;
}

bool
vs_qmp_bitmap_remove(VsQmpClient *client, const char *node, const char *name,
                     GCancellable *cancellable, GError **error)
{
    struct json_object *arguments =
        vs_qmp_args("node", vs_qmp_str(node), "name", vs_qmp_str(name), NULL);

    if (vs_qmp_client_do(client, "block-dirty-bitmap-remove", arguments, cancellable, error))
        return true;
    g_prefix_error(error, "removing bitmap '%s' of node '%s': ", name, node);
    return false;
}

void
vs_qmp_fdset_free(VsQmpFdset *set)
{
    if (set == NULL)
        return;
    g_ptr_array_unref(set->labels);
    g_free(set);
}

bool
vs_qmp_fdset_add(VsQmpClient *client, int fd, const char *label, int64_t *id,
                 GCancellable *cancellable, GError **error)
{
    const VsQmpCommand command = {.name = "add-fd",
                                  .arguments = vs_qmp_args("opaque", vs_qmp_str(label), NULL),
                                  .fds = &fd,
                                  .fd_count = 1};
    VsQmpReader reader = {.command = command.name};
    struct json_object *reply = vs_qmp_client_run(client, &command, cancellable, error);

    if (reply == NULL) {
        g_prefix_error(error, "passing file descriptor '%s' to QEMU: ", label);
        return false;
    }
    *id = (int64_t)vs_qmp_reader_uint(&reader, reply, "fdset-id");
    json_object_put(reply);
    return vs_qmp_reader_finish(&reader, error);
}

bool
vs_qmp_fdset_remove(VsQmpClient *client, int64_t id, GCancellable *cancellable, GError **error)
{
    struct json_object *arguments = vs_qmp_args("fdset-id", vs_qmp_int(id), NULL);

    if (vs_qmp_client_do(client, "remove-fd", arguments, cancellable, error))
        return true;
    g_prefix_error(error, "removing file descriptor set %" G_GINT64_FORMAT ": ", id);
    return false;
}

static VsQmpFdset *
parse_fdset(VsQmpReader *reader, struct json_object *object)
{
    VsQmpFdset *set = g_new0(VsQmpFdset, 1);

    set->labels = g_ptr_array_new_with_free_func(g_free);
    set->id = (int64_t)vs_qmp_reader_uint(reader, object, "fdset-id");
    struct json_object *fds = vs_qmp_reader_array(reader, object, "fds");
    for (size_t i = 0; i < vs_qmp_reader_array_length(reader, fds); i++) {
        struct json_object *fd = vs_qmp_reader_element(reader, fds, i);
        char *label = vs_qmp_reader_optional_string(reader, fd, "opaque");
        if (label != NULL)
            g_ptr_array_add(set->labels, label);
    }
    return set;
}

GPtrArray *
vs_qmp_query_fdsets(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    VsQmpReader reader = {.command = "query-fdsets"};
    struct json_object *reply =
        vs_qmp_client_call(client, reader.command, NULL, cancellable, error);
    if (reply == NULL)
        return NULL;

    g_autoptr(GPtrArray) sets = g_ptr_array_new_with_free_func((GDestroyNotify)vs_qmp_fdset_free);
    for (size_t i = 0; i < vs_qmp_reader_array_length(&reader, reply); i++)
        g_ptr_array_add(sets, parse_fdset(&reader, vs_qmp_reader_element(&reader, reply, i)));
    json_object_put(reply);
    return vs_qmp_reader_finish(&reader, error) ? g_steal_pointer(&sets) : NULL;
}
