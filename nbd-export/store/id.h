// SPDX-License-Identifier: LGPL-2.1-or-later
// Ids: a prefix and VS_ID_RANDOM_CHARS of [a-z0-9]: "s-" snapshots, "ssg-" groups, "r-"
// repositories, "d-" disks, "i-" instances.
//
// About 103 bits: no two are ever drawn alike. An id that is valid is a safe object name. Any
// thread.
#pragma once

#include <glib.h>
#include <stdbool.h>

G_BEGIN_DECLS

#define VS_ID_RANDOM_CHARS 20

// Draws one from the kernel's random numbers.
char *vs_id_new(const char *prefix);
// False for NULL, another prefix, another length or other characters.
bool vs_id_is_valid(const char *id, const char *prefix);
// The same for the same prefix and key: the low VS_ID_RANDOM_CHARS digits, least significant first,
// of SHA-256(prefix ‖ key) read as a big-endian number in base 36 with the digits 0…9a…z.
char *vs_id_from_key(const char *prefix, const char *key);

G_END_DECLS
