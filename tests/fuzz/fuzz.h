// SPDX-License-Identifier: LGPL-2.1-or-later
// What each <name>_fuzz.c defines: one run of a parser on foreign bytes. It returns 0 and aborts
// where something is wrong. Deterministic: libFuzzer and replay.c call it many times in one
// process.
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
