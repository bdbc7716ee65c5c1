// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/validate.h"

#include "plugin/error.h"

#include <string.h>
#include <sys/stat.h>

#define INVALID(code, ...) g_set_error(error, VS_ERROR, code, __VA_ARGS__)

// What is wrong with a text, NULL: nothing.
static const char *
text_fault(const char *text, glong min_characters, glong max_characters)
{
    if (!g_utf8_validate(text, -1, NULL))
        return "it is not valid UTF-8";
    glong length = g_utf8_strlen(text, -1);
    if (length < min_characters)
        return "it is empty";
    if (length > max_characters)
        return "it is too long";
    for (const char *at = text; *at != '\0'; at = g_utf8_next_char(at)) {
        if (g_unichar_iscntrl(g_utf8_get_char(at)))
            return "it has control characters";
    }
    if (g_str_has_prefix(text, "http://") || g_str_has_prefix(text, "https://"))
        return "it begins with http:// or https://";
    return NULL;
}

// The same for a tag's key or value.
static const char *
tag_fault(const char *text, glong min_characters)
{
    const char *fault = text_fault(text, min_characters, VS_TAG_MAX_CHARACTERS);
    if (fault == NULL && (g_str_has_prefix(text, "aliyun") || g_str_has_prefix(text, "acs:")))
        fault = "it begins with aliyun or acs:";
    return fault;
}

bool
vs_validate_name(const char *name, GError **error)
{
    const char *fault = text_fault(name, 1, VS_NAME_MAX_CHARACTERS);
    if (fault == NULL)
        return true;
    g_autofree char *quoted = vs_error_quote(name);
    INVALID(VS_ERROR_INVALID_NAME, "name %s: %s: give 1 to %d characters", quoted, fault,
            VS_NAME_MAX_CHARACTERS);
    return false;
}

bool
vs_validate_description(const char *description, GError **error)
{
    const char *fault = text_fault(description, 0, VS_DESCRIPTION_MAX_CHARACTERS);
    if (fault == NULL)
        return true;
    g_autofree char *quoted = vs_error_quote(description);
    INVALID(VS_ERROR_INVALID_DESCRIPTION, "description %s: %s: give at most %d characters", quoted,
            fault, VS_DESCRIPTION_MAX_CHARACTERS);
    return false;
}

bool
vs_validate_tag_key(const char *key, GError **error)
{
    const char *fault = tag_fault(key, 1);
    if (fault == NULL)
        return true;
    g_autofree char *quoted = vs_error_quote(key);
    INVALID(VS_ERROR_INVALID_TAG_KEY, "tag key %s: %s: give 1 to %d characters", quoted, fault,
            VS_TAG_MAX_CHARACTERS);
    return false;
}

bool
vs_parse_tag(const char *text, char **key, char **value, GError **error)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL) {
        g_autofree char *quoted = vs_error_quote(text);
        INVALID(VS_ERROR_INVALID_TAG_KEY, "tag %s: it has no '=': give KEY=VALUE", quoted);
        return false;
    }
    g_autofree char *k = g_strndup(text, (gsize)(equals - text));
    g_autofree char *v = g_strdup(equals + 1);
    if (!vs_validate_tag_key(k, error))
        return false;
    const char *fault = tag_fault(v, 0);
    if (fault != NULL) {
        g_autofree char *quoted = vs_error_quote(v);
        INVALID(VS_ERROR_INVALID_TAG_VALUE, "tag value %s: %s: give at most %d characters", quoted,
                fault, VS_TAG_MAX_CHARACTERS);
        return false;
    }
    *key = g_steal_pointer(&k);
    *value = g_steal_pointer(&v);
    return true;
}

GHashTable *
vs_parse_tags(char *const *texts, GError **error)
{
    g_autoptr(GHashTable) tags = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    for (unsigned i = 0; texts != NULL && texts[i] != NULL; i++) {
        g_autofree char *key = NULL;
        g_autofree char *value = NULL;
        if (!vs_parse_tag(texts[i], &key, &value, error))
            return NULL;
        if (g_hash_table_contains(tags, key)) {
            g_autofree char *quoted = vs_error_quote(key);
            INVALID(VS_ERROR_DUPLICATE_TAG_KEY, "tag key %s: it is given twice", quoted);
            return NULL;
        }
        g_hash_table_insert(tags, g_steal_pointer(&key), g_steal_pointer(&value));
    }
    if (g_hash_table_size(tags) > VS_TAGS_MAX) {
        INVALID(VS_ERROR_INVALID_PARAMETER, "%u tags: a snapshot has at most %d",
                g_hash_table_size(tags), VS_TAGS_MAX);
        return NULL;
    }
    return g_steal_pointer(&tags);
}

// Decimal digits only, all of length characters; false also where it does not fit.
static bool
parse_digits(const char *text, size_t length, uint64_t *number)
{
    uint64_t result = 0;
    if (length == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!g_ascii_isdigit(text[i]) || !g_uint64_checked_mul(&result, result, 10) ||
            !g_uint64_checked_add(&result, result, (guint64)(text[i] - '0')))
            return false;
    }
    *number = result;
    return true;
}

