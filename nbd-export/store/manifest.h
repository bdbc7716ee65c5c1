// SPDX-License-Identifier: LGPL-2.1-or-later
// The manifest: the small file that makes a snapshot exist.
//
// What it says of the content (root, sizes, parent, point in time, disk, instance) never changes;
// its labels (name, description, expiry) may, and disk_chain_identity, by atomically replacing the
// file. Pure: values in, bytes out.
//
// The file is a sealed JSON document (sealed-json.h): "format" and then the members of VsManifest,
// by their names, in their order. Texts are strings, or null for NULL; numbers are integers from 0
// to 2^63 − 1; root is 64 lower-case hex digits; files is an array of objects with the members of
// VsManifestFile. Members that a reader doesn't know are ignored, so a member may be added without
// a new format; a higher "format" is refused.
#pragma once

#include "nbd-export/store/id.h"
#include "nbd-export/store/tree.h"

G_BEGIN_DECLS

#define VS_MANIFEST_ERROR (vs_manifest_error_quark())
GQuark vs_manifest_error_quark(void);

typedef enum {
    VS_MANIFEST_ERROR_CORRUPT,     // damaged, or no manifest
    VS_MANIFEST_ERROR_UNSUPPORTED, // of a newer format
} VsManifestError;

#define VS_MANIFEST_FORMAT 1
#define VS_MANIFEST_MAX_BYTES (8u << 20) // a VM definition may be in it

// A definition points to a handful of files; the largest, an initrd with everything in it, has
// some hundred MiB. What is larger is a disk.
#define VS_MANIFEST_MAX_FILES 32u
#define VS_MANIFEST_FILE_MAX_BYTES (256u << 20)
#define VS_MANIFEST_FILE_MAX_ROLE_BYTES 32u
#define VS_MANIFEST_FILE_MAX_PATH_BYTES 16384u // PATH_MAX, with every byte escaped

// A small file that belongs to the machine's definition. Its content is a tree of chunks as a
// disk's is (attachment.h): the last chunk is filled up with zeroes.
typedef struct {
    char *role; // what the machine has it for: "nvram", "kernel", "initrd", "dtb", "loader" or
                // another word of a-z, 0-9 and '-'
    char *path; // as the definition names it
    uint64_t size_bytes;
    uint32_t mode; // permissions, 0 to 07777
    VsDigest root; // VS_DIGEST_ZERO where size_bytes is 0
} VsManifestFile;

VsManifestFile *vs_manifest_file_copy(const VsManifestFile *file);
void vs_manifest_file_free(VsManifestFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsManifestFile, vs_manifest_file_free)

typedef struct {
    char *id;              // s-…
    char *group;           // ssg-…, NULL: not in one
    char *name;            // NULL: none
    char *description;     // NULL: none
    char *kind;            // "manual" or "auto"
    char *mode;            // "full" or "incremental"
    char *mode_reason;     // why full, NULL for an incremental
    char *parent;          // id of the disk's snapshot before it, NULL: first
    char *consistency;     // "crash" or "filesystem"
    int64_t created_at_us; // the point in time, µs since the epoch
    int64_t expires_at_us; // 0: never
    uint64_t generation;   // number of this snapshot in its disk's chain, from 1
    uint64_t virtual_size_bytes;
    uint64_t read_bytes; // pulled over NBD
    uint64_t new_bytes;  // stored for it
    int64_t frozen_us;   // how long the guest's file systems stood still for it, 0: not frozen
    VsDigest root;

    char *instance_id;
    char *instance_name;
    char *instance_kind;       // "libvirt", "qmp", NULL: an unattached image
    char *instance_definition; // free text (domain XML; what was attached where), NULL: none
    char *disk_id;
    char *disk_target;
    char *disk_source; // the image, absolute path or URI
    char *disk_format;
    char *disk_chain; // JSON text: file names of the image's backing chain, top first; decides
                      // whether a bitmap still counts
    char *disk_chain_identity; // JSON text: what tells that these files are the same ones, NULL:
                               // not known
    char *bitmap;              // name of the dirty bitmap started at the point in time, NULL: none
    GPtrArray *files;          // VsManifestFile *, owned by it; empty: none
} VsManifest;

// All members are zero or NULL, but for files, which is never NULL.
VsManifest *vs_manifest_new(void);
VsManifest *vs_manifest_copy(const VsManifest *manifest);
void vs_manifest_free(VsManifest *manifest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsManifest, vs_manifest_free)

// A text that is not UTF-8 (a path) comes out escaped: vs_sealed_json_escape(). Never fails:
// whether a reader would take it, only decode says (which a commit asks before it writes).
GBytes *vs_manifest_encode(const VsManifest *manifest);
// Every field is checked (ids' form, sizes, known words); unknown members are ignored. Needed are:
// id, kind, mode, consistency, disk_id, root and the numbers but for frozen_us, which older
// manifests lack as they lack files; instance_id is an "i-" id or NULL.
VsManifest *vs_manifest_decode(GBytes *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The file with the labels (name, description, expiry) of another manifest in the place of its own,
// and all else as it is: members that a newer program wrote stay.
GBytes *vs_manifest_relabel(GBytes *bytes, const VsManifest *labels,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The file with another's disk_chain_identity in the place of its own, and all else as it is.
GBytes *vs_manifest_reidentify(GBytes *bytes, const VsManifest *identity,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

// The same file without "files": a hidden base serves the next incremental, which needs none.
GBytes *vs_manifest_drop_files(GBytes *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
