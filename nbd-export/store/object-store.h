// SPDX-License-Identifier: LGPL-2.1-or-later
// Where a repository's files live: named immutable (or atomically replaced) objects.
//
// The one interface to storage: put, get range, size, list, remove. Names are relative, of the form
// "folder/name", made of [A-Za-z0-9._-] and '/', no component beginning with '.'; anything else is
// refused. Implemented by a directory (directory-store.h); an S3 store is to follow, so nothing
// here assumes a file descriptor or a partial write. All calls may be made from any thread at once.
#pragma once

#include <gio/gio.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

G_BEGIN_DECLS

#define VS_OBJECT_STORE_ERROR (vs_object_store_error_quark())
GQuark vs_object_store_error_quark(void);

typedef enum {
    VS_OBJECT_STORE_ERROR_FAILED,    // I/O error
    VS_OBJECT_STORE_ERROR_NOT_FOUND, // no such object
    VS_OBJECT_STORE_ERROR_NO_SPACE,  // ENOSPC, EDQUOT
    VS_OBJECT_STORE_ERROR_READ_ONLY, // EROFS, EACCES, EPERM
    VS_OBJECT_STORE_ERROR_SHORT,     // the object ends before the range does
} VsObjectStoreError;

typedef struct _VsObjectStore VsObjectStore;

// Gives the next bytes of an object that is being written: fills buffer with at most capacity
// bytes, *length_bytes 0 at the end.
typedef bool (*VsObjectSourceFunc)(gpointer user_data, void *buffer, size_t capacity,
                                   size_t *length_bytes, GError **error);

typedef struct {
    void (*free)(VsObjectStore *store);
    bool (*put)(VsObjectStore *store, const char *name, const struct iovec *parts,
                unsigned part_count, GError **error);
    bool (*put_stream)(VsObjectStore *store, const char *name, VsObjectSourceFunc source,
                       gpointer user_data, GError **error);
    bool (*get_range)(VsObjectStore *store, const char *name, uint64_t offset, void *buffer,
                      size_t length, GError **error);
    bool (*get_size)(VsObjectStore *store, const char *name, uint64_t *size, GError **error);
    GPtrArray *(*list)(VsObjectStore *store, const char *folder, GError **error);
    bool (*remove)(VsObjectStore *store, const char *name, GError **error);
} VsObjectStoreOps;

// Implementations embed it as their first member.
struct _VsObjectStore {
    const VsObjectStoreOps *ops;
};

void vs_object_store_free(VsObjectStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsObjectStore, vs_object_store_free)

// Whether name may name an object.
bool vs_object_name_is_valid(const char *name);

// Creates or atomically replaces the object from the parts' bytes. Durable on return (content and
// name); on failure the old object, or none, is there, and nothing else is left behind (but where
// it was the name that could not be made durable: then it may be the new one).
bool vs_object_store_put(VsObjectStore *store, const char *name, const struct iovec *parts,
                         unsigned part_count, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// As put, of an object that is too large for memory: source is called until it gives no more. Its
// error is passed on.
bool vs_object_store_put_stream(VsObjectStore *store, const char *name, VsObjectSourceFunc source,
                                gpointer user_data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Fills buffer with exactly length bytes from offset.
bool vs_object_store_get_range(VsObjectStore *store, const char *name, uint64_t offset,
                               void *buffer, size_t length,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
// The whole object, at most max_bytes (more is VS_OBJECT_STORE_ERROR_FAILED).
GBytes *vs_object_store_get(VsObjectStore *store, const char *name, size_t max_bytes,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
bool vs_object_store_get_size(VsObjectStore *store, const char *name, uint64_t *size_bytes,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Names of the folder's objects (char *), without the folder and such that folder + "/" + name is
// the object ("ab/abcd…" in packs/), in no order. An absent folder is empty.
GPtrArray *vs_object_store_list(VsObjectStore *store, const char *folder,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
// Durable on return. No such object: VS_OBJECT_STORE_ERROR_NOT_FOUND.
bool vs_object_store_remove(VsObjectStore *store, const char *name,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
