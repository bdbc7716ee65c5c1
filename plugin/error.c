// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/error.h"

#include "nbd-export/restore/restore.h"
#include "nbd-export/store/chunk-store.h"
#include "nbd-export/store/codec.h"
#include "nbd-export/store/repository.h"
#include "nbd-export/store/tree.h"
#include "qmp/client.h"

#include <string.h>

// Long enough for an id, a name or a usual path; short enough for a line.
#define QUOTE_MAX_CHARACTERS 80

GQuark
vs_error_quark(void)
{
    return g_quark_from_static_string("vs-error-quark");
}

typedef struct {
    int code;
    int exit_status;
    const char *api_code;
} Outcome;

static const Outcome GENERAL = {0, 1, "InternalError"};

static const Outcome OWN[] = {
    {VS_ERROR_FAILED, 1, "InternalError"},
    {VS_ERROR_CANCELLED, 1, "OperationCancelled"},
    {VS_ERROR_BITMAP_DISTRUSTED, 1, "BitmapDistrusted"},
    {VS_ERROR_AGENT, 1, "QuiesceFailed"},
    {VS_ERROR_NO_SUCH_SNAPSHOT, 1, "InvalidSnapshotId.NotFound"},
    {VS_ERROR_NO_SUCH_DISK, 1, "InvalidDiskId.NotFound"},
    {VS_ERROR_NO_SUCH_INSTANCE, 1, "InvalidInstanceId.NotFound"},
    {VS_ERROR_REPOSITORY_DAMAGED, 1, "RepositoryDamaged"},
    {VS_ERROR_INVALID_PARAMETER, 2, "InvalidParameter"},
    {VS_ERROR_INVALID_NAME, 2, "InvalidSnapshotName.Malformed"},
    {VS_ERROR_INVALID_DESCRIPTION, 2, "InvalidDescription.Malformed"},
    {VS_ERROR_INVALID_TAG_KEY, 2, "InvalidTagKey.Malformed"},
    {VS_ERROR_INVALID_TAG_VALUE, 2, "InvalidTagValue.Malformed"},
    {VS_ERROR_DUPLICATE_TAG_KEY, 2, "Duplicate.TagKey"},
    {VS_ERROR_INVALID_RETENTION, 2, "InvalidRetentionDays.Malformed"},
    {VS_ERROR_BUSY, 3, "IncorrectDiskStatus.CreatingSnapshot"},
    {VS_ERROR_INSTANCE_STATUS, 3, "IncorrectInstanceStatus"},
    {VS_ERROR_DISK_STATUS, 3, "IncorrectDiskStatus"},
    {VS_ERROR_NEVER_ATTACHED, 3, "IncorrectDiskStatus.NeverAttached"},
    {VS_ERROR_SNAPSHOT_STATUS, 3, "InvalidSnapshotId.NotReady"},
    {VS_ERROR_QUOTA, 3, "QuotaExceed.Snapshot"},
    {VS_ERROR_REPOSITORY_BUSY, 3, "Operation.Conflict"},
};

static const Outcome REPOSITORY[] = {
    {VS_REPOSITORY_ERROR_MISSING, 1, "InvalidRepository.NotFound"},
    {VS_REPOSITORY_ERROR_FOREIGN, 1, "InvalidRepository.Malformed"},
    {VS_REPOSITORY_ERROR_UNSUPPORTED, 1, "InvalidRepository.NotSupported"},
    {VS_REPOSITORY_ERROR_EXISTS, 1, "InvalidRepository.AlreadyExists"},
    {VS_REPOSITORY_ERROR_NOT_FOUND, 1, "InvalidSnapshotId.NotFound"},
    {VS_REPOSITORY_ERROR_BUSY, 3, "Operation.Conflict"},
};

// A monitor that another client holds is a matter of waiting, like a snapshot in progress.
static const Outcome QMP[] = {
    {VS_QMP_ERROR_CONNECT, 1, "InvalidInstanceId.NotFound"},
    {VS_QMP_ERROR_TAKEN, 3, "IncorrectInstanceStatus"},
};

static const Outcome RESTORE[] = {
    {VS_RESTORE_ERROR_EXISTS, 1, "InvalidPath.AlreadyExists"},
};

static const Outcome IO[] = {
    {G_IO_ERROR_CANCELLED, 1, "OperationCancelled"},
};

static const Outcome *
find(const Outcome *outcomes, size_t count, int code)
{
    for (size_t i = 0; i < count; i++) {
        if (outcomes[i].code == code)
            return &outcomes[i];
    }
    return &GENERAL;
}

// Something stored is missing or not what its digest says.
static bool
is_damage(const GError *error)
{
    return g_error_matches(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT) ||
           error->domain == VS_CHUNK_STORE_ERROR || error->domain == VS_CODEC_ERROR ||
           error->domain == VS_TREE_ERROR;
}

static const Outcome *
outcome_of(const GError *error)
{
    static const Outcome usage = {0, 2, "InvalidParameter"};
    static const Outcome damage = {0, 1, "RepositoryDamaged"};
    if (is_damage(error))
        return &damage;
    if (error->domain == VS_ERROR)
        return find(OWN, G_N_ELEMENTS(OWN), error->code);
    if (error->domain == VS_REPOSITORY_ERROR)
        return find(REPOSITORY, G_N_ELEMENTS(REPOSITORY), error->code);
    if (error->domain == VS_QMP_ERROR)
        return find(QMP, G_N_ELEMENTS(QMP), error->code);
    if (error->domain == VS_RESTORE_ERROR)
        return find(RESTORE, G_N_ELEMENTS(RESTORE), error->code);
    if (error->domain == G_IO_ERROR)
        return find(IO, G_N_ELEMENTS(IO), error->code);
    if (error->domain == G_OPTION_ERROR)
        return &usage;
    return &GENERAL;
}

int
vs_error_exit_status(const GError *error)
{
    return outcome_of(error)->exit_status;
}

const char *
vs_error_api_code(const GError *error)
{
    return outcome_of(error)->api_code;
}

// Appends the character at text, which ends before end; returns where the next one begins.
static const char *
append_character(GString *out, const char *text, const char *end)
{
    gunichar character = g_utf8_get_char_validated(text, end - text);
    if (character == (gunichar)-1 || character == (gunichar)-2 || character == 0) {
        g_string_append_printf(out, "\\x%02x", (unsigned char)*text);
        return text + 1;
    }
    // Line and paragraph separators break lines in some terminals; direction marks (Cf) turn text
    // around.
    GUnicodeType type = g_unichar_type(character);
    if (character < 0x80 && g_unichar_iscntrl(character))
        g_string_append_printf(out, "\\x%02x", character);
    else if (g_unichar_iscntrl(character) || type == G_UNICODE_FORMAT ||
             type == G_UNICODE_LINE_SEPARATOR || type == G_UNICODE_PARAGRAPH_SEPARATOR)
        g_string_append_printf(out, "\\u%04x", character);
    else
        g_string_append_unichar(out, character);
    return g_utf8_next_char(text);
}

char *
vs_error_escape(const char *text, size_t max_characters)
{
    GString *out = g_string_new(NULL);
    const char *at = text != NULL ? text : "";
    const char *end = at + strlen(at);
    for (size_t count = 0; at < end && count < max_characters; count++)
        at = append_character(out, at, end);
    if (at < end)
        g_string_append(out, "...");
    return g_string_free(out, FALSE);
}

char *
vs_error_quote(const char *text)
{
    g_autofree char *escaped = vs_error_escape(text, QUOTE_MAX_CHARACTERS);
    return g_strdup_printf("'%s'", escaped);
}
