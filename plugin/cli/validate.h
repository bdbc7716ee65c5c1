// SPDX-License-Identifier: LGPL-2.1-or-later
// Checking what users type, before anything is touched. Pure but for the last: every function takes
// text and gives a value, or an error of plugin/error.h with exit status 2. Limits are the cloud
// API's (CreateSnapshot).
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "plugin/catalogue/snapshot.h"
#include "plugin/snapshot/engine.h"

G_BEGIN_DECLS

#define VS_NAME_MAX_CHARACTERS 128
#define VS_DESCRIPTION_MAX_CHARACTERS 256
#define VS_TAG_MAX_CHARACTERS 128 // of a key, and of a value
#define VS_TAGS_MAX 20            // of a snapshot
#define VS_RETENTION_MAX_DAYS 65536

#define VS_DAY_US (INT64_C(24) * 3600 * G_USEC_PER_SEC)

// 1 to 128 characters of UTF-8, no control characters, not beginning with http:// or https://.
bool vs_validate_name(const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The same rules, 0 to 256 characters.
bool vs_validate_description(const char *description, GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_validate_tag_key(const char *key, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// "K=V" into its parts, which the caller frees. V may be empty and have more '='.
bool vs_parse_tag(const char *text, char **key, char **value,
                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Any number of "K=V" (NULL: none) into a new table char * → char *.
GHashTable *vs_parse_tags(char *const *texts, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// "forever" (0) or "Nd", in microseconds.
bool vs_parse_retention(const char *text, int64_t *retain_us,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Bytes > 0: decimal digits, and K, M, G or T for powers of 1024. option names it in the message.
bool vs_parse_size(const char *option, const char *text, uint64_t *bytes,
                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_parse_chunk_size(const char *text, uint32_t *bytes,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Decimal, > 0 and <= 100.
bool vs_parse_percent(const char *text, double *percent, GError **error) G_GNUC_WARN_UNUSED_RESULT;

bool vs_parse_capture(const char *text, VsCapture *capture,
                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_parse_status(const char *text, VsStatus *status, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// "raw" or "qcow2".
bool vs_validate_format(const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// INSTANCE in one of its forms: a domain, qmp:SOCKET, file:PATH. Not quite pure: for the hint in
// the error it looks whether the text is a socket's path.
bool vs_validate_instance(const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
