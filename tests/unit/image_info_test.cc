// SPDX-License-Identifier: LGPL-2.1-or-later
// What `qemu-img info` prints, as text.
#include <gtest/gtest.h>
#include <string>

#include "plugin/hypervisor/image-info.h"
#include "qmp/block.h"

namespace
{

class ImageInfo : public testing::Test
{
  protected:
    ~ImageInfo() override
    {
        g_clear_pointer(&chain_, g_ptr_array_unref);
        g_clear_error(&error_);
    }

    bool
    parse(const std::string &text)
    {
        g_clear_pointer(&chain_, g_ptr_array_unref);
        g_clear_error(&error_);
        chain_ = vs_image_info_parse(text.c_str(), &error_);
        EXPECT_EQ(chain_ == nullptr, error_ != nullptr) << text;
        return chain_ != nullptr;
    }

    const VsImageInfo &
    image(unsigned index) const
    {
        return *static_cast<const VsImageInfo *>(g_ptr_array_index(chain_, index));
    }

    const VsQmpBitmap &
    bitmap(unsigned index) const
    {
        return *static_cast<const VsQmpBitmap *>(g_ptr_array_index(image(0).bitmaps, index));
    }

    GPtrArray *chain_ = nullptr;
    GError *error_ = nullptr;
};

// As QEMU 7.2 prints it, shortened by what nobody reads.
const char *const kChain = R"([
  {"backing-filename-format": "raw", "virtual-size": 67108864, "filename": "/vm/top.qcow2",
   "cluster-size": 65536, "format": "qcow2", "actual-size": 212992,
   "format-specific": {"type": "qcow2", "data": {"compat": "1.1", "compression-type": "zlib",
     "lazy-refcounts": false, "refcount-bits": 16, "corrupt": false, "extended-l2": false,
     "bitmaps": [
       {"flags": ["auto"], "name": "recording", "granularity": 65536},
       {"flags": [], "name": "disabled", "granularity": 4096},
       {"flags": ["in-use", "auto"], "name": "torn", "granularity": 65536}]}},
   "full-backing-filename": "/vm/base.raw", "backing-filename": "base.raw", "dirty-flag": false},
  {"virtual-size": 1048576, "filename": "/vm/base.raw", "format": "raw", "actual-size": 4096,
   "dirty-flag": false}])";

TEST_F(ImageInfo, ChainIsReadTopFirst)
{
    ASSERT_TRUE(parse(kChain));
    ASSERT_EQ(chain_->len, 2u);
    EXPECT_STREQ(image(0).filename, "/vm/top.qcow2");
    EXPECT_STREQ(image(0).format, "qcow2");
    EXPECT_STREQ(image(0).compat, "1.1");
    EXPECT_EQ(image(0).virtual_size_bytes, 67108864u);
    EXPECT_FALSE(image(0).is_encrypted);
    EXPECT_STREQ(image(1).filename, "/vm/base.raw");
    EXPECT_STREQ(image(1).format, "raw");
    EXPECT_EQ(image(1).compat, nullptr);
    EXPECT_EQ(image(1).virtual_size_bytes, 1048576u);
    EXPECT_EQ(image(1).bitmaps->len, 0u);
}

TEST_F(ImageInfo, FlagsTellABitmapsState)
{
    ASSERT_TRUE(parse(kChain));
    ASSERT_EQ(image(0).bitmaps->len, 3u);
    EXPECT_STREQ(bitmap(0).name, "recording");
    EXPECT_TRUE(bitmap(0).recording && !bitmap(0).inconsistent && bitmap(0).persistent);
    EXPECT_EQ(bitmap(0).granularity_bytes, 65536u);
    EXPECT_FALSE(bitmap(1).recording || bitmap(1).inconsistent);
    EXPECT_EQ(bitmap(1).granularity_bytes, 4096u);
    EXPECT_TRUE(bitmap(2).inconsistent);
    EXPECT_FALSE(bitmap(0).busy);
    EXPECT_EQ(bitmap(0).count_bytes, 0u);
}

TEST_F(ImageInfo, EncryptionIsSeen)
{
    ASSERT_TRUE(parse(R"([{"filename": "/a", "format": "luks", "virtual-size": 1,
                          "encrypted": true}])"));
    EXPECT_TRUE(image(0).is_encrypted);
}

TEST_F(ImageInfo, TextThatIsNotAChainIsRefused)
{
    for (const char *text : {"", "{}", "[]", "[1]", "null", "[{}]", "[", "qemu-img: no",
                             "[{\"filename\": \"/a\"}]", R"([{"filename": "/a", "format": "raw"}])",
                             R"([{"filename": "/a", "format": "raw", "virtual-size": -1}])",
                             R"([{"filename": "/a", "format": "raw", "virtual-size": "1"}])",
                             R"([{"filename": 1, "format": "raw", "virtual-size": 1}])",
                             R"([{"filename": "/a", "format": "raw", "virtual-size": 1}, {}])"})
        EXPECT_FALSE(parse(text)) << text;
}

TEST_F(ImageInfo, BitmapThatIsNotWholeIsRefused)
{
    for (const char *bitmap :
         {"1", "{}", R"({"name": "b", "granularity": 65536})",
          R"({"flags": [], "granularity": 65536})", R"({"flags": [], "name": "b"})",
          R"({"flags": [], "name": "b", "granularity": 0})",
          R"({"flags": [], "name": 5, "granularity": 65536})"})
        EXPECT_FALSE(parse(std::string(R"([{"filename": "/a", "format": "qcow2", "virtual-size": 1,
                           "format-specific": {"data": {"bitmaps": [)") +
                           bitmap + "]}}}]"))
            << bitmap;
}

} // namespace
