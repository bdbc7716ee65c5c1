// SPDX-License-Identifier: LGPL-2.1-or-later
// What this QEMU can do, from query-qmp-schema. The reply is big: ask only where a caller branches
// on it.
#pragma once

#include "qmp/client.h"

G_BEGIN_DECLS

typedef struct _VsQmpSchema VsQmpSchema;

VsQmpSchema *vs_qmp_schema_query(VsQmpClient *client, GCancellable *cancellable,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Takes the reply of query-qmp-schema (borrowed).
VsQmpSchema *vs_qmp_schema_parse(struct json_object *reply,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
void vs_qmp_schema_free(VsQmpSchema *schema);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsQmpSchema, vs_qmp_schema_free)

bool vs_qmp_schema_has_command(const VsQmpSchema *schema, const char *command);

// Whether the command's arguments have the member at path, dots between levels, a variant's members
// reached by its tag's value in brackets: "blockdev-add", "[copy-before-write].on-cbw-error".
bool vs_qmp_schema_has_argument(const VsQmpSchema *schema, const char *command, const char *path);

G_END_DECLS
