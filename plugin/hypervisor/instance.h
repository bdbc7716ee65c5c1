// SPDX-License-Identifier: LGPL-2.1-or-later
// An instance and its disks, as a hypervisor driver describes them.
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct {
    char *id;             // d-…, "" until identified
    char *target;         // the name users know: qdev id, device id or node name; libvirt's dev
    GPtrArray *aliases;   // char *: other names that select it
    char *node;           // QEMU's node that holds the format, NULL: not by a monitor
    char *source;         // image, absolute path or URI
    char *format;         // "qcow2", "raw", …
    GPtrArray *chain;     // char *: image and its backing files, top first
    char *chain_identity; // of those files (chain-identity.h), NULL until identified, or
                          // where it can't be told
    uint64_t virtual_size_bytes;
    bool can_track;          // changes to it can be recorded in a dirty bitmap here
    bool persistent_bitmaps; // the image can store them
    bool iothread;
    bool is_shared;     // written by others too: bitmaps don't see all
    GPtrArray *bitmaps; // VsQmpBitmap *: what is recorded on it
    char *live_only;    // why only a running machine shows what its guest sees (its image is
                        // encrypted by a key, or a part of a file); NULL: the image does too
    char *unavailable;  // why it can't be snapshotted now (another job has it), NULL: it can

    // What a definition says of the chain that it names, which need not be what the images say.
    GPtrArray *chain_formats; // char *: of each of these images; empty: there is no definition
    bool chain_ends;          // the guest sees nothing below the last of them
} VsDisk;

// A file that the definition points to: what the machine needs besides its disks.
typedef struct {
    char *role; // "nvram", "kernel", "initrd", "dtb"
    char *path;
} VsInstanceFile;
VsInstanceFile *vs_instance_file_new(const char *role, const char *path);
void vs_instance_file_free(VsInstanceFile *file);

typedef struct {
    char *id; // i-…, NULL: an image that no instance has
    char *name;
    char *kind;       // "qmp", "libvirt", NULL: an image that no instance has
    char *status;     // "running", "paused", "stopped"
    char *definition; // text for the manifest, NULL: none
    GPtrArray *files; // VsInstanceFile *
    GPtrArray *disks; // VsDisk *
    bool one_capture; // its disks are captured all live or all staged
} VsInstance;

VsDisk *vs_disk_new(void);
void vs_disk_free(VsDisk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsDisk, vs_disk_free)
// What a definition says of a disk: target, source, format, its chain, is_shared, live_only,
// unavailable.
VsDisk *vs_disk_copy_definition(const VsDisk *disk);
// Whether a definition says that the guest sees the image without any backing file.
bool vs_disk_is_cut_off(const VsDisk *disk);
// Whether another one of these disks has the same image: each one's bitmap misses what the other
// writes. Their chains are known.
bool vs_disk_has_twin(const VsDisk *disk, const GPtrArray *disks);
VsInstance *vs_instance_new(void);
void vs_instance_free(VsInstance *instance);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsInstance, vs_instance_free)

// Whether a QEMU has its disks open.
bool vs_instance_is_running(const VsInstance *instance);

// The disk that name selects (id, target or alias), NULL: none. Borrowed.
VsDisk *vs_instance_find_disk(const VsInstance *instance, const char *name);

G_END_DECLS
