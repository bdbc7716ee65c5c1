// SPDX-License-Identifier: LGPL-2.1-or-later
// What an image file says of itself, without opening it for writing and without any lock: as
// `qemu-img info` tells it.
//
// An image is foreign: its header may have been written by a guest. So a format that somebody else
// states is never guessed anew, and what the program prints is not trusted to be well-formed.
// Source: qapi/block-core.json of QEMU (ImageInfo).
#pragma once

#include <gio/gio.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct {
    char *filename; // as QEMU names it: absolute path, URI or "json:{…}"
    char *format;
    char *compat; // qcow2: "0.10" or "1.1"; NULL otherwise
    uint64_t virtual_size_bytes;
    bool is_encrypted;
    GPtrArray *bitmaps; // of VsQmpBitmap *: name, recording ("auto"), inconsistent ("in-use"),
                        // granularity_bytes, persistent; what they hold is not told
} VsImageInfo;
void vs_image_info_free(VsImageInfo *info);

// Whether the file is a qcow2 image of the first kind (compat 0.10), which can't store bitmaps: a
// look at its first bytes only. False where it can't be read.
bool vs_image_info_is_old_qcow2(const char *path);

// Parses what `qemu-img info --output=json` prints, with or without --backing-chain: VsImageInfo *,
// top first, at least one; the array owns them. G_IO_ERROR_INVALID_DATA.
GPtrArray *vs_image_info_parse(const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// How far to look.
typedef enum {
    VS_IMAGE_INFO_TOP,   // the image alone; its backing files need not be there
    VS_IMAGE_INFO_CHAIN, // and its backing files, as the headers name them
} VsImageInfoScope;

// Runs it on the image at path (absolute). format: NULL to have it guessed. Iterates the thread's
// default context meanwhile; G_IO_ERROR_TIMED_OUT after half a minute. A failure has the
// program's own words.
GPtrArray *vs_image_info_run(const char *path, const char *format, VsImageInfoScope scope,
                             GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
