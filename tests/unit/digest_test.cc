// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>

#include <string>

#include "nbd-export/store/digest.h"

namespace
{

std::string
HexOf(const VsDigest &digest)
{
    char hex[VS_DIGEST_HEX_BYTES];
    vs_digest_to_hex(&digest, hex);
    return hex;
}

VsDigest
DigestOf(const std::string &content)
{
    VsDigest digest;
    vs_digest_compute(content.data(), content.size(), &digest);
    return digest;
}

TEST(Digest, IsSha256)
{
    // FIPS 180-2, appendix B.
    EXPECT_EQ(HexOf(DigestOf("abc")),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(HexOf(DigestOf("")),
              "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Digest, OfPiecesIsThatOfTheWhole)
{
    std::string content(100000, 'x');
    content[77777] = 'y';
    VsDigestStream *stream = vs_digest_stream_new();
    for (size_t at = 0; at < content.size(); at += 777) {
        std::string piece = content.substr(at, 777);
        vs_digest_stream_add(stream, piece.data(), piece.size());
    }
    VsDigest digest;
    vs_digest_stream_finish(stream, &digest);
    vs_digest_stream_free(stream);
    VsDigest whole = DigestOf(content);
    EXPECT_TRUE(vs_digest_equal(&digest, &whole));
}

TEST(Digest, ComesBackFromHex)
{
    VsDigest digest = DigestOf("something");
    VsDigest parsed;
    ASSERT_TRUE(vs_digest_from_hex(HexOf(digest).c_str(), &parsed));
    EXPECT_TRUE(vs_digest_equal(&digest, &parsed));
}

TEST(Digest, HasOneSpelling)
{
    std::string good(64, 'a');
    VsDigest parsed;
    EXPECT_TRUE(vs_digest_from_hex(good.c_str(), &parsed));
    EXPECT_FALSE(vs_digest_from_hex(std::string(64, 'A').c_str(), &parsed));
    EXPECT_FALSE(vs_digest_from_hex(std::string(63, 'a').c_str(), &parsed));
    EXPECT_FALSE(vs_digest_from_hex(std::string(65, 'a').c_str(), &parsed));
    EXPECT_FALSE(vs_digest_from_hex("", &parsed));
    for (char wrong : {'g', ' ', '-', '\n', '/', ':', '\x80'}) {
        std::string bad = good;
        bad[63] = wrong;
        EXPECT_FALSE(vs_digest_from_hex(bad.c_str(), &parsed)) << wrong;
    }
}

TEST(Digest, ComparesAsBytes)
{
    VsDigest low = {};
    VsDigest high = {};
    high.bytes[31] = 0x80;
    EXPECT_TRUE(vs_digest_is_zero(&low));
    EXPECT_FALSE(vs_digest_is_zero(&high));
    EXPECT_LT(vs_digest_compare(&low, &high), 0);
    EXPECT_GT(vs_digest_compare(&high, &low), 0);
    EXPECT_EQ(vs_digest_compare(&high, &high), 0);
    low.bytes[0] = 1;
    EXPECT_GT(vs_digest_compare(&low, &high), 0);
}

} // namespace
