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
    TEXT(disk_chain_identity),
    TEXT(bitmap),
};

typedef struct {
    const char *name;
    size_t offset; // of 64 bits in VsManifest
    uint64_t minimum;
    bool may_lack; // came later: 0 in manifests without it
} NumberField;

#define NUMBER(field, ...)                                                                         \
    {                                                                                              \
        .name = #field, .offset = G_STRUCT_OFFSET(VsManifest, field), __VA_ARGS__                  \
    }

static const NumberField number_fields[] = {
    NUMBER(created_at_us),
    NUMBER(expires_at_us),
    NUMBER(generation, .minimum = 1),
    NUMBER(virtual_size_bytes),
    NUMBER(read_bytes),
    NUMBER(new_bytes),
    NUMBER(frozen_us, .may_lack = true),
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

VsManifestFile *
vs_manifest_file_copy(const VsManifestFile *file)
{
    VsManifestFile *copy = g_new(VsManifestFile, 1);

    *copy = *file;
    copy->role = g_strdup(file->role);
    copy->path = g_strdup(file->path);
    return copy;
}

void
vs_manifest_file_free(VsManifestFile *file)
{
    if (file == NULL)
        return;
    g_free(file->role);
    g_free(file->path);
    g_free(file);
}

static GPtrArray *
files_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)vs_manifest_file_free);
}

