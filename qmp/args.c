// SPDX-License-Identifier: LGPL-2.1-or-later
#include "qmp/args.h"

#include <stdarg.h>

struct json_object *
vs_qmp_args(const char *first_key, ...)
{
    struct json_object *arguments = json_object_new_object();
    va_list pairs;

    va_start(pairs, first_key);
    for (const char *key = first_key; key != NULL; key = va_arg(pairs, const char *)) {
        struct json_object *value = va_arg(pairs, struct json_object *);
        if (value != NULL)
            json_object_object_add(arguments, key, value);
    }
    va_end(pairs);
    return arguments;
}
