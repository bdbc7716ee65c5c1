// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/hypervisor/chain-identity.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "plugin/hypervisor/image-lock.h"

#define NS_PER_SECOND 1000000000ll

// docs/interop/qcow2.txt of QEMU: the magic; the last byte of the incompatible features, which are
// big-endian, and in it the bit of an external data file.
#define QCOW2_MAGIC "QFI\xfb"
#define QCOW2_FEATURES_OFFSET 79
#define QCOW2_DATA_FILE 4

static bool
has_data_file(int fd)
{
    char head[QCOW2_FEATURES_OFFSET + 1];
    return pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head &&
           memcmp(head, QCOW2_MAGIC, strlen(QCOW2_MAGIC)) == 0 && head[7] >= 3 &&
           (head[QCOW2_FEATURES_OFFSET] & QCOW2_DATA_FILE);
}

// Of the numbers that the kernel counts those that tell of changes; NULL where there are none.
static char *
count_writes(dev_t device)
{
    g_autofree char *path =
        g_strdup_printf("/sys/dev/block/%u:%u/stat", major(device), minor(device));
    g_autofree char *text = NULL;
    g_autofree char *boot = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        !g_file_get_contents("/proc/sys/kernel/random/boot_id", &boot, NULL, NULL))
        return NULL;
    guint64 writes = 0, sectors = 0, discards = 0, discarded = 0;
    int found = sscanf(text,
                       "%*s %*s %*s %*s %" G_GUINT64_FORMAT " %*s %" G_GUINT64_FORMAT
                       " %*s %*s %*s %*s %" G_GUINT64_FORMAT " %*s %" G_GUINT64_FORMAT,
                       &writes, &sectors, &discards, &discarded);
    if (found < 2)
        return NULL;
    return g_strdup_printf("%u:%u:%s:%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT ":%" G_GUINT64_FORMAT
                           ":%" G_GUINT64_FORMAT,
                           major(device), minor(device), g_strstrip(boot), writes, sectors,
                           discards, discarded);
}

static char *
identify_file(const struct stat *status, bool is_top)
{
    int64_t written_ns = status->st_mtim.tv_sec * NS_PER_SECOND + status->st_mtim.tv_nsec;
    if (S_ISBLK(status->st_mode))
        return is_top ? NULL : count_writes(status->st_rdev);
    if (!S_ISREG(status->st_mode))
        return NULL;
    if (is_top)
        return g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)status->st_ino);
    return g_strdup_printf("%" G_GUINT64_FORMAT ":%" G_GINT64_FORMAT ":%" G_GINT64_FORMAT,
                           (guint64)status->st_ino, (gint64)status->st_size, written_ns);
}

static int
open_file(const char *path)
{
    return g_path_is_absolute(path) ? vs_image_lock_open(path) : -1;
}

// Whether a machine that has the chain open can be seen to: it may take no locks.
static bool
is_locked(const GPtrArray *chain)
{
    int fd = chain->len > 0 ? open_file(g_ptr_array_index(chain, 0)) : -1;
    bool locked = fd >= 0 && vs_image_lock_is_held(fd);
    if (fd >= 0)
        close(fd);
    return locked;
}

// False where it can't be told.
static bool
add_file(struct json_object *files, const char *path, bool is_top, bool must_be_held)
{
    struct stat status;
    int fd = open_file(path);
    bool is_file = fd >= 0 && fstat(fd, &status) == 0;
    bool is_doubtful = is_file && S_ISREG(status.st_mode) &&
                       (has_data_file(fd) || (must_be_held && !vs_image_lock_is_held(fd)));
    g_autofree char *identity = is_file ? identify_file(&status, is_top) : NULL;
    if (fd >= 0)
        close(fd);
    json_object_array_add(files, identity ? json_object_new_string(identity) : NULL);
    return !is_doubtful;
}

char *
vs_chain_identity(const GPtrArray *chain, bool in_use)
{
    struct json_object *files = json_object_new_array();
    bool must_be_held = in_use && is_locked(chain);
    bool is_known = true;
    for (unsigned i = 0; i < chain->len; i++)
        is_known &= add_file(files, g_ptr_array_index(chain, i), i == 0, must_be_held);
    char *text =
        is_known ? g_strdup(json_object_to_json_string_ext(files, JSON_C_TO_STRING_PLAIN)) : NULL;
    json_object_put(files);
    return text;
}
