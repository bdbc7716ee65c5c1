// SPDX-License-Identifier: LGPL-2.1-or-later
// Seeing is knowing: the disks that a listing sees attached are remembered in the catalogue, so
// that they are known when their instance has gone.
#pragma once

#include "plugin/catalogue/catalogue.h"
#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

// Notes one disk of an instance in sightings (VsKnownDisk *). Borrows nothing. What was not seen
// of it this time (size, chain) stays as it is known.
void vs_sightings_add(GPtrArray *sightings, const GPtrArray *known, const VsInstance *instance,
                      const VsDisk *disk);

// Remembers those that say something new. Of a disk that several instances have, the one that it
// is known from counts. That a catalogue can't be written is no error: it is seen again.
void vs_sightings_remember(const GPtrArray *sightings, const GPtrArray *known,
                           VsCatalogue *catalogue);

// NULL: not known. Borrowed.
const VsKnownDisk *vs_known_disk_find(const GPtrArray *known, const char *id);

G_END_DECLS
