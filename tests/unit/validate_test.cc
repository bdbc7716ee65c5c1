// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/cli/validate.h"
#include "plugin/error.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <string>
#include <vector>

namespace
{

std::string
Repeat(const std::string &text, unsigned count)
{
    std::string all;
    for (unsigned i = 0; i < count; i++)
        all += text;
    return all;
}

// The error's code, or nothing; any message must be one short line.
template <typename Function>
std::optional<VsError>
CodeOf(Function function)
{
    g_autoptr(GError) error = nullptr;
    bool ok = function(&error);
    EXPECT_EQ(ok, error == nullptr);
    if (error == nullptr)
        return std::nullopt;
    EXPECT_EQ(error->domain, VS_ERROR);
    EXPECT_LT(strlen(error->message), 600u);
    EXPECT_EQ(strchr(error->message, '\n'), nullptr);
    EXPECT_TRUE(g_utf8_validate(error->message, -1, nullptr));
    return static_cast<VsError>(error->code);
}

std::optional<VsError>
Name(const std::string &name)
{
    return CodeOf([&](GError **error) { return vs_validate_name(name.c_str(), error); });
}

std::optional<VsError>
Description(const std::string &text)
{
    return CodeOf([&](GError **error) { return vs_validate_description(text.c_str(), error); });
}

std::optional<VsError>
Tags(const std::vector<std::string> &texts, GHashTable **tags = nullptr)
{
    std::vector<char *> pointers;
    for (const std::string &text : texts)
        pointers.push_back(const_cast<char *>(text.c_str()));
    pointers.push_back(nullptr);
    return CodeOf([&](GError **error) {
        GHashTable *table = vs_parse_tags(pointers.data(), error);
        bool ok = table != nullptr;
        if (tags != nullptr)
            *tags = g_steal_pointer(&table);
        if (table != nullptr)
            g_hash_table_unref(table);
        return ok;
    });
}

TEST(Validate, NamesOfOneToOneHundredTwentyEightCharactersAreGood)
{
    for (const std::string &name :
         {std::string("a"), std::string("nightly 1"), std::string("Übung 夜 🙂"),
          std::string(128, 'x'), Repeat("🙂", 128), std::string("see http://x"),
          std::string("-")})
        EXPECT_EQ(Name(name), std::nullopt) << name;
}

TEST(Validate, BadNamesAreRefused)
{
    for (const std::string &name :
         {std::string(), std::string(129, 'x'), Repeat("🙂", 129), std::string(10000, 'x'),
          std::string("a\nb"), std::string("a\x1b[31m"), std::string("\x7f"),
          std::string("\xc2\x85"), std::string("\xff"), std::string("a\xc3"),
          std::string("\xed\xa0\x80"), std::string("http://x"), std::string("https://x")})
        EXPECT_EQ(Name(name), VS_ERROR_INVALID_NAME) << name;
}

TEST(Validate, DescriptionsMayBeEmptyAndTwiceAsLong)
{
    EXPECT_EQ(Description(""), std::nullopt);
    EXPECT_EQ(Description(std::string(256, 'x')), std::nullopt);
    for (const std::string &text : {std::string(257, 'x'), std::string("a\tb"), std::string("\xff"),
                                    std::string("https://x")})
        EXPECT_EQ(Description(text), VS_ERROR_INVALID_DESCRIPTION) << text;
}

TEST(Validate, TagsAreSplitAtTheFirstEqualsSign)
{
    g_autoptr(GHashTable) tags = nullptr;
    ASSERT_EQ(Tags({"a=b=c", "empty=", "schlüssel=wert"}, &tags), std::nullopt);
    EXPECT_EQ(g_hash_table_size(tags), 3u);
    EXPECT_STREQ(static_cast<char *>(g_hash_table_lookup(tags, "a")), "b=c");
    EXPECT_STREQ(static_cast<char *>(g_hash_table_lookup(tags, "empty")), "");
    EXPECT_STREQ(static_cast<char *>(g_hash_table_lookup(tags, "schlüssel")), "wert");
}

TEST(Validate, NoTagsAreAnEmptyTable)
{
    g_autoptr(GError) error = nullptr;
    g_autoptr(GHashTable) tags = vs_parse_tags(nullptr, &error);
    ASSERT_NE(tags, nullptr);
    EXPECT_EQ(g_hash_table_size(tags), 0u);
}

TEST(Validate, BadTagsAreRefusedWithWhatIsBad)
{
    EXPECT_EQ(Tags({"noequals"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({"=v"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({std::string(129, 'k') + "=v"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({"aliyunx=v"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({"acs:x=v"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({"http://x=v"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({"k\x01=v"}), VS_ERROR_INVALID_TAG_KEY);
    EXPECT_EQ(Tags({"k=" + std::string(129, 'v')}), VS_ERROR_INVALID_TAG_VALUE);
    EXPECT_EQ(Tags({"k=\xfe"}), VS_ERROR_INVALID_TAG_VALUE);
    EXPECT_EQ(Tags({"k=acs:v"}), VS_ERROR_INVALID_TAG_VALUE);
    EXPECT_EQ(Tags({"k=v", "k=w"}), VS_ERROR_DUPLICATE_TAG_KEY);
}

TEST(Validate, TwentyTagsAreTheMost)
{
    std::vector<std::string> texts;
    for (int i = 0; i < 20; i++)
        texts.push_back("k" + std::to_string(i) + "=v");
    EXPECT_EQ(Tags(texts), std::nullopt);
    texts.push_back("one=more");
    EXPECT_EQ(Tags(texts), VS_ERROR_INVALID_PARAMETER);
}

TEST(Validate, RetentionIsForeverOrDays)
{
    auto parse = [](const char *text, int64_t *us) {
        return CodeOf([&](GError **error) { return vs_parse_retention(text, us, error); });
    };
    int64_t us = -1;
    EXPECT_EQ(parse("forever", &us), std::nullopt);
    EXPECT_EQ(us, 0);
    EXPECT_EQ(parse("1d", &us), std::nullopt);
    EXPECT_EQ(us, INT64_C(86400000000));
    EXPECT_EQ(parse("65536d", &us), std::nullopt);
    EXPECT_EQ(us, INT64_C(65536) * INT64_C(86400000000));
    for (const char *text : {"", "d", "0d", "65537d", "-1d", "+1d", " 1d", "1 d", "1D", "1", "1h",
                             "1.5d", "99999999999999999999999d", "Forever", "1d1d", "0x1d"})
        EXPECT_EQ(parse(text, &us), VS_ERROR_INVALID_RETENTION) << text;
}

std::optional<uint64_t>
Size(const std::string &text)
{
    uint64_t bytes = 0;
    auto code =
        CodeOf([&](GError **error) { return vs_parse_size("--x", text.c_str(), &bytes, error); });
    if (!code)
        return bytes;
    EXPECT_EQ(*code, VS_ERROR_INVALID_PARAMETER);
    return std::nullopt;
}

TEST(Validate, SizesAreBytesWithBinarySuffixes)
{
    EXPECT_EQ(Size("1"), 1u);
    EXPECT_EQ(Size("0010"), 10u);
    EXPECT_EQ(Size("1K"), 1024u);
    EXPECT_EQ(Size("3M"), 3u << 20);
    EXPECT_EQ(Size("2G"), UINT64_C(2) << 30);
    EXPECT_EQ(Size("1T"), UINT64_C(1) << 40);
    EXPECT_EQ(Size("9223372036854775807"), UINT64_C(9223372036854775807));
    EXPECT_EQ(Size("8388607T"), UINT64_C(8388607) << 40);
    for (const char *text :
         {"", "0", "0K", "K", "-1", "+1", " 1", "1 ", "1k", "1KB", "1KK", "1.5M", "0x10", "1e3",
          "9223372036854775808", "18446744073709551616", "8388608T", "99999999999999999999T"})
        EXPECT_EQ(Size(text), std::nullopt) << text;
}

TEST(Validate, RandomSizesAgreeWithWideArithmetic)
{
    unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const std::string suffixes = "KMGT";
    for (int i = 0; i < 20000; i++) {
        uint64_t number = random() >> (random() % 64);
        unsigned power = static_cast<unsigned>(random() % 5);
        std::string text = std::to_string(number);
        if (power > 0)
            text += suffixes[power - 1];
        unsigned __int128 wide = static_cast<unsigned __int128>(number) << (10 * power);
        bool good = wide > 0 && wide <= static_cast<unsigned __int128>(INT64_MAX);
        std::optional<uint64_t> expected;
        if (good)
            expected = static_cast<uint64_t>(wide);
        ASSERT_EQ(Size(text), expected) << text;
    }
}

TEST(Validate, ChunkSizesArePowersOfTwoWithinBounds)
{
    for (uint64_t size = 1; size <= (16u << 20); size *= 2) {
        for (uint64_t near : {size - 1, size, size + 1}) {
            uint32_t bytes = 0;
            bool good = near == size && size >= (64u << 10) && size <= (4u << 20);
            auto code = CodeOf([&](GError **error) {
                return vs_parse_chunk_size(std::to_string(near).c_str(), &bytes, error);
            });
            EXPECT_EQ(!code.has_value(), good) << near;
            EXPECT_TRUE(!good || bytes == near);
        }
    }
}

TEST(Validate, PercentagesAreDecimalsAboveZero)
{
    double percent = 0;
    auto parse = [&](const char *text) {
        return CodeOf([&](GError **error) { return vs_parse_percent(text, &percent, error); });
    };
    EXPECT_EQ(parse("100"), std::nullopt);
    EXPECT_EQ(percent, 100);
    EXPECT_EQ(parse("0.5"), std::nullopt);
    EXPECT_EQ(percent, 0.5);
    for (const char *text : {"", ".", "0", "0.0", "100.1", "101", "-1", "+1", "1e1", "nan", "inf",
                             "0x10", " 1", "1%", "1.2.3", "1,5"})
        EXPECT_EQ(parse(text), VS_ERROR_INVALID_PARAMETER) << text;
}

TEST(Validate, WordsAreExact)
{
    VsCapture capture = VS_CAPTURE_AUTO;
    VsStatus status = VS_STATUS_PROGRESSING;
    EXPECT_EQ(CodeOf([&](GError **e) { return vs_parse_capture("staged", &capture, e); }),
              std::nullopt);
    EXPECT_EQ(capture, VS_CAPTURE_STAGED);
    EXPECT_EQ(CodeOf([&](GError **e) { return vs_parse_capture("Live", &capture, e); }),
              VS_ERROR_INVALID_PARAMETER);
    EXPECT_EQ(CodeOf([&](GError **e) { return vs_parse_status("failed", &status, e); }),
              std::nullopt);
    EXPECT_EQ(status, VS_STATUS_FAILED);
    EXPECT_EQ(CodeOf([&](GError **e) { return vs_parse_status("", &status, e); }),
              VS_ERROR_INVALID_PARAMETER);
    EXPECT_EQ(CodeOf([&](GError **e) { return vs_validate_format("qcow2", e); }), std::nullopt);
    EXPECT_EQ(CodeOf([&](GError **e) { return vs_validate_format("vmdk", e); }),
              VS_ERROR_INVALID_PARAMETER);
}

TEST(Validate, OnlyAnInstanceWithoutANameIsAUsageError)
{
    auto code = [](const char *text) {
        return CodeOf([&](GError **error) { return vs_validate_instance(text, error); });
    };
    EXPECT_EQ(code("qmp:/run/x.sock"), std::nullopt);
    EXPECT_EQ(code("web"), std::nullopt);
    EXPECT_EQ(code("file:/x.raw"), std::nullopt);
    EXPECT_EQ(code("/x.raw"), VS_ERROR_NO_SUCH_INSTANCE);
    EXPECT_EQ(code(""), VS_ERROR_INVALID_PARAMETER);
    EXPECT_EQ(code("qmp:"), VS_ERROR_INVALID_PARAMETER);
    EXPECT_EQ(code("file:"), VS_ERROR_INVALID_PARAMETER);
    EXPECT_EQ(code(std::string(10000, 'x').c_str()), std::nullopt); // libvirt knows its names
    for (const char *text : {"i-aaaaaaaaaaaaaaaaaaaa", "./a.qcow2", "/x.raw"}) {
        g_autoptr(GError) error = nullptr;
        EXPECT_FALSE(vs_validate_instance(text, &error)) << text;
        EXPECT_NE(strstr(error->message, "did you mean"), nullptr) << error->message;
    }
}

} // namespace
