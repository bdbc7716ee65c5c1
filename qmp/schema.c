// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/schema.h"

#include <string.h>

#include "qmp/reply.h"

struct _VsQmpSchema {
    struct json_object *reply;
    GHashTable *entities; // name -> SchemaInfo, both borrowed from reply
};

VsQmpSchema *
vs_qmp_schema_parse(struct json_object *reply, GError **error)
{
    VsQmpReader reader = {.command = "query-qmp-schema"};
    g_autoptr(VsQmpSchema) schema = g_new0(VsQmpSchema, 1);

    schema->reply = json_object_get(reply);
    schema->entities = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (size_t i = 0; i < vs_qmp_reader_array_length(&reader, reply); i++) {
        struct json_object *entity = vs_qmp_reader_element(&reader, reply, i);
        char *name = vs_qmp_reader_string(&reader, entity, "name");
        if (name != NULL)
            g_hash_table_insert(schema->entities, name, entity);
    }
    return vs_qmp_reader_finish(&reader, error) ? g_steal_pointer(&schema) : NULL;
}

VsQmpSchema *
vs_qmp_schema_query(VsQmpClient *client, GCancellable *cancellable, GError **error)
{
    struct json_object *reply =
        vs_qmp_client_call(client, "query-qmp-schema", NULL, cancellable, error);
    VsQmpSchema *schema = reply != NULL ? vs_qmp_schema_parse(reply, error) : NULL;

    json_object_put(reply);
    return schema;
}

void
vs_qmp_schema_free(VsQmpSchema *schema)
{
    if (schema == NULL)
        return;
    g_hash_table_unref(schema->entities);
    json_object_put(schema->reply);
    g_free(schema);
}

// A string member of a schema object, NULL where it has none.
static const char *
text(struct json_object *object, const char *key)
{
    struct json_object *value = NULL;

    return json_object_object_get_ex(object, key, &value) &&
                   json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : NULL;
}

static struct json_object *
find_entity(const VsQmpSchema *schema, const char *name)
{
    return name != NULL ? g_hash_table_lookup(schema->entities, name) : NULL;
}

static struct json_object *
find_command(const VsQmpSchema *schema, const char *command)
{
    struct json_object *entity = find_entity(schema, command);

    return g_strcmp0(text(entity, "meta-type"), "command") == 0 ? entity : NULL;
}

bool
vs_qmp_schema_has_command(const VsQmpSchema *schema, const char *command)
{
    return find_command(schema, command) != NULL;
}

// The type named by the element of entity's list whose member key is value.
static struct json_object *
find_in_list(const VsQmpSchema *schema, struct json_object *entity, const char *list,
             const char *key, const char *value)
{
    struct json_object *array = NULL;

    if (!json_object_object_get_ex(entity, list, &array) ||
        !json_object_is_type(array, json_type_array))
        return NULL;
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        struct json_object *element = json_object_array_get_idx(array, i);
        if (g_strcmp0(text(element, key), value) == 0)
            return find_entity(schema, text(element, "type"));
    }
    return NULL;
}

// The object type behind an alternate's object branch or an array's elements; others are returned
// as they are. depth bounds a schema that refers to itself.
static struct json_object *
object_behind(const VsQmpSchema *schema, struct json_object *entity, unsigned depth)
{
    const char *meta_type = text(entity, "meta-type");
    struct json_object *members = NULL;

    if (depth == 0)
        return NULL;
    if (g_strcmp0(meta_type, "array") == 0)
        return object_behind(schema, find_entity(schema, text(entity, "element-type")), depth - 1);
    if (g_strcmp0(meta_type, "alternate") != 0)
        return entity;
    if (!json_object_object_get_ex(entity, "members", &members) ||
        !json_object_is_type(members, json_type_array))
        return NULL;
    for (size_t i = 0; i < json_object_array_length(members); i++) {
        struct json_object *type =
            find_entity(schema, text(json_object_array_get_idx(members, i), "type"));
        struct json_object *object = object_behind(schema, type, depth - 1);
        if (g_strcmp0(text(object, "meta-type"), "object") == 0)
            return object;
    }
    return NULL;
}

bool
vs_qmp_schema_has_argument(const VsQmpSchema *schema, const char *command, const char *path)
{
    struct json_object *type = find_entity(schema, text(find_command(schema, command), "arg-type"));
    g_auto(GStrv) steps = g_strsplit(path, ".", -1);

    for (char **step = steps; *step != NULL && type != NULL; step++) {
        size_t length = strlen(*step);
        type = object_behind(schema, type, 8);
        if (length >= 2 && (*step)[0] == '[' && (*step)[length - 1] == ']') {
            g_autofree char *tag_value = g_strndup(*step + 1, length - 2);
            type = find_in_list(schema, type, "variants", "case", tag_value);
        } else {
            type = find_in_list(schema, type, "members", "name", *step);
        }
    }
    return type != NULL && steps[0] != NULL;
}
