// SPDX-License-Identifier: LGPL-2.1-or-later
// The first message of a QMP monitor. Pure; internal to qmp/.
#pragma once

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

G_BEGIN_DECLS

// Reads QEMU's version, major * 1000000 + minor * 1000 + micro. VS_QMP_ERROR_PROTOCOL where message
// is no greeting with a version.
bool vs_qmp_greeting_parse(struct json_object *message, unsigned *qemu_version,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
