// SPDX-License-Identifier: LGPL-2.1-or-later
// Integers as the repository's binary files hold them: little-endian, at any alignment.
#pragma once

#include <glib.h>
#include <stdint.h>
#include <string.h>

static inline void
vs_le32_put(uint8_t *to, uint32_t value)
{
    uint32_t wire = GUINT32_TO_LE(value);
    memcpy(to, &wire, sizeof wire);
}

static inline void
vs_le64_put(uint8_t *to, uint64_t value)
{
    uint64_t wire = GUINT64_TO_LE(value);
    memcpy(to, &wire, sizeof wire);
}

static inline uint32_t
vs_le32_get(const uint8_t *from)
{
    uint32_t wire;
    memcpy(&wire, from, sizeof wire);
    return GUINT32_FROM_LE(wire);
}

static inline uint64_t
vs_le64_get(const uint8_t *from)
{
    uint64_t wire;
    memcpy(&wire, from, sizeof wire);
    return GUINT64_FROM_LE(wire);
}
