// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "nbd-export/store/codec.h"

namespace
{

class Codec : public ::testing::Test
{
  protected:
    Codec() : codec_(vs_codec_new(VS_CODEC_ZSTD_LEVEL))
    {
    }
    ~Codec() override
    {
        vs_codec_free(codec_);
    }

    VsCoding
    Encode(const std::string &raw, std::string *stored)
    {
        const void *bytes = nullptr;
        size_t length = 0;
        VsCoding coding = vs_codec_encode(codec_, raw.data(), raw.size(), &bytes, &length);
        stored->assign(static_cast<const char *>(bytes), length);
        return coding;
    }

    // The error's message; empty: it was decoded to raw.
    std::string
    Decode(VsCoding coding, const std::string &stored, const std::string &raw)
    {
        VsDigest digest;
        vs_digest_compute(raw.data(), raw.size(), &digest);
        std::vector<char> out(raw.size() + 1, 'z');
        GError *error = nullptr;
        iovec from = {const_cast<char *>(stored.data()), stored.size()};
        iovec to = {out.data(), raw.size()};
        if (!vs_codec_decode(codec_, coding, from, to, &digest, &error)) {
            EXPECT_TRUE(g_error_matches(error, VS_CODEC_ERROR, VS_CODEC_ERROR_CORRUPT));
            std::string message = error->message;
            g_error_free(error);
            return message;
        }
        EXPECT_EQ(std::string(out.data(), raw.size()), raw);
        EXPECT_EQ(out[raw.size()], 'z') << "wrote beyond the end";
        return "";
    }

    VsCodec *codec_;
};

std::string
RandomBytes(size_t length, unsigned seed)
{
    std::mt19937 random(seed);
    std::string bytes(length, 0);
    for (char &byte : bytes) {
        byte = static_cast<char>(random());
    }
    return bytes;
}

TEST_F(Codec, GivesBackWhatItWasGiven)
{
    for (size_t length : {1, 2, 15, 16, 17, 511, 4096, 65536, 1 << 20, 4 << 20}) {
        std::string stored;
        std::string text;
        for (size_t i = 0; text.size() < length; i++) {
            text += std::to_string(i % 977) + ",";
        }
        text.resize(length);
        VsCoding coding = Encode(text, &stored);
        EXPECT_EQ(Decode(coding, stored, text), "") << length;
        EXPECT_LE(stored.size(), length);
        std::string noise = RandomBytes(length, 7);
        coding = Encode(noise, &stored);
        EXPECT_EQ(Decode(coding, stored, noise), "") << length;
    }
}

TEST_F(Codec, StoresAsItIsWhatDoesNotShrinkByASixteenth)
{
    std::string noise = RandomBytes(65536, 1);
    const void *stored = nullptr;
    size_t length = 0;
    EXPECT_EQ(vs_codec_encode(codec_, noise.data(), noise.size(), &stored, &length),
              VS_CODING_PLAIN);
    EXPECT_EQ(stored, noise.data()) << "copied without need";
    EXPECT_EQ(length, noise.size());

    std::string mostly = noise;
    mostly.replace(0, 2048, 2048, 'a'); // a 32nd
    std::string coded;
    EXPECT_EQ(Encode(mostly, &coded), VS_CODING_PLAIN);
    mostly.replace(0, 8192, 8192, 'a'); // an eighth
    EXPECT_EQ(Encode(mostly, &coded), VS_CODING_ZSTD);
    EXPECT_LE(coded.size(), 65536u - 4096u);
}

TEST_F(Codec, NeverDecodesDamage)
{
    std::string text(3000, 'q');
    for (size_t i = 0; i < text.size(); i += 7) {
        text[i] = static_cast<char>('a' + i % 23);
    }
    std::string stored;
    ASSERT_EQ(Encode(text, &stored), VS_CODING_ZSTD);
    for (size_t at = 0; at < stored.size(); at++) {
        for (int bit = 0; bit < 8; bit++) {
            std::string damaged = stored;
            damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
            // A flip that decodes to the same bytes is no damage to the object; Decode sees that
            // they are the same.
            Decode(VS_CODING_ZSTD, damaged, text);
        }
        EXPECT_NE(Decode(VS_CODING_ZSTD, stored.substr(0, at), text), "") << at;
    }
    std::string noise = RandomBytes(500, 3);
    for (size_t at = 0; at < noise.size(); at++) {
        std::string damaged = noise;
        damaged[at] = static_cast<char>(damaged[at] ^ 1);
        EXPECT_NE(Decode(VS_CODING_PLAIN, damaged, noise), "") << at;
    }
}

TEST_F(Codec, RefusesAFrameOfAnotherLength)
{
    std::string text(5000, 'a');
    std::string stored;
    ASSERT_EQ(Encode(text, &stored), VS_CODING_ZSTD);
    EXPECT_NE(Decode(VS_CODING_ZSTD, stored, text + "a"), "");
    EXPECT_NE(Decode(VS_CODING_ZSTD, stored, text.substr(1)), "");
    EXPECT_NE(Decode(VS_CODING_PLAIN, text, text + "a"), "");
    EXPECT_NE(Decode(VS_CODING_PLAIN, text + "a", text), "");
    EXPECT_NE(Decode(static_cast<VsCoding>(2), text, text), "");
}

TEST_F(Codec, DecodesPlainInPlace)
{
    std::string noise = RandomBytes(4096, 9);
    VsDigest digest;
    vs_digest_compute(noise.data(), noise.size(), &digest);
    GError *error = nullptr;
    iovec place = {&noise[0], noise.size()};
    EXPECT_TRUE(vs_codec_decode(codec_, VS_CODING_PLAIN, place, place, &digest, &error));
    digest.bytes[0] ^= 1;
    EXPECT_FALSE(vs_codec_decode(codec_, VS_CODING_PLAIN, place, place, &digest, &error));
    g_clear_error(&error);
}

} // namespace