bool
vs_parse_retention(const char *text, int64_t *retain_us, GError **error)
{
    if (strcmp(text, "forever") == 0) {
        *retain_us = 0;
        return true;
    }
    uint64_t days;
    if (g_str_has_suffix(text, "d") && parse_digits(text, strlen(text) - 1, &days) && days >= 1 &&
        days <= VS_RETENTION_MAX_DAYS) {
        *retain_us = (int64_t)days * VS_DAY_US;
        return true;
    }
    g_autofree char *quoted = vs_error_quote(text);
    INVALID(VS_ERROR_INVALID_RETENTION, "retention %s: give 'forever', or 1d to %dd", quoted,
            VS_RETENTION_MAX_DAYS);
    return false;
}

// 0 where text is no size.
static uint64_t
parse_scaled(const char *text)
{
    static const char suffixes[] = "KMGT";
    size_t length = strlen(text);
    uint64_t scale = 1;
    const char *suffix = length > 0 ? strchr(suffixes, text[length - 1]) : NULL;
    if (suffix != NULL) {
        scale = UINT64_C(1) << (10 * (suffix - suffixes + 1));
        length--;
    }
    uint64_t number;
    if (!parse_digits(text, length, &number) || !g_uint64_checked_mul(&number, number, scale))
        return 0;
    return number;
}

bool
vs_parse_size(const char *option, const char *text, uint64_t *bytes, GError **error)
{
    *bytes = parse_scaled(text);
    // What follows computes with signed offsets.
    if (*bytes > 0 && *bytes <= INT64_MAX)
        return true;
    g_autofree char *quoted = vs_error_quote(text);
    INVALID(VS_ERROR_INVALID_PARAMETER,
            "%s %s: give a number of bytes above 0, with K, M, G or T for powers of 1024", option,
            quoted);
    return false;
}

bool
vs_parse_chunk_size(const char *text, uint32_t *bytes, GError **error)
{
    uint64_t size = parse_scaled(text);
    if (size >= VS_CHUNK_SIZE_MIN && size <= VS_CHUNK_SIZE_MAX && (size & (size - 1)) == 0) {
        *bytes = (uint32_t)size;
        return true;
    }
    g_autofree char *quoted = vs_error_quote(text);
    INVALID(VS_ERROR_INVALID_PARAMETER, "--chunk-size %s: give a power of two from 64K to 4M",
            quoted);
    return false;
}

bool
vs_parse_percent(const char *text, double *percent, GError **error)
{
    // g_ascii_strtod() alone would also take signs, exponents, blanks, hexadecimal and "nan".
    bool is_decimal = *text != '\0' && strspn(text, "0123456789.") == strlen(text) &&
                      strchr(text, '.') == strrchr(text, '.') && strcmp(text, ".") != 0;
    *percent = is_decimal ? g_ascii_strtod(text, NULL) : 0;
    if (*percent > 0 && *percent <= 100)
        return true;
    g_autofree char *quoted = vs_error_quote(text);
    INVALID(VS_ERROR_INVALID_PARAMETER, "--sample %s: give a percentage above 0, up to 100",
            quoted);
    return false;
}

// The index of text among the words, -1 with an error that lists them.
static int
parse_word(const char *option, const char *text, const char *const *words, GError **error)
{
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(text, words[i]) == 0)
            return i;
    }
    g_autofree char *choices = g_strjoinv(", ", (char **)words);
    g_autofree char *quoted = vs_error_quote(text);
    INVALID(VS_ERROR_INVALID_PARAMETER, "%s %s: give one of %s", option, quoted, choices);
    return -1;
}

bool
vs_parse_capture(const char *text, VsCapture *capture, GError **error)
{
    static const char *const words[] = {"auto", "live", "staged", NULL};
    int index = parse_word("--capture", text, words, error);
    *capture = index >= 0 ? (VsCapture)index : VS_CAPTURE_AUTO;
    return index >= 0;
}

bool
vs_parse_status(const char *text, VsStatus *status, GError **error)
{
    static const char *const words[] = {"progressing", "accomplished", "failed", NULL};
    int index = parse_word("--status", text, words, error);
    *status = index >= 0 ? (VsStatus)index : VS_STATUS_PROGRESSING;
    return index >= 0;
}

bool
vs_validate_format(const char *text, GError **error)
{
    static const char *const words[] = {"raw", "qcow2", NULL};
    return parse_word("--format", text, words, error) >= 0;
}

bool
vs_validate_instance(const char *text, GError **error)
{
    g_autofree char *quoted = vs_error_quote(text);
    if (*text == '\0' || strcmp(text, "qmp:") == 0 || strcmp(text, "file:") == 0) {
        INVALID(VS_ERROR_INVALID_PARAMETER,
                "instance %s: give a libvirt domain, qmp:SOCKET or file:PATH", quoted);
        return false;
    }
    if (g_str_has_prefix(text, "qmp:") || g_str_has_prefix(text, "file:"))
        return true;
    struct stat status;
    bool is_there = stat(text, &status) == 0;
    if (vs_id_is_valid(text, "i-"))
        INVALID(VS_ERROR_NO_SUCH_INSTANCE,
                "%s: an instance is named by its domain or socket: did you mean the name that"
                " `virtsnap instances` shows for it?",
                quoted);
    else if (is_there && S_ISSOCK(status.st_mode))
        INVALID(VS_ERROR_NO_SUCH_INSTANCE, "%s: it is a socket: did you mean 'qmp:%s?", quoted,
                quoted + 1);
    else if (strchr(text, '/') != NULL) // which no domain's name has
        INVALID(VS_ERROR_NO_SUCH_INSTANCE, "%s: it is a path: did you mean 'file:%s?", quoted,
                quoted + 1);
    else
        return true;
    return false;
}
