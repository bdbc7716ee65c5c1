// SPDX-License-Identifier: LGPL-2.1-or-later
// The owner of an image that no instance has.
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plugin/error.h"
#include "plugin/hypervisor/storage-driver.h"

static bool
check_is_there(const char *path, GError **error)
{
    struct stat status;
    if (stat(path, &status) < 0 || access(path, R_OK) < 0) {
        int code = errno;
        bool is_missing = code == ENOENT || code == ENOTDIR;
        g_set_error(error, VS_ERROR, is_missing ? VS_ERROR_NO_SUCH_DISK : VS_ERROR_DISK_STATUS,
                    "opening image '%s': %s", path, g_strerror(code));
        return false;
    }
    if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode))
        return true;
    g_set_error(error, VS_ERROR, VS_ERROR_NO_SUCH_DISK,
                "opening image '%s': it is neither a file nor a block device", path);
    return false;
}

typedef struct {
    char *path;
    VsDisk *defined;
} Image;

static void
image_free(gpointer user_data)
{
    Image *image = user_data;
    g_free(image->path);
    vs_disk_free(image->defined);
    g_free(image);
}

static VsInstance *
describe(gpointer user_data, GError **error)
{
    const Image *image = user_data;
    if (!check_is_there(image->path, error))
        return NULL;
    VsInstance *instance = vs_instance_new();
    instance->name = g_strconcat("file:", image->path, NULL);
    instance->status = g_strdup("stopped");
    VsDisk *disk = vs_disk_copy_definition(image->defined);
    g_free(disk->target);
    disk->target = g_strdup("image");
    g_ptr_array_add(instance->disks, disk);
    return instance;
}

void
vs_storage_image_owner(VsStorageOwner *owner, const char *path, const VsDisk *defined)
{
    Image *image = g_new0(Image, 1);
    image->path = g_strdup(path);
    image->defined = vs_disk_copy_definition(defined);
    *owner = (VsStorageOwner){.describe = describe, .user_data = image, .free = image_free};
}
