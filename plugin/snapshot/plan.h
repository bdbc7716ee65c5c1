// SPDX-License-Identifier: LGPL-2.1-or-later
// What a create will do, decided before anything is done. Pure: values in, values out.
#pragma once

#include "nbd-export/store/manifest.h"
#include "plugin/hypervisor/instance.h"
#include "plugin/snapshot/engine.h"

G_BEGIN_DECLS

// The disk's newest snapshot, also a deleted one that is still its base.
typedef struct {
    VsManifest *manifest; // NULL: there is none, or it can't be built on
    char *fault;          // why it can't: damaged, or gone; NULL otherwise
    uint64_t generation;  // its number in the disk's chain, 0: none
} VsBase;
void vs_base_clear(VsBase *base);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VsBase, vs_base_clear)

// One disk of a plan.
typedef struct {
    const VsDisk *disk;   // borrowed
    VsManifest *base;     // the disk's newest snapshot (perhaps deleted), NULL: none
    VsManifest *manifest; // of the snapshot to come, as far as it is known
    bool incremental;     // read only what base's bitmap says
    bool needs_witness;   // its clean content is to be compared with base's (vs_pull_check)
    bool staged;
    char *distrust; // why its bitmap proved wrong while it was read; NULL: it did not
} VsPlanDisk;
void vs_plan_disk_free(VsPlanDisk *disk);

// Why a disk must be read in full, NULL: its bitmap can be trusted.
char *vs_plan_full_reason(const VsDisk *disk, const VsBase *base);

// Whether the disk has a bitmap of this repository, but not that of base (NULL: there is none).
bool vs_plan_has_other_bitmap(const VsDisk *disk, const char *repository_id,
                              const VsManifest *base);

// JSON text of a disk's chain, as it stands in manifests.
char *vs_plan_chain(const VsDisk *disk);

// What all disks of a plan have in common.
typedef struct {
    const VsInstance *instance;
    const VsCreateRequest *request;
    const char *repository_id; // names the bitmaps
    const char *group;         // NULL: a single disk
    GHashTable *distrusted; // char *: ids of disks whose bitmaps are not believed → char *: why;
                            // NULL: none
} VsPlanContext;

// The plan for one disk. base's manifest is taken.
VsPlanDisk *vs_plan_disk(const VsPlanContext *context, const VsDisk *disk, VsBase *base);
// What the disks' ways of capture decide: where all of the instance's disks go one way, one that is
// staged makes all staged; needs_witness. plan: VsPlanDisk *, all disks of the request.
void vs_plan_settle_capture(const VsPlanContext *context, GPtrArray *plan);

// The disks of the request, borrowed from the instance, in its order. VS_ERROR_NO_SUCH_DISK,
// _INVALID_PARAMETER (named twice), _DISK_STATUS (none, or not available).
GPtrArray *vs_plan_choose(const VsInstance *instance, const char *const *names,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
