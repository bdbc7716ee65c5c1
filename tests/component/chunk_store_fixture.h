// SPDX-License-Identifier: LGPL-2.1-or-later
// What the chunk store's tests share: objects by number, a map to compare with, and calls that
// check their own errors.
#ifndef TESTS_COMPONENT_CHUNK_STORE_FIXTURE_H
#define TESTS_COMPONENT_CHUNK_STORE_FIXTURE_H

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "nbd-export/store/chunk-store.h"
#include "tests/support/faulty_object_store.h"

namespace chunk_store_fixture
{

using support::Fault;
using support::FaultyObjectStore;

struct FreeStore {
    void
    operator()(VsChunkStore *store) const
    {
        vs_chunk_store_free(store);
    }
};
using Store = std::unique_ptr<VsChunkStore, FreeStore>;

struct FreeCodec {
    void
    operator()(VsCodec *codec) const
    {
        vs_codec_free(codec);
    }
};
using Codec = std::unique_ptr<VsCodec, FreeCodec>;

inline Codec
NewCodec()
{
    return Codec(vs_codec_new(VS_CODEC_ZSTD_LEVEL));
}

struct DigestLess {
    bool
    operator()(const VsDigest &a, const VsDigest &b) const
    {
        return vs_digest_compare(&a, &b) < 0;
    }
};
using Model = std::map<VsDigest, std::string, DigestLess>;

inline Store
Open(FaultyObjectStore *objects)
{
    GError *error = nullptr;
    Store store(vs_chunk_store_open(objects->store(), &error));
    g_clear_error(&error);
    return store;
}

// Content of that number: some compressible, some not, some large.
std::string
ContentOf(uint64_t number)
{
    std::mt19937_64 random(number);
    std::string content(1 + random() % 3000, 0);
    for (char &byte : content) {
        byte = static_cast<char>(number % 2 == 0 ? random() : 'a' + random() % 3);
    }
    return content;
}

inline bool
Put(VsChunkStore *store, VsCodec *codec, const std::string &content, VsDigest *digest,
    uint64_t *added = nullptr)
{
    VsChunkAccess access = {store, codec, 0};
    GError *error = nullptr;
    bool done = vs_chunk_store_put(&access, VS_OBJECT_CHUNK, content.data(), content.size(), digest,
                                   &error);
    EXPECT_EQ(done, error == nullptr);
    g_clear_error(&error);
    if (added != nullptr) {
        *added = access.added_bytes;
    }
    return done;
}

// -1: read as it must be; else the error's code. Wrong bytes fail the test.
int
Get(VsChunkStore *store, VsCodec *codec, const VsDigest &digest, const std::string &content)
{
    std::string read(content.size(), '?');
    VsChunkAccess access = {store, codec, 0};
    GError *error = nullptr;
    if (vs_chunk_store_get(&access, VS_OBJECT_CHUNK, &digest, &read[0], read.size(), &error)) {
        EXPECT_EQ(read, content);
        return -1;
    }
    int code = error->domain == VS_CHUNK_STORE_ERROR ? error->code : 100;
    g_error_free(error);
    return code;
}

inline bool
Flush(VsChunkStore *store)
{
    GError *error = nullptr;
    bool done = vs_chunk_store_flush(store, &error);
    EXPECT_EQ(done, error == nullptr);
    g_clear_error(&error);
    return done;
}

inline void
ExpectAll(VsChunkStore *store, const Model &model)
{
    Codec codec = NewCodec();
    for (const auto &object : model) {
        ASSERT_EQ(Get(store, codec.get(), object.first, object.second), -1);
    }
}

// Puts count objects from number first on and flushes.
Model
Fill(FaultyObjectStore *objects, uint64_t first, uint64_t count)
{
    Store store = Open(objects);
    Codec codec = NewCodec();
    Model model;
    for (uint64_t i = first; i < first + count; i++) {
        VsDigest digest;
        std::string content = ContentOf(i);
        EXPECT_TRUE(Put(store.get(), codec.get(), content, &digest));
        model[digest] = content;
    }
    EXPECT_TRUE(Flush(store.get()));
    return model;
}

inline bool
KeepListed(const VsDigest *digest, gpointer user_data)
{
    return static_cast<const Model *>(user_data)->count(*digest) > 0;
}

inline bool
Compact(VsChunkStore *store, const Model &keep, VsCompactResult *result)
{
    GError *error = nullptr;
    bool done =
        vs_chunk_store_compact(store, KeepListed, const_cast<Model *>(&keep), result, &error);
    EXPECT_EQ(done, error == nullptr);
    g_clear_error(&error);
    return done;
}

struct Damage {
    std::set<std::string> packs;
    Model objects;
};

inline void
NoteDamage(const VsDigest *digest, const char *pack, const char *, gpointer user_data)
{
    auto *damage = static_cast<Damage *>(user_data);
    damage->packs.insert(pack);
    if (digest != nullptr) {
        damage->objects[*digest] = "";
    }
}

inline Damage
Verify(VsChunkStore *store, uint64_t *objects = nullptr, double percent = 100)
{
    Damage damage;
    VsVerifyResult result = {};
    EXPECT_TRUE(vs_chunk_store_verify(store, percent, NoteDamage, &damage, &result, nullptr));
    if (objects != nullptr) {
        *objects = result.objects;
    }
    return damage;
}

inline std::vector<std::string>
NamesIn(FaultyObjectStore *objects, const std::string &folder)
{
    std::vector<std::string> names;
    for (const auto &object : objects->Objects()) {
        if (object.first.compare(0, folder.size() + 1, folder + "/") == 0) {
            names.push_back(object.first);
        }
    }
    return names;
}

} // namespace chunk_store_fixture

#endif
