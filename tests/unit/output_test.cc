// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/output.h"
#include "plugin/cli/progress-bar.h"
#include "plugin/error.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace
{

VsSnapshot *
Example()
{
    VsManifest *manifest = vs_manifest_new();
    manifest->id = g_strdup("s-0123456789abcdefghij");
    manifest->group = g_strdup("ssg-0123456789abcdefghij");
    manifest->name = g_strdup("nightly");
    manifest->kind = g_strdup("manual");
    manifest->mode = g_strdup("full");
    manifest->mode_reason = g_strdup("first");
    manifest->consistency = g_strdup("crash");
    manifest->created_at_us = INT64_C(1767323045999999);
    manifest->virtual_size_bytes = UINT64_MAX;
    manifest->read_bytes = 65536;
    manifest->new_bytes = 1234;
    manifest->instance_id = g_strdup("i-00000000000000000000");
    manifest->instance_name = g_strdup("qmp:/x");
    manifest->disk_id = g_strdup("d-00000000000000000000");
    manifest->disk_target = g_strdup("vda");
    manifest->disk_source = g_strdup("/images/a.qcow2");
    VsSnapshot *snapshot = vs_snapshot_new(manifest);
    snapshot->status = VS_STATUS_ACCOMPLISHED;
    snapshot->progress_percent = 100;
    snapshot->remaining_seconds = 0;
    g_hash_table_insert(snapshot->tags, g_strdup("b"), g_strdup("2"));
    g_hash_table_insert(snapshot->tags, g_strdup("a"), g_strdup("1"));
    return snapshot;
}

std::string
Text(struct json_object *object)
{
    std::string text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
                                                                  JSON_C_TO_STRING_NOSLASHESCAPE);
    json_object_put(object);
    return text;
}

TEST(Output, SnapshotHasTheMembersOfTheContract)
{
    g_autoptr(VsSnapshot) snapshot = Example();
    EXPECT_EQ(Text(vs_output_snapshot(snapshot)),
              "{\"id\":\"s-0123456789abcdefghij\",\"group\":\"ssg-0123456789abcdefghij\","
              "\"name\":\"nightly\",\"description\":null,\"status\":\"accomplished\","
              "\"progress\":100,\"remaining_seconds\":0,\"created_at\":\"2026-01-02T03:04:05Z\","
              "\"expires_at\":null,\"instance\":{\"id\":\"i-00000000000000000000\","
              "\"name\":\"qmp:/x\"},\"disk\":{\"id\":\"d-00000000000000000000\","
              "\"target\":\"vda\",\"source\":\"/images/a.qcow2\"},\"kind\":\"manual\","
              "\"mode\":\"full\",\"mode_reason\":\"first\",\"parent\":null,"
              "\"virtual_size\":18446744073709551615,\"read_bytes\":65536,\"new_bytes\":1234,"
              "\"tags\":{\"a\":\"1\",\"b\":\"2\"},\"consistency\":\"crash\",\"frozen_ms\":null,"
              "\"error\":null}");
}

TEST(Output, TimeOfFreezingIsInWholeMillisecondsAndNeverRoundedToNone)
{
    g_autoptr(VsSnapshot) snapshot = Example();
    const std::pair<int64_t, const char *> times[] = {
        {0, "null"}, {1, "1"}, {1000, "1"}, {1001, "2"}, {INT64_MAX, "9223372036854776"}};
    for (auto [frozen_us, shown] : times) {
        snapshot->manifest->frozen_us = frozen_us;
        EXPECT_NE(
            Text(vs_output_snapshot(snapshot)).find(std::string("\"frozen_ms\":") + shown + ","),
            std::string::npos)
            << frozen_us;
    }
}

TEST(Output, WhatIsNotKnownIsNull)
{
    g_autoptr(VsSnapshot) snapshot = vs_snapshot_new(vs_manifest_new());
    snapshot->status = VS_STATUS_FAILED;
    snapshot->error = g_strdup("why");
    struct json_object *object = vs_output_snapshot(snapshot);
    for (const char *key : {"id", "group", "name", "remaining_seconds", "created_at", "expires_at",
                            "instance", "kind", "parent"}) {
        struct json_object *value = json_object_new_int(1);
        struct json_object *found = value;
        EXPECT_TRUE(json_object_object_get_ex(object, key, &found)) << key;
        EXPECT_EQ(found, nullptr) << key;
        json_object_put(value);
    }
    EXPECT_NE(Text(object).find("\"status\":\"failed\""), std::string::npos);
    g_autoptr(GString) lines = g_string_new(nullptr);
    vs_output_snapshot_lines(snapshot, lines);
    EXPECT_NE(strstr(lines->str, "why"), nullptr);
}

TEST(Output, JsonIsValidTextWhateverThePathIs)
{
    EXPECT_EQ(Text(vs_output_string("a\xff\n")), "\"a\\\\xff\\\\x0a\"");
    EXPECT_EQ(Text(vs_output_string("a\n\"夜")), "\"a\\n\\\"夜\"");
    EXPECT_EQ(vs_output_string(nullptr), nullptr);
}

