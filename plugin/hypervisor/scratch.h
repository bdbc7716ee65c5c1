// SPDX-License-Identifier: LGPL-2.1-or-later
// Scratch space: a nameless file that QEMU fills with old content of blocks that the guest
// overwrites.
//
// A write that fails there fails the guest's own write (or pauses the guest), so space is reserved
// ahead: fallocate keeps `reserved` bytes free for the file, QEMU tells when it has come close to
// that (write threshold), and then either more is reserved or the snapshot is given up. The file
// has no name, so nothing is left of it, whoever dies.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct {
    int fd;
    char *folder;
    uint64_t reserved_bytes;
    uint64_t most_bytes; // never reserve more
    uint64_t need_bytes; // more is never written, once it is formatted
    bool is_reserving;   // false: the file system can't; then only free space is looked at
} VsScratch;

// folder NULL: $TMPDIR, else /var/tmp. most_bytes 0: no bound. Fails where there is no room for a
// beginning.
VsScratch *vs_scratch_new(const char *folder, uint64_t most_bytes,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The same with a name (that must be free), for a QEMU that wants one; who asked for it removes it.
VsScratch *vs_scratch_new_named(const char *folder, const char *name, uint64_t most_bytes,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The folder that NULL stands for.
const char *vs_scratch_default_folder(void);
// A file without a name there, for what else must wait meanwhile; -1 with errno.
int vs_scratch_open(const char *folder);
void vs_scratch_free(VsScratch *scratch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsScratch, vs_scratch_free)

// Makes it an empty qcow2 image of that virtual size, by qemu-img: QEMU's own blockdev-create
// aborts the VM when any monitor asks for the nodes meanwhile (QEMU 7.2, qcow2_get_specific_info).
bool vs_scratch_format(VsScratch *scratch, uint64_t size_bytes,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reserves space for the file's first or next part. Fails where no more can be had; what is
// reserved stays so. The first part must hold what a guest can overwrite until we have noticed that
// it is used up, and have given the snapshot up: a file system without that much room is refused
// before anything happens, unless most_bytes asks for less.
bool vs_scratch_grow(VsScratch *scratch, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Reserves so many parts that the threshold is above what has been written.
bool vs_scratch_keep_up(VsScratch *scratch, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// At which size of the file to grow again, so that a guest that writes fast does not overtake us.
uint64_t vs_scratch_threshold(const VsScratch *scratch);

G_END_DECLS
