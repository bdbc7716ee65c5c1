// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/greeting.h"

#include <stdint.h>

#include "qmp/client.h"

static struct json_object *
member(struct json_object *object, const char *key, enum json_type type)
{
    struct json_object *value = NULL;

    return json_object_object_get_ex(object, key, &value) && json_object_is_type(value, type)
               ? value
               : NULL;
}

bool
vs_qmp_greeting_parse(struct json_object *message, unsigned *qemu_version, GError **error)
{
    static const char *const parts[] = {"major", "minor", "micro"};
    struct json_object *qmp = member(message, "QMP", json_type_object);
    struct json_object *version = member(qmp, "version", json_type_object);
    struct json_object *qemu = member(version, "qemu", json_type_object);

    *qemu_version = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        struct json_object *part = member(qemu, parts[i], json_type_int);
        int64_t number = part != NULL ? json_object_get_int64(part) : -1;
        if (number < 0 || number > 999) {
            g_set_error_literal(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL,
                                "the peer does not speak QMP: its first message is not a greeting "
                                "with a version");
            return false;
        }
        *qemu_version = *qemu_version * 1000 + (unsigned)number;
    }
    return true;
}