TEST(Output, ErrorHasCodeAndMessage)
{
    g_autoptr(GError) error = g_error_new_literal(VS_ERROR, VS_ERROR_NO_SUCH_DISK, "no \"x\"");
    EXPECT_EQ(Text(vs_output_error(error)),
              "{\"code\":\"InvalidDiskId.NotFound\",\"message\":\"no \\\"x\\\"\"}");
}

std::string
Size(uint64_t bytes)
{
    g_autofree char *text = vs_format_size(bytes);
    return text;
}

TEST(Output, SizesAreReadable)
{
    EXPECT_EQ(Size(0), "0 B");
    EXPECT_EQ(Size(1023), "1023 B");
    EXPECT_EQ(Size(1024), "1.0 KiB");
    EXPECT_EQ(Size(1536), "1.5 KiB");
    EXPECT_EQ(Size((1u << 20) - 1), "1.0 MiB");
    EXPECT_EQ(Size(UINT64_C(3) << 40), "3.0 TiB");
    EXPECT_EQ(Size(UINT64_MAX), "16.0 EiB");
}

std::string
Seconds(int64_t seconds)
{
    g_autofree char *text = vs_format_seconds(seconds);
    return text;
}

TEST(Output, DurationsAreReadable)
{
    EXPECT_EQ(Seconds(-1), "-");
    EXPECT_EQ(Seconds(0), "0:00");
    EXPECT_EQ(Seconds(61), "1:01");
    EXPECT_EQ(Seconds(3599), "59:59");
    EXPECT_EQ(Seconds(3600), "1:00:00");
    EXPECT_EQ(Seconds(INT64_C(100) * 3600 + 61), "100:01:01");
}

TEST(Output, TableColumnsAreAsWideAsTheirWidestCell)
{
    const char *const titles[] = {"A", "LONG", "C", nullptr};
    g_autoptr(VsTable) table = vs_table_new(titles, false);
    const char *const first[] = {"xyz", nullptr, "1"};
    const char *const second[] = {"夜", "a\nb", ""};
    vs_table_add(table, first);
    vs_table_add(table, second);
    g_autoptr(GString) text = g_string_new(nullptr);
    vs_table_print(table, text);
    EXPECT_STREQ(text->str, "A    LONG    C\n"
                            "xyz  -       1\n"
                            "夜   a\\x0ab  -\n");
}

TEST(Output, LongCellsAreShortenedForATerminalOnly)
{
    const char *const titles[] = {"A", nullptr};
    const std::string name(128, 'x');
    const char *const row[] = {name.c_str()};
    for (bool whole : {false, true}) {
        g_autoptr(VsTable) table = vs_table_new(titles, whole);
        vs_table_add(table, row);
        g_autoptr(GString) text = g_string_new(nullptr);
        vs_table_print(table, text);
        EXPECT_EQ(strstr(text->str, name.c_str()) != nullptr, whole) << text->str;
    }
}

TEST(Output, AGroupIsAnArrayHoweverFewMembersItHas)
{
    g_autoptr(GPtrArray) snapshots =
        g_ptr_array_new_with_free_func(reinterpret_cast<GDestroyNotify>(vs_snapshot_free));
    g_ptr_array_add(snapshots, Example());
    for (bool is_group : {false, true}) {
        g_autoptr(GString) text = g_string_new(nullptr);
        struct json_object *document = nullptr;
        vs_output_found(snapshots, is_group, &document, text);
        EXPECT_EQ(json_object_is_type(document, json_type_array), is_group);
        EXPECT_NE(strstr(text->str, "s-0123456789abcdefghij"), nullptr);
        json_object_put(document);
    }
}

std::string
Bar(uint64_t done, uint64_t total, unsigned columns)
{
    g_autofree char *line = vs_progress_bar_format(done, total, 1024, 61, columns);
    return line;
}

TEST(Output, ProgressBarShowsShareRateAndRemainingTime)
{
    EXPECT_EQ(Bar(512, 1024, 60), "[######......]  50%  512 B of 1.0 KiB  1.0 KiB/s  1:01 left");
    EXPECT_EQ(Bar(1024, 1024, 30).substr(0, 6), "100%  ");
}

TEST(Output, ProgressBarFitsEveryTerminal)
{
    for (unsigned columns = 0; columns < 300; columns++) {
        for (uint64_t done : {UINT64_C(0), UINT64_C(1) << 33, UINT64_C(1) << 40, UINT64_MAX}) {
            std::string line = Bar(done, UINT64_C(1) << 40, columns);
            EXPECT_LE(line.size(), columns > 0 ? columns - 1 : 0);
        }
    }
    EXPECT_NE(Bar(5, 0, 80).find("  0%"), std::string::npos);
}

} // namespace
