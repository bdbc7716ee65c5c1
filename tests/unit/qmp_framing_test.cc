// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "qmp/client.h"
#include "qmp/framing.h"

namespace
{

// Pushes bytes in pieces of the given sizes (the last one repeats) and gives the messages' text;
// "!" ends it at an error.
std::vector<std::string>
Frame(const std::string &bytes, const std::vector<size_t> &sizes, size_t max_bytes = 1 << 16)
{
    g_autoptr(VsQmpFramer) framer = vs_qmp_framer_new(max_bytes);
    std::vector<std::string> texts;
    size_t offset = 0;
    for (size_t i = 0; offset < bytes.size(); i++) {
        size_t size = std::min(sizes[std::min(i, sizes.size() - 1)], bytes.size() - offset);
        g_autoptr(GError) error = nullptr;
        if (!vs_qmp_framer_push(framer, bytes.data() + offset, size, &error)) {
            EXPECT_TRUE(g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL));
            texts.emplace_back("!");
            return texts;
        }
        offset += size;
        for (json_object *message = nullptr;;) {
            if (!vs_qmp_framer_next(framer, &message, &error)) {
                EXPECT_TRUE(g_error_matches(error, VS_QMP_ERROR, VS_QMP_ERROR_PROTOCOL));
                EXPECT_EQ(message, nullptr);
                texts.emplace_back("!");
                return texts;
            }
            if (message == nullptr)
                break;
            texts.emplace_back(json_object_to_json_string_ext(message, JSON_C_TO_STRING_PLAIN));
            json_object_put(message);
        }
    }
    return texts;
}

using Texts = std::vector<std::string>;

TEST(QmpFraming, LineBecomesAMessage)
{
    EXPECT_EQ(Frame("{\"a\":1}\r\n", {100}), (Texts{"{\"a\":1}"}));
    EXPECT_EQ(Frame("{\"a\":1}\n", {100}), (Texts{"{\"a\":1}"}));
    EXPECT_EQ(Frame(" {\"a\" : [ 1 ] } \r\n", {100}), (Texts{"{\"a\":[1]}"}));
}

TEST(QmpFraming, IncompleteLineIsNoMessageYet)
{
    EXPECT_EQ(Frame("{\"a\":1}", {100}), Texts());
    EXPECT_EQ(Frame("{\"a\":1}\r", {100}), Texts());
}

TEST(QmpFraming, CoalescedLinesAreSeparateMessages)
{
    EXPECT_EQ(Frame("{\"a\":1}\r\n{\"b\":2}\n{\"c\":3}\r\n{\"d\"", {1000}),
              (Texts{"{\"a\":1}", "{\"b\":2}", "{\"c\":3}"}));
}

TEST(QmpFraming, AnyCutOfTheStreamGivesTheSameMessages)
{
    std::random_device device;
    unsigned seed = device();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    for (int round = 0; round < 200; round++) {
        Texts expected;
        std::string stream;
        for (unsigned i = 0, count = random() % 20; i < count; i++) {
            expected.push_back("{\"x\":\"" + std::string(random() % 300, 'a') + "\"}");
            stream += expected.back() + (random() % 2 == 0 ? "\r\n" : "\n");
        }
        std::vector<size_t> sizes;
        for (int i = 0; i < 30; i++)
            sizes.push_back(1 + random() % (1u << random() % 10));
        EXPECT_EQ(Frame(stream, sizes), expected);
    }
}

TEST(QmpFraming, WhatIsNotOneJsonObjectIsAnError)
{
    for (const std::string &line :
         {std::string(), std::string(" "), std::string("[]"), std::string("1"),
          std::string("\"x\""), std::string("null"), std::string("{"), std::string("{\"a\":1"),
          std::string("{} {}"), std::string("{},"), std::string("{\"a\":1,}"),
          std::string("{\"a\":\"\xff\"}"), std::string("{\"a\":\"\xc3\"}"), std::string("{a:1}"),
          std::string("{\"a\":\0}", 7), std::string("{}\0", 3), std::string("greetings")}) {
        SCOPED_TRACE(line);
        EXPECT_EQ(Frame(line + "\n", {1000}), Texts{"!"});
    }
}

TEST(QmpFraming, MessagesBeforeTheErrorAreDeliveredAndNothingAfterIt)
{
    EXPECT_EQ(Frame("{\"a\":1}\nrubbish\n{\"b\":1}\n", {1000}), (Texts{"{\"a\":1}", "!"}));
}

TEST(QmpFraming, ErrorStays)
{
    g_autoptr(VsQmpFramer) framer = vs_qmp_framer_new(100);
    json_object *message = nullptr;
    ASSERT_TRUE(vs_qmp_framer_push(framer, "x\n", 2, nullptr));
    EXPECT_FALSE(vs_qmp_framer_next(framer, &message, nullptr));
    EXPECT_FALSE(vs_qmp_framer_push(framer, "{}\n", 3, nullptr));
    EXPECT_FALSE(vs_qmp_framer_next(framer, &message, nullptr));
    EXPECT_EQ(message, nullptr);
}

TEST(QmpFraming, LineOfExactlyTheBoundPassesAndOneMoreByteDoesNot)
{
    std::string fits = "{\"x\":\"" + std::string(92, 'a') + "\"}";
    ASSERT_EQ(fits.size(), 100u);
    std::string longer = "{\"x\":\"" + std::string(93, 'a') + "\"}";
    for (size_t piece : {1u, 7u, 1000u}) {
        EXPECT_EQ(Frame(fits + "\n" + fits + "\n", {piece}, 100), (Texts{fits, fits}));
        EXPECT_EQ(Frame(longer + "\n", {piece}, 100), Texts{"!"});
    }
}

TEST(QmpFraming, EndlessLineIsRefusedAtTheBoundAndNotAtItsEnd)
{
    g_autoptr(VsQmpFramer) framer = vs_qmp_framer_new(1000);
    std::string piece(100, 'x');
    for (int i = 0; i < 10; i++)
        EXPECT_TRUE(vs_qmp_framer_push(framer, piece.data(), piece.size(), nullptr));
    EXPECT_FALSE(vs_qmp_framer_push(framer, "x", 1, nullptr));
}

TEST(QmpFraming, NestingIsBounded)
{
    // The message's own object is the first level.
    auto nested = [](int depth) {
        return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
    };
    EXPECT_EQ(Frame(nested(VS_QMP_MESSAGE_MAX_DEPTH - 4) + "\n", {1000}),
              Texts{nested(VS_QMP_MESSAGE_MAX_DEPTH - 4)});
    EXPECT_EQ(Frame(nested(VS_QMP_MESSAGE_MAX_DEPTH) + "\n", {1000}), Texts{"!"});
    EXPECT_EQ(Frame(nested(20000) + "\n", {100000}), Texts{"!"});
}

TEST(QmpFraming, LongStreamIsTakenInLinearTimeAndBoundedMemory)
{
    // One line in a million pieces: quadratic scanning or moving would take minutes.
    constexpr size_t kSize = 4 << 20;
    EXPECT_EQ(Frame("{\"x\":\"" + std::string(kSize, 'a') + "\"}\n", {4}, 8 << 20).size(), 1u);
    std::string many;
    for (int i = 0; i < 200000; i++)
        many += "{\"x\":1}\n";
    EXPECT_EQ(Frame(many, {many.size()}).size(), 200000u);
}

} // namespace
