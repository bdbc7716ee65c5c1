// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/output.h"

#include "plugin/error.h"

#include <string.h>
#include <unistd.h>

struct json_object *
vs_output_string(const char *text)
{
    if (text == NULL)
        return NULL;
    if (g_utf8_validate(text, -1, NULL))
        return json_object_new_string(text);
    g_autofree char *escaped = vs_error_escape(text, strlen(text));
    return json_object_new_string(escaped);
}

char *
vs_format_time(int64_t time_us)
{
    g_autoptr(GDateTime) time = NULL;
    if (time_us != 0)
        time = g_date_time_new_from_unix_utc(time_us / G_USEC_PER_SEC);
    return time != NULL ? g_date_time_format(time, "%Y-%m-%dT%H:%M:%SZ") : g_strdup("-");
}

struct json_object *
vs_output_time(int64_t time_us)
{
    g_autofree char *text = vs_format_time(time_us);
    return strcmp(text, "-") == 0 ? NULL : json_object_new_string(text);
}

char *
vs_format_size(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    // 1023.96 would be rounded to "1024.0".
    while (value >= 1023.95 && unit + 1 < G_N_ELEMENTS(units)) {
        value /= 1024;
        unit++;
    }
    return g_strdup_printf(unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

char *
vs_format_seconds(int64_t seconds)
{
    if (seconds < 0)
        return g_strdup("-");
    int64_t minutes = seconds / 60;
    if (minutes < 60)
        return g_strdup_printf("%d:%02d", (int)minutes, (int)(seconds % 60));
    return g_strdup_printf("%" G_GINT64_FORMAT ":%02d:%02d", minutes / 60, (int)(minutes % 60),
                           (int)(seconds % 60));
}

static void
add_text(struct json_object *object, const char *key, const char *text)
{
    json_object_object_add(object, key, vs_output_string(text));
}

static void
add_number(struct json_object *object, const char *key, uint64_t number)
{
    json_object_object_add(object, key, json_object_new_uint64(number));
}

static GList *
sorted_keys(GHashTable *tags)
{
    return g_list_sort(g_hash_table_get_keys(tags), (GCompareFunc)strcmp);
}

static struct json_object *
tags_object(GHashTable *tags)
{
    struct json_object *object = json_object_new_object();
    g_autoptr(GList) keys = sorted_keys(tags);
    for (GList *key = keys; key != NULL; key = key->next)
        add_text(object, key->data, g_hash_table_lookup(tags, key->data));
    return object;
}

static struct json_object *
instance_object(const VsManifest *manifest)
{
    if (manifest->instance_id == NULL)
        return NULL;
    struct json_object *object = json_object_new_object();
    add_text(object, "id", manifest->instance_id);
    add_text(object, "name", manifest->instance_name);
    return object;
}

static struct json_object *
disk_object(const VsManifest *manifest)
{
    struct json_object *object = json_object_new_object();
    add_text(object, "id", manifest->disk_id);
    add_text(object, "target", manifest->disk_target);
    add_text(object, "source", manifest->disk_source);
    return object;
}

// Rounded up, so that 0 is never said of a guest that was frozen.
static struct json_object *
frozen_milliseconds(const VsManifest *manifest)
{
    int64_t frozen_us = manifest->frozen_us;
    return frozen_us <= 0 ? NULL
                          : json_object_new_int64(frozen_us / 1000 + (frozen_us % 1000 != 0));
}

struct json_object *
vs_output_snapshot(const VsSnapshot *snapshot)
{
    const VsManifest *manifest = snapshot->manifest;
    struct json_object *object = json_object_new_object();
    add_text(object, "id", manifest->id);
    add_text(object, "group", manifest->group);
    add_text(object, "name", manifest->name);
    add_text(object, "description", manifest->description);
    add_text(object, "status", vs_status_name(snapshot->status));
    add_number(object, "progress", snapshot->progress_percent);
    json_object_object_add(object, "remaining_seconds",
                           snapshot->remaining_seconds < 0
                               ? NULL
                               : json_object_new_int64(snapshot->remaining_seconds));
    json_object_object_add(object, "created_at", vs_output_time(manifest->created_at_us));
    json_object_object_add(object, "expires_at", vs_output_time(manifest->expires_at_us));
    json_object_object_add(object, "instance", instance_object(manifest));
    json_object_object_add(object, "disk", disk_object(manifest));
    add_text(object, "kind", manifest->kind);
    add_text(object, "mode", manifest->mode);
    add_text(object, "mode_reason", manifest->mode_reason);
    add_text(object, "parent", manifest->parent);
    add_number(object, "virtual_size", manifest->virtual_size_bytes);
    add_number(object, "read_bytes", manifest->read_bytes);
    add_number(object, "new_bytes", manifest->new_bytes);
    json_object_object_add(object, "tags", tags_object(snapshot->tags));
    add_text(object, "consistency", manifest->consistency);
    json_object_object_add(object, "frozen_ms", frozen_milliseconds(manifest));
    add_text(object, "error", snapshot->error);
    return object;
}

struct json_object *
vs_output_snapshots(const GPtrArray *snapshots)
{
    struct json_object *array = json_object_new_array();
    for (guint i = 0; i < snapshots->len; i++)
        json_object_array_add(array, vs_output_snapshot(g_ptr_array_index(snapshots, i)));
    return array;
}

struct json_object *
vs_output_error(const GError *error)
{
    struct json_object *object = json_object_new_object();
    add_text(object, "code", vs_error_api_code(error));
    add_text(object, "message", error->message);
    return object;
}

void
vs_output_snapshot_table(const GPtrArray *snapshots, GString *text)
{
    static const char *const titles[] = {"ID",   "GROUP", "CREATED", "STATUS", "DISK",
                                         "MODE", "SIZE",  "NEW",     "NAME",   NULL};
    g_autoptr(VsTable) table = vs_table_new(titles, !isatty(STDOUT_FILENO));
    for (guint i = 0; i < snapshots->len; i++) {
        const VsSnapshot *snapshot = g_ptr_array_index(snapshots, i);
        const VsManifest *manifest = snapshot->manifest;
        g_autofree char *created = vs_format_time(manifest->created_at_us);
        g_autofree char *size = vs_format_size(manifest->virtual_size_bytes);
        g_autofree char *added = vs_format_size(manifest->new_bytes);
        g_autofree char *status =
            snapshot->status == VS_STATUS_PROGRESSING
                ? g_strdup_printf("progressing %u%%", snapshot->progress_percent)
                : g_strdup(vs_status_name(snapshot->status));
        const char *const cells[] = {manifest->id,          manifest->group, created, status,
                                     manifest->disk_target, manifest->mode,  size,    added,
                                     manifest->name};
        vs_table_add(table, cells);
    }
    vs_table_print(table, text);
}

static void
add_line(GString *text, const char *key, const char *value)
{
    if (value == NULL || *value == '\0')
        return;
    g_autofree char *escaped = vs_error_escape(value, strlen(value));
    g_string_append_printf(text, "%-12s %s\n", key, escaped);
}

static void
add_size_line(GString *text, const char *key, uint64_t bytes)
{
    g_autofree char *size = vs_format_size(bytes);
    g_autofree char *exact = g_strdup_printf("%s (%" G_GUINT64_FORMAT " bytes)", size, bytes);
    add_line(text, key, exact);
}

static void
add_tag_lines(GString *text, GHashTable *tags)
{
    g_autoptr(GList) keys = sorted_keys(tags);
    for (GList *key = keys; key != NULL; key = key->next) {
        g_autofree char *pair = g_strdup_printf("%s=%s", (const char *)key->data,
                                                (char *)g_hash_table_lookup(tags, key->data));
        add_line(text, "tag:", pair);
    }
}

void
vs_output_snapshot_lines(const VsSnapshot *snapshot, GString *text)
{
    const VsManifest *manifest = snapshot->manifest;
    g_autofree char *created = vs_format_time(manifest->created_at_us);
    g_autofree char *expires = vs_format_time(manifest->expires_at_us);
    g_autofree char *remaining = vs_format_seconds(snapshot->remaining_seconds);
    g_autofree char *progress = g_strdup_printf("%u%%", snapshot->progress_percent);
    bool progressing = snapshot->status == VS_STATUS_PROGRESSING;
    add_line(text, "id:", manifest->id);
    add_line(text, "group:", manifest->group);
    add_line(text, "name:", manifest->name);
    add_line(text, "description:", manifest->description);
    add_line(text, "status:", vs_status_name(snapshot->status));
    add_line(text, "progress:", progressing ? progress : NULL);
    add_line(text, "remaining:", progressing ? remaining : NULL);
    add_line(text, "error:", snapshot->error);
    add_line(text, "created:", created);
    add_line(text, "expires:", manifest->expires_at_us != 0 ? expires : "never");
    add_line(text, "instance:", manifest->instance_name);
    add_line(text, "disk:", manifest->disk_id);
    add_line(text, "target:", manifest->disk_target);
    add_line(text, "source:", manifest->disk_source);
    add_line(text, "kind:", manifest->kind);
    add_line(text, "mode:", manifest->mode);
    add_line(text, "reason:", manifest->mode_reason);
    add_line(text, "parent:", manifest->parent);
    add_line(text, "consistency:", manifest->consistency);
    add_size_line(text, "size:", manifest->virtual_size_bytes);
    add_size_line(text, "read:", manifest->read_bytes);
    add_size_line(text, "new:", manifest->new_bytes);
    add_tag_lines(text, snapshot->tags);
}

void
vs_output_found(const GPtrArray *snapshots, bool is_group, struct json_object **document,
                GString *text)
{
    *document = is_group ? vs_output_snapshots(snapshots)
                         : vs_output_snapshot(g_ptr_array_index(snapshots, 0));
    for (guint i = 0; i < snapshots->len; i++) {
        if (i > 0)
            g_string_append_c(text, '\n');
        vs_output_snapshot_lines(g_ptr_array_index(snapshots, i), text);
    }
}
