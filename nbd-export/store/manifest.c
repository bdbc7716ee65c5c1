// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/manifest.h"

#include <json-c/json.h>
#include <string.h>

#include "nbd-export/store/sealed-json.h"

typedef struct {
    const char *name;
    size_t offset;        // of a char * in VsManifest
    const char *prefix;   // an id with it, where not NULL
    const char *words[2]; // one of them, where not NULL
    bool needed;
} TextField;

#define TEXT(field, ...)                                                                           \
    {                                                                                              \
        .name = #field, .offset = G_STRUCT_OFFSET(VsManifest, field), __VA_ARGS__                  \
    }

static const TextField head_fields[] = {
    TEXT(id, .prefix = "s-", .needed = true),
    TEXT(group, .prefix = "ssg-"),
    TEXT(name),
    TEXT(description),
    TEXT(kind, .words = {"manual", "auto"}, .needed = true),
    TEXT(mode, .words = {"full", "incremental"}, .needed = true),
    TEXT(mode_reason),
    TEXT(parent, .prefix = "s-"),
    TEXT(consistency, .words = {"crash", "filesystem"}, .needed = true),
};

static const TextField tail_fields[] = {
    TEXT(instance_id, .prefix = "i-"),
    TEXT(instance_name),
    TEXT(instance_kind),
    TEXT(instance_definition),
    TEXT(disk_id, .prefix = "d-", .needed = true),
    TEXT(disk_target),
    TEXT(disk_source),
    TEXT(disk_format),
    TEXT(disk_chain),
    TEXT(bitmap),
};

typedef struct {
    const char *name;
    size_t offset; // of 64 bits in VsManifest
    uint64_t minimum;
} NumberField;

#define NUMBER(field, least)                                                                       \
    {                                                                                              \
        .name = #field, .offset = G_STRUCT_OFFSET(VsManifest, field), .minimum = (least)           \
    }

static const NumberField number_fields[] = {
    NUMBER(created_at_us, 0),      NUMBER(expires_at_us, 0), NUMBER(generation, 1),
    NUMBER(virtual_size_bytes, 0), NUMBER(read_bytes, 0),    NUMBER(new_bytes, 0),
};

GQuark
vs_manifest_error_quark(void)
{
    return g_quark_from_static_string("vs-manifest-error-quark");
}

static char **
text_of(const VsManifest *manifest, const TextField *field)
{
    return &G_STRUCT_MEMBER(char *, manifest, field->offset);
}

VsManifest *
vs_manifest_new(void)
{
    return g_new0(VsManifest, 1);
}

static void
copy_texts(VsManifest *copy, const VsManifest *manifest, const TextField *fields, size_t count)
{
    for (size_t i = 0; i < count; i++)
        *text_of(copy, &fields[i]) = g_strdup(*text_of(manifest, &fields[i]));
}

VsManifest *
vs_manifest_copy(const VsManifest *manifest)
{
    VsManifest *copy = vs_manifest_new();

    *copy = *manifest;
    copy_texts(copy, manifest, head_fields, G_N_ELEMENTS(head_fields));
    copy_texts(copy, manifest, tail_fields, G_N_ELEMENTS(tail_fields));
    return copy;
}

static void
free_texts(VsManifest *manifest, const TextField *fields, size_t count)
{
    for (size_t i = 0; i < count; i++)
        g_free(*text_of(manifest, &fields[i]));
}

void
vs_manifest_free(VsManifest *manifest)
{
    if (manifest == NULL)
        return;
    free_texts(manifest, head_fields, G_N_ELEMENTS(head_fields));
    free_texts(manifest, tail_fields, G_N_ELEMENTS(tail_fields));
    g_free(manifest);
}

static json_object *
text_to_json(const char *text)
{
    g_autofree char *escaped = text != NULL ? vs_sealed_json_escape(text) : NULL;

    return escaped != NULL ? json_object_new_string(escaped) : NULL;
}

static void
encode_texts(json_object *object, const VsManifest *manifest, const TextField *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *text = *text_of(manifest, &fields[i]);
        json_object_object_add(object, fields[i].name, text_to_json(text));
    }
}

