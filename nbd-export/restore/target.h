// SPDX-License-Identifier: LGPL-2.1-or-later
// Where a restored disk is written: an image file of some format, empty (all zeroes) at first.
//
// Two kinds behind one vtable: a raw file written directly, and any other format through a qemu-nbd
// child. write may be called from several threads at once.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct _VsTarget VsTarget;

typedef struct {
    void (*free)(VsTarget *target); // also the way to give up
    bool (*write)(VsTarget *target, uint64_t offset, const void *data, size_t length,
                  GError **error);
    // Everything written is in the file (not yet synced) when it returns.
    bool (*finish)(VsTarget *target, GError **error);
} VsTargetOps;

struct _VsTarget {
    const VsTargetOps *ops;
};

// raw: fd is open for writing on an empty file, borrowed; path is for messages. Otherwise: path
// leads to an empty file, absolute.
VsTarget *vs_raw_target_open(const char *path, int fd, uint64_t size_bytes,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
VsTarget *vs_nbd_target_open(const char *path, const char *format, uint64_t size_bytes,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;

static inline void
vs_target_free(VsTarget *target)
{
    if (target)
        target->ops->free(target);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsTarget, vs_target_free)

G_END_DECLS
