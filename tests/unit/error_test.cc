// SPDX-License-Identifier: LGPL-2.1-or-later
#include "plugin/error.h"

#include "nbd-export/restore/restore.h"
#include "nbd-export/store/chunk-store.h"
#include "nbd-export/store/repository.h"
#include "qmp/client.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

namespace
{

int
ExitStatus(GQuark domain, int code)
{
    g_autoptr(GError) error = g_error_new_literal(domain, code, "x");
    return vs_error_exit_status(error);
}

std::string
ApiCode(GQuark domain, int code)
{
    g_autoptr(GError) error = g_error_new_literal(domain, code, "x");
    return vs_error_api_code(error);
}

TEST(Error, ExitStatusFollowsTheKindOfError)
{
    for (int code = VS_ERROR_FAILED; code <= VS_ERROR_REPOSITORY_BUSY; code++) {
        int expected = code < VS_ERROR_INVALID_PARAMETER ? 1 : code < VS_ERROR_BUSY ? 2 : 3;
        EXPECT_EQ(ExitStatus(VS_ERROR, code), expected) << code;
    }
}

TEST(Error, EveryKindHasItsOwnApiCode)
{
    std::set<std::string> codes;
    for (int code = VS_ERROR_FAILED; code <= VS_ERROR_REPOSITORY_BUSY; code++)
        EXPECT_TRUE(codes.insert(ApiCode(VS_ERROR, code)).second) << code;
    EXPECT_EQ(ApiCode(VS_ERROR, VS_ERROR_NO_SUCH_SNAPSHOT), "InvalidSnapshotId.NotFound");
    EXPECT_EQ(ApiCode(VS_ERROR, VS_ERROR_BUSY), "IncorrectDiskStatus.CreatingSnapshot");
}

TEST(Error, LowerLayersErrorsAreKnown)
{
    EXPECT_EQ(ExitStatus(VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_BUSY), 3);
    EXPECT_EQ(ExitStatus(VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_MISSING), 1);
    EXPECT_EQ(ApiCode(VS_REPOSITORY_ERROR, VS_REPOSITORY_ERROR_NOT_FOUND),
              "InvalidSnapshotId.NotFound");
    EXPECT_EQ(ApiCode(VS_CHUNK_STORE_ERROR, VS_CHUNK_STORE_ERROR_CORRUPT), "RepositoryDamaged");
    EXPECT_EQ(ApiCode(VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT), "RepositoryDamaged");
    EXPECT_EQ(ApiCode(VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_UNSUPPORTED), "InternalError");
    EXPECT_EQ(ExitStatus(VS_QMP_ERROR, VS_QMP_ERROR_TAKEN), 3);
    EXPECT_EQ(ExitStatus(VS_QMP_ERROR, VS_QMP_ERROR_CONNECT), 1);
    EXPECT_EQ(ExitStatus(VS_RESTORE_ERROR, VS_RESTORE_ERROR_EXISTS), 1);
    EXPECT_EQ(ExitStatus(G_OPTION_ERROR, G_OPTION_ERROR_UNKNOWN_OPTION), 2);
    EXPECT_EQ(ApiCode(G_IO_ERROR, G_IO_ERROR_CANCELLED), "OperationCancelled");
}

TEST(Error, UnknownErrorsAreFailures)
{
    EXPECT_EQ(ExitStatus(g_quark_from_string("somebody-else"), 99), 1);
    EXPECT_EQ(ApiCode(g_quark_from_string("somebody-else"), 99), "InternalError");
    EXPECT_EQ(ExitStatus(VS_ERROR, 999), 1);
}

std::string
Escape(const char *text, size_t max = 1000)
{
    g_autofree char *escaped = vs_error_escape(text, max);
    return escaped;
}

TEST(Error, EscapedTextKeepsWhatCanBeShown)
{
    EXPECT_EQ(Escape("Übung 夜 🙂"), "Übung 夜 🙂");
    EXPECT_EQ(Escape(""), "");
    EXPECT_EQ(Escape(nullptr), "");
}

TEST(Error, EscapedTextHasNoControlCharacters)
{
    EXPECT_EQ(Escape("a\nb\tc\x1b[0m\x7f"), "a\\x0ab\\x09c\\x1b[0m\\x7f");
    EXPECT_EQ(Escape("\xc2\x9b"), "\\u009b");               // C1: another escape
    EXPECT_EQ(Escape("\xe2\x80\xa8"), "\\u2028");           // line separator
    EXPECT_EQ(Escape("\xe2\x80\xae evil"), "\\u202e evil"); // turns the line around
    EXPECT_EQ(Escape("a\xff\xc3"), "a\\xff\\xc3");
}

TEST(Error, EscapedTextIsShortened)
{
    EXPECT_EQ(Escape("abcdef", 3), "abc...");
    EXPECT_EQ(Escape("abc", 3), "abc");
    EXPECT_EQ(Escape("夜夜夜", 2), "夜夜...");
}

TEST(Error, QuotedTextOfAnyLengthIsShort)
{
    g_autofree char *quoted = vs_error_quote(std::string(10000, 'x').c_str());
    EXPECT_LT(strlen(quoted), 100u);
    g_autofree char *plain = vs_error_quote("a b");
    EXPECT_STREQ(plain, "'a b'");
}

TEST(Error, AnyBytesBecomeOneLineOfValidText)
{
    unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    for (int i = 0; i < 20000; i++) {
        std::string text;
        for (unsigned length = random() % 40; length > 0; length--)
            text += static_cast<char>(random() % 255 + 1);
        std::string escaped = Escape(text.c_str());
        ASSERT_TRUE(g_utf8_validate(escaped.c_str(), -1, nullptr));
        for (const char *at = escaped.c_str(); *at != '\0'; at = g_utf8_next_char(at))
            ASSERT_FALSE(g_unichar_iscntrl(g_utf8_get_char(at)));
    }
}

} // namespace