VsManifest *
vs_manifest_new(void)
{
    VsManifest *manifest = g_new0(VsManifest, 1);

    manifest->files = files_new();
    return manifest;
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
    VsManifest *copy = g_new(VsManifest, 1);

    *copy = *manifest;
    copy_texts(copy, manifest, head_fields, G_N_ELEMENTS(head_fields));
    copy_texts(copy, manifest, tail_fields, G_N_ELEMENTS(tail_fields));
    copy->files = files_new();
    for (unsigned i = 0; i < manifest->files->len; i++)
        g_ptr_array_add(copy->files, vs_manifest_file_copy(manifest->files->pdata[i]));
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
    g_ptr_array_unref(manifest->files);
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

static json_object *
digest_to_json(const VsDigest *digest)
{
    char hex[VS_DIGEST_HEX_BYTES];

    vs_digest_to_hex(digest, hex);
    return json_object_new_string(hex);
}

static json_object *
file_to_json(const VsManifestFile *file)
{
    json_object *object = json_object_new_object();

    json_object_object_add(object, "role", text_to_json(file->role));
    json_object_object_add(object, "path", text_to_json(file->path));
    json_object_object_add(object, "size_bytes", json_object_new_uint64(file->size_bytes));
    json_object_object_add(object, "mode", json_object_new_uint64(file->mode));
    json_object_object_add(object, "root", digest_to_json(&file->root));
    return object;
}

static json_object *
files_to_json(const GPtrArray *files)
{
    json_object *array = json_object_new_array();

    for (unsigned i = 0; i < files->len; i++)
        json_object_array_add(array, file_to_json(files->pdata[i]));
    return array;
}

GBytes *
vs_manifest_encode(const VsManifest *manifest)
{
    json_object *object = json_object_new_object();

    json_object_object_add(object, "format", json_object_new_int(VS_MANIFEST_FORMAT));
    encode_texts(object, manifest, head_fields, G_N_ELEMENTS(head_fields));
    for (size_t i = 0; i < G_N_ELEMENTS(number_fields); i++) {
        uint64_t number = G_STRUCT_MEMBER(uint64_t, manifest, number_fields[i].offset);
        json_object_object_add(object, number_fields[i].name, json_object_new_uint64(number));
    }
    json_object_object_add(object, "root", digest_to_json(&manifest->root));
    encode_texts(object, manifest, tail_fields, G_N_ELEMENTS(tail_fields));
    json_object_object_add(object, "files", files_to_json(manifest->files));

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

static bool
decode_digest(json_object *object, const char *name, VsDigest *digest)
{
    const char *hex;

    return vs_sealed_json_get_text(object, name, &hex) && hex != NULL &&
           vs_digest_from_hex(hex, digest);
}

// The decoding functions with text as their result return the name of a member that is wrong, NULL
// for none.
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
    for (size_t i = 0; i < G_N_ELEMENTS(number_fields); i++) {
        const NumberField *field = &number_fields[i];
        uint64_t *number = &G_STRUCT_MEMBER(uint64_t, manifest, field->offset);
        if (field->may_lack && !json_object_object_get_ex(object, field->name, NULL))
            continue;
        if (!vs_sealed_json_get_uint(object, field->name, number) || *number < field->minimum)
            return field->name;
    }
    return decode_digest(object, "root", &manifest->root) ? NULL : "root";
}

static bool
role_is_allowed(const char *role)
{
    return role != NULL && *role != '\0' && strlen(role) <= VS_MANIFEST_FILE_MAX_ROLE_BYTES &&
           role[strspn(role, "abcdefghijklmnopqrstuvwxyz0123456789-")] == '\0';
}

static bool
path_is_allowed(const char *path)
{
    return path != NULL && *path != '\0' && strlen(path) <= VS_MANIFEST_FILE_MAX_PATH_BYTES;
}

// NULL where a member is wrong.
static VsManifestFile *
decode_file(json_object *object)
{
    g_autoptr(VsManifestFile) file = g_new0(VsManifestFile, 1);
    const char *role, *path;
    uint64_t mode;

    if (!json_object_is_type(object, json_type_object) ||
        !vs_sealed_json_get_text(object, "role", &role) || !role_is_allowed(role) ||
        !vs_sealed_json_get_text(object, "path", &path) || !path_is_allowed(path) ||
        !vs_sealed_json_get_uint(object, "size_bytes", &file->size_bytes) ||
        file->size_bytes > VS_MANIFEST_FILE_MAX_BYTES ||
        !vs_sealed_json_get_uint(object, "mode", &mode) || mode > 07777 ||
        !decode_digest(object, "root", &file->root) ||
        (file->size_bytes == 0 && !vs_digest_is_zero(&file->root)))
        return NULL;
    file->role = g_strdup(role);
    file->path = g_strdup(path);
    file->mode = (uint32_t)mode;
    return g_steal_pointer(&file);
}

static const char *
decode_files(json_object *object, VsManifest *manifest)
{
    json_object *files;

    if (!json_object_object_get_ex(object, "files", &files))
        return NULL;
    if (!json_object_is_type(files, json_type_array) ||
        json_object_array_length(files) > VS_MANIFEST_MAX_FILES)
        return "files";
    for (size_t i = 0; i < json_object_array_length(files); i++) {
        VsManifestFile *file = decode_file(json_object_array_get_idx(files, i));
        if (file == NULL)
            return "files";
        g_ptr_array_add(manifest->files, file);
    }
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
    if (wrong == NULL)
        wrong = decode_files(object, manifest);
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

// The document's object, NULL where it is no manifest.
static json_object *
open_document(GBytes *bytes, GError **error)
{
    g_autoptr(VsManifest) manifest = vs_manifest_decode(bytes, error);
    const char *cause = NULL;

    return manifest == NULL ? NULL : vs_sealed_json_decode(bytes, &cause);
}

// Takes the object.
static GBytes *
close_document(json_object *object, GError **error)
{
    GBytes *bytes = vs_sealed_json_encode(object);

    json_object_put(object);
    g_autoptr(VsManifest) readable = vs_manifest_decode(bytes, error);
    if (readable == NULL)
        g_clear_pointer(&bytes, g_bytes_unref);
    return bytes;
}

GBytes *
vs_manifest_relabel(GBytes *bytes, const VsManifest *labels, GError **error)
{
    json_object *object = open_document(bytes, error);

    if (object == NULL)
        return NULL;
    json_object_object_add(object, "name", text_to_json(labels->name));
    json_object_object_add(object, "description", text_to_json(labels->description));
    json_object_object_add(object, "expires_at_us", json_object_new_int64(labels->expires_at_us));
    return close_document(object, error);
}

GBytes *
vs_manifest_reidentify(GBytes *bytes, const VsManifest *identity, GError **error)
{
    json_object *object = open_document(bytes, error);

    if (object == NULL)
        return NULL;
    json_object_object_add(object, "disk_chain_identity",
                           text_to_json(identity->disk_chain_identity));
    return close_document(object, error);
}

GBytes *
vs_manifest_drop_files(GBytes *bytes, GError **error)
{
    g_autoptr(VsManifest) manifest = vs_manifest_decode(bytes, error);
    const char *cause = NULL;

    if (manifest == NULL)
        return NULL;
    if (manifest->files->len == 0)
        return g_bytes_ref(bytes);
    json_object *object = vs_sealed_json_decode(bytes, &cause);
    json_object_object_del(object, "files");
    GBytes *without = vs_sealed_json_encode(object);
    json_object_put(object);
    return without;
}