GBytes *
vs_manifest_encode(const VsManifest *manifest)
{
    json_object *object = json_object_new_object();
    char root[VS_DIGEST_HEX_BYTES];

    json_object_object_add(object, "format", json_object_new_int(VS_MANIFEST_FORMAT));
    encode_texts(object, manifest, head_fields, G_N_ELEMENTS(head_fields));
    for (size_t i = 0; i < G_N_ELEMENTS(number_fields); i++) {
        uint64_t number = G_STRUCT_MEMBER(uint64_t, manifest, number_fields[i].offset);
        json_object_object_add(object, number_fields[i].name, json_object_new_uint64(number));
    }
    vs_digest_to_hex(&manifest->root, root);
    json_object_object_add(object, "root", json_object_new_string(root));
    encode_texts(object, manifest, tail_fields, G_N_ELEMENTS(tail_fields));

    GBytes *bytes = vs_sealed_json_encode(object);
    json_object_put(object);
    return bytes;
}

static bool
text_is_allowed(const TextField *field, const char *text)
{
    if (text == NULL)
        return !field->needed;
    if (field->prefix != NULL)
        return vs_id_is_valid(text, field->prefix);
    if (field->words[0] != NULL)
        return strcmp(text, field->words[0]) == 0 || strcmp(text, field->words[1]) == 0;
    return true;
}

// The functions from here on return the name of a member that is wrong, NULL for none.
static const char *
decode_texts(json_object *object, VsManifest *manifest, const TextField *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *text;
        if (!vs_sealed_json_get_text(object, fields[i].name, &text) ||
            !text_is_allowed(&fields[i], text))
            return fields[i].name;
        *text_of(manifest, &fields[i]) = g_strdup(text);
    }
    return NULL;
}

static const char *
decode_values(json_object *object, VsManifest *manifest)
{
    const char *root;

    for (size_t i = 0; i < G_N_ELEMENTS(number_fields); i++) {
        uint64_t *number = &G_STRUCT_MEMBER(uint64_t, manifest, number_fields[i].offset);
        if (!vs_sealed_json_get_uint(object, number_fields[i].name, number) ||
            *number < number_fields[i].minimum)
            return number_fields[i].name;
    }
    if (!vs_sealed_json_get_text(object, "root", &root) || root == NULL ||
        !vs_digest_from_hex(root, &manifest->root))
        return "root";
    return NULL;
}

static const char *
decode_members(json_object *object, VsManifest *manifest)
{
    const char *wrong = decode_texts(object, manifest, head_fields, G_N_ELEMENTS(head_fields));

    if (wrong == NULL)
        wrong = decode_values(object, manifest);
    if (wrong == NULL)
        wrong = decode_texts(object, manifest, tail_fields, G_N_ELEMENTS(tail_fields));
    return wrong;
}

static VsManifest *
decode_object(json_object *object, GError **error)
{
    g_autoptr(VsManifest) manifest = vs_manifest_new();
    uint64_t format;

    if (!vs_sealed_json_get_uint(object, "format", &format) || format == 0) {
        g_set_error_literal(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                            "cannot decode a manifest: it has no format");
        return NULL;
    }
    if (format > VS_MANIFEST_FORMAT) {
        g_set_error(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_UNSUPPORTED,
                    "cannot decode a manifest: its format %" G_GUINT64_FORMAT
                    " is newer than this program's %d",
                    format, VS_MANIFEST_FORMAT);
        return NULL;
    }
    const char *wrong = decode_members(object, manifest);
    if (wrong != NULL) {
        g_set_error(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                    "cannot decode a manifest: its \"%s\" is missing or wrong", wrong);
        return NULL;
    }
    return g_steal_pointer(&manifest);
}

VsManifest *
vs_manifest_decode(GBytes *bytes, GError **error)
{
    const char *cause = NULL;
    json_object *object = vs_sealed_json_decode(bytes, &cause);

    if (object == NULL) {
        g_set_error(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT,
                    "cannot decode a manifest: %s", cause);
        return NULL;
    }
    VsManifest *manifest = decode_object(object, error);
    json_object_put(object);
    return manifest;
}

GBytes *
vs_manifest_relabel(GBytes *bytes, const VsManifest *labels, GError **error)
{
    g_autoptr(VsManifest) manifest = vs_manifest_decode(bytes, error);
    const char *cause = NULL;

    if (manifest == NULL)
        return NULL;
    json_object *object = vs_sealed_json_decode(bytes, &cause);
    json_object_object_add(object, "name", text_to_json(labels->name));
    json_object_object_add(object, "description", text_to_json(labels->description));
    json_object_object_add(object, "expires_at_us", json_object_new_int64(labels->expires_at_us));
    GBytes *relabelled = vs_sealed_json_encode(object);
    json_object_put(object);

    g_autoptr(VsManifest) readable = vs_manifest_decode(relabelled, error);
    if (readable == NULL)
        g_clear_pointer(&relabelled, g_bytes_unref);
    return relabelled;
}
