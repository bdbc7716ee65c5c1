// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/reply.h"

#include <string.h>

#include "qmp/client.h"

static void
fail(VsQmpReader *reader, const char *what, const char *cause)
{
    if (reader->error == NULL)
        reader->error =
            g_error_new(VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                        "QMP command '%s': in its reply, %s %s", reader->command, what, cause);
}

bool
vs_qmp_reader_finish(VsQmpReader *reader, GError **error)
{
    if (reader->error == NULL)
        return true;
    g_propagate_error(error, g_steal_pointer(&reader->error));
    return false;
}

size_t
vs_qmp_reader_array_length(VsQmpReader *reader, struct json_object *array)
{
    if (reader->error != NULL)
        return 0;
    if (!json_object_is_type(array, json_type_array)) {
        fail(reader, "the whole", "is not an array");
        return 0;
    }
    return json_object_array_length(array);
}

struct json_object *
vs_qmp_reader_element(VsQmpReader *reader, struct json_object *array, size_t index)
{
    if (reader->error != NULL)
        return NULL;

    struct json_object *element = json_object_array_get_idx(array, index);
    if (json_object_is_type(element, json_type_object))
        return element;
    fail(reader, "an array's element", "is not an object");
    return NULL;
}

bool
vs_qmp_reader_has(VsQmpReader *reader, struct json_object *object, const char *key)
{
    return reader->error == NULL && json_object_object_get_ex(object, key, NULL);
}

static struct json_object *
read_member(VsQmpReader *reader, struct json_object *object, const char *key, enum json_type type)
{
    struct json_object *value = NULL;

    if (reader->error != NULL)
        return NULL;
    if (!json_object_object_get_ex(object, key, &value)) {
        fail(reader, key, "is missing");
        return NULL;
    }
    if (!json_object_is_type(value, type)) {
        fail(reader, key, "has the wrong type");
        return NULL;
    }
    return value;
}

struct json_object *
vs_qmp_reader_object(VsQmpReader *reader, struct json_object *object, const char *key)
{
    return read_member(reader, object, key, json_type_object);
}

struct json_object *
vs_qmp_reader_array(VsQmpReader *reader, struct json_object *object, const char *key)
{
    return read_member(reader, object, key, json_type_array);
}

char *
vs_qmp_reader_string(VsQmpReader *reader, struct json_object *object, const char *key)
{
    struct json_object *value = read_member(reader, object, key, json_type_string);

    if (value == NULL)
        return NULL;
    // JSON can carry a NUL, C and QEMU can't.
    const char *text = json_object_get_string(value);
    if (strlen(text) == (size_t)json_object_get_string_len(value))
        return g_strdup(text);
    fail(reader, key, "holds a NUL character");
    return NULL;
}

char *
vs_qmp_reader_optional_string(VsQmpReader *reader, struct json_object *object, const char *key)
{
    return vs_qmp_reader_has(reader, object, key) ? vs_qmp_reader_string(reader, object, key)
                                                  : NULL;
}

uint64_t
vs_qmp_reader_uint(VsQmpReader *reader, struct json_object *object, const char *key)
{
    struct json_object *value = read_member(reader, object, key, json_type_int);

    if (value == NULL)
        return 0;
    // The unsigned reading gives 0 for a negative number, the signed one stays below 0.
    if (json_object_get_int64(value) >= 0)
        return json_object_get_uint64(value);
    fail(reader, key, "is negative");
    return 0;
}

bool
vs_qmp_reader_bool(VsQmpReader *reader, struct json_object *object, const char *key)
{
    struct json_object *value = read_member(reader, object, key, json_type_boolean);

    return value != NULL && json_object_get_boolean(value);
}
