// SPDX-License-Identifier: LGPL-2.1-or-later
// Errors as users and orchestrators see them: one enumerator for each outcome that a caller
// branches on, with its exit status and the cloud API's code.
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define VS_ERROR (vs_error_quark())
GQuark vs_error_quark(void);

typedef enum {
    VS_ERROR_FAILED,              // exit 1
    VS_ERROR_CANCELLED,           // exit 1
    VS_ERROR_BITMAP_DISTRUSTED,   // exit 1, BitmapDistrusted: the engine reads in full then
    VS_ERROR_AGENT,               // exit 1, QuiesceFailed: the guest agent is absent, or failed
    VS_ERROR_NO_SUCH_SNAPSHOT,    // exit 1, InvalidSnapshotId.NotFound
    VS_ERROR_NO_SUCH_DISK,        // exit 1, InvalidDiskId.NotFound
    VS_ERROR_NO_SUCH_INSTANCE,    // exit 1, InvalidInstanceId.NotFound
    VS_ERROR_REPOSITORY_DAMAGED,  // exit 1, RepositoryDamaged
    VS_ERROR_INVALID_PARAMETER,   // exit 2, InvalidParameter
    VS_ERROR_INVALID_NAME,        // exit 2, InvalidSnapshotName.Malformed
    VS_ERROR_INVALID_DESCRIPTION, // exit 2, InvalidDescription.Malformed
    VS_ERROR_INVALID_TAG_KEY,     // exit 2, InvalidTagKey.Malformed
    VS_ERROR_INVALID_TAG_VALUE,   // exit 2, InvalidTagValue.Malformed
    VS_ERROR_DUPLICATE_TAG_KEY,   // exit 2, Duplicate.TagKey
    VS_ERROR_INVALID_RETENTION,   // exit 2, InvalidRetentionDays.Malformed
    VS_ERROR_BUSY, // exit 3, IncorrectDiskStatus.CreatingSnapshot: a snapshot is in progress
    VS_ERROR_INSTANCE_STATUS, // exit 3, IncorrectInstanceStatus
    VS_ERROR_DISK_STATUS,     // exit 3, IncorrectDiskStatus
    VS_ERROR_NEVER_ATTACHED,  // exit 3, IncorrectDiskStatus.NeverAttached
    VS_ERROR_SNAPSHOT_STATUS, // exit 3, InvalidSnapshotId.NotReady
    VS_ERROR_QUOTA,           // exit 3, QuotaExceed.Snapshot
    VS_ERROR_REPOSITORY_BUSY, // exit 3, Operation.Conflict
} VsError;

// Exit status (1..3) and API code of any error that reaches the top, also of the lower layers'
// domains.
int vs_error_exit_status(const GError *error);
const char *vs_error_api_code(const GError *error);

// Text from outside made fit for a line of output: control characters and bytes that
// aren't UTF-8 as \xNN or \uNNNN; shortened where it is long. vs_error_quote() also puts it into
// quotes, for naming what the user gave. NULL is "".
char *vs_error_escape(const char *text, size_t max_characters) G_GNUC_WARN_UNUSED_RESULT;
char *vs_error_quote(const char *text) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
