// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbd-export/store/manifest.h"
#include "nbd-export/store/sealed-json.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>

namespace
{

VsManifestFile *
File(const char *role, const char *path, uint64_t size_bytes)
{
    VsManifestFile *file = g_new0(VsManifestFile, 1);
    file->role = g_strdup(role);
    file->path = g_strdup(path);
    file->size_bytes = size_bytes;
    file->mode = 0640;
    if (size_bytes > 0)
        vs_digest_compute(role, strlen(role), &file->root);
    return file;
}

VsManifest *
Full()
{
    VsManifest *manifest = vs_manifest_new();
    manifest->id = g_strdup("s-0123456789abcdefghij");
    manifest->group = g_strdup("ssg-zyxwvutsrqponmlkjihg");
    manifest->name = g_strdup("nightly");
    manifest->description = g_strdup("quotes \" \\ / \n\x01 and ünïcödé 🙂");
    manifest->kind = g_strdup("auto");
    manifest->mode = g_strdup("full");
    manifest->mode_reason = g_strdup("");
    manifest->parent = g_strdup("s-99999999999999999999");
    manifest->consistency = g_strdup("filesystem");
    manifest->created_at_us = 1753000000123456;
    manifest->expires_at_us = 1763000000000001;
    manifest->generation = 17;
    manifest->virtual_size_bytes = INT64_MAX;
    manifest->read_bytes = 65536;
    manifest->new_bytes = 1234;
    vs_digest_compute("x", 1, &manifest->root);
    manifest->instance_id = g_strdup("i-00000000000000000000");
    manifest->instance_name = g_strdup("web");
    manifest->instance_kind = g_strdup("libvirt");
    manifest->instance_definition = g_strdup("<domain type='kvm'/>");
    manifest->disk_id = g_strdup("d-aaaaaaaaaaaaaaaaaaaa");
    manifest->disk_target = g_strdup("vda");
    manifest->disk_source = g_strdup("/images/a.qcow2");
    manifest->disk_format = g_strdup("qcow2");
    manifest->disk_chain = g_strdup("[\"/images/a.qcow2\"]");
    manifest->disk_chain_identity = g_strdup("[\"12\"]");
    manifest->bitmap = g_strdup("virtsnap-s-0123456789abcdefghij");
    manifest->frozen_us = 2718;
    g_ptr_array_add(manifest->files, File("nvram", "/var/lib/libvirt/qemu/nvram/web.fd", 131072));
    g_ptr_array_add(manifest->files, File("kernel", "/boot/vmlinuz", VS_MANIFEST_FILE_MAX_BYTES));
    g_ptr_array_add(manifest->files, File("initrd", "/empty", 0));
    return manifest;
}

std::string
Text(GBytes *bytes)
{
    gsize length;
    auto data = static_cast<const char *>(g_bytes_get_data(bytes, &length));
    return std::string(data, length);
}

std::string
Encoded(const VsManifest *manifest)
{
    g_autoptr(GBytes) bytes = vs_manifest_encode(manifest);
    return Text(bytes);
}

// The document with its digest line made right again.
std::string
Sealed(const std::string &text)
{
    std::string body = text.substr(0, text.rfind("sha256:"));
    VsDigest digest;
    char hex[VS_DIGEST_HEX_BYTES];
    vs_digest_compute(body.data(), body.size(), &digest);
    vs_digest_to_hex(&digest, hex);
    return body + "sha256:" + hex + "\n";
}

VsManifest *
Decode(const std::string &text, GError **error = nullptr)
{
    g_autoptr(GBytes) bytes = g_bytes_new(text.data(), text.size());
    return vs_manifest_decode(bytes, error);
}

// 0: accepted, else the error's code + 1.
int
Refusal(const std::string &text)
{
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsManifest) manifest = Decode(text, &error);
    EXPECT_EQ(manifest == nullptr, error != nullptr);
    return error == nullptr ? 0 : error->domain == VS_MANIFEST_ERROR ? error->code + 1 : -1;
}
const int kCorrupt = VS_MANIFEST_ERROR_CORRUPT + 1;
const int kUnsupported = VS_MANIFEST_ERROR_UNSUPPORTED + 1;

std::string
Replaced(const std::string &text, const std::string &what, const std::string &by)
{
    size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    return Sealed(std::string(text).replace(at, what.size(), by));
}

TEST(Manifest, EveryFieldComesBack)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Encoded(manifest);
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsManifest) back = Decode(text, &error);
    ASSERT_NE(back, nullptr) << error->message;
    EXPECT_STREQ(back->id, manifest->id);
    EXPECT_STREQ(back->group, manifest->group);
    EXPECT_STREQ(back->name, manifest->name);
    EXPECT_STREQ(back->description, manifest->description);
    EXPECT_STREQ(back->kind, manifest->kind);
    EXPECT_STREQ(back->mode, manifest->mode);
    EXPECT_STREQ(back->mode_reason, "");
    EXPECT_STREQ(back->parent, manifest->parent);
    EXPECT_STREQ(back->consistency, manifest->consistency);
    EXPECT_EQ(back->created_at_us, manifest->created_at_us);
    EXPECT_EQ(back->expires_at_us, manifest->expires_at_us);
    EXPECT_EQ(back->generation, 17u);
    EXPECT_EQ(back->virtual_size_bytes, uint64_t{INT64_MAX});
    EXPECT_EQ(back->read_bytes, 65536u);
    EXPECT_EQ(back->new_bytes, 1234u);
    EXPECT_TRUE(vs_digest_equal(&back->root, &manifest->root));
    EXPECT_STREQ(back->instance_id, manifest->instance_id);
    EXPECT_STREQ(back->instance_name, manifest->instance_name);
    EXPECT_STREQ(back->instance_kind, manifest->instance_kind);
    EXPECT_STREQ(back->instance_definition, manifest->instance_definition);
    EXPECT_STREQ(back->disk_id, manifest->disk_id);
    EXPECT_STREQ(back->disk_target, manifest->disk_target);
    EXPECT_STREQ(back->disk_source, manifest->disk_source);
    EXPECT_STREQ(back->disk_format, manifest->disk_format);
    EXPECT_STREQ(back->disk_chain, manifest->disk_chain);
    EXPECT_STREQ(back->disk_chain_identity, manifest->disk_chain_identity);
    EXPECT_STREQ(back->bitmap, manifest->bitmap);
    EXPECT_EQ(back->frozen_us, 2718);
    ASSERT_EQ(back->files->len, 3u);
    for (unsigned i = 0; i < 3; i++) {
        auto said = static_cast<const VsManifestFile *>(back->files->pdata[i]);
        auto file = static_cast<const VsManifestFile *>(manifest->files->pdata[i]);
        EXPECT_STREQ(said->role, file->role);
        EXPECT_STREQ(said->path, file->path);
        EXPECT_EQ(said->size_bytes, file->size_bytes);
        EXPECT_EQ(said->mode, 0640u);
        EXPECT_TRUE(vs_digest_equal(&said->root, &file->root));
    }
    g_autoptr(VsManifest) copy = vs_manifest_copy(back);
    EXPECT_EQ(Encoded(copy), text);
}

TEST(Manifest, AbsentTextsComeBackAsNull)
{
    g_autoptr(VsManifest) manifest = Full();
    for (char **text :
         {&manifest->group, &manifest->name, &manifest->description, &manifest->mode_reason,
          &manifest->parent, &manifest->instance_id, &manifest->instance_name,
          &manifest->instance_kind, &manifest->instance_definition, &manifest->disk_target,
          &manifest->disk_source, &manifest->disk_format, &manifest->disk_chain,
          &manifest->disk_chain_identity, &manifest->bitmap})
        g_clear_pointer(text, g_free);
    std::string text = Encoded(manifest);
    g_autoptr(VsManifest) back = Decode(text);
    ASSERT_NE(back, nullptr);
    EXPECT_EQ(back->group, nullptr);
    EXPECT_EQ(back->bitmap, nullptr);
    EXPECT_EQ(Encoded(back), text);
}

TEST(Manifest, FileIsTheDocumentedOne)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Encoded(manifest);
    EXPECT_EQ(
        text.rfind("{\n  \"format\":1,\n  \"id\":\"s-0123456789abcdefghij\",\n  \"group\":", 0), 0u)
        << text;
    EXPECT_NE(text.find("\n}\nsha256:"), std::string::npos) << text;
    EXPECT_EQ(text.back(), '\n');
    EXPECT_EQ(Sealed(text), text);
}

TEST(Manifest, AnyFlippedBitAndAnyTruncationIsFound)
{
    g_autoptr(VsManifest) manifest = Full();
    const std::string text = Encoded(manifest);
    for (size_t i = 0; i < text.size(); i++) {
        std::string damaged = text;
        damaged[i] = static_cast<char>(damaged[i] ^ 1 << i % 8);
        ASSERT_EQ(Refusal(damaged), kCorrupt) << i;
        ASSERT_EQ(Refusal(text.substr(0, i)), kCorrupt) << i;
    }
    EXPECT_EQ(Refusal(text + "\n"), kCorrupt);
    EXPECT_EQ(Refusal(text), 0);
}

TEST(Manifest, NewerFormatIsUnsupportedAndOlderThanOneIsCorrupt)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Encoded(manifest);
    EXPECT_EQ(Refusal(Replaced(text, "\"format\":1", "\"format\":2")), kUnsupported);
    EXPECT_EQ(Refusal(Replaced(text, "\"format\":1", "\"format\":0")), kCorrupt);
    EXPECT_EQ(Refusal(Replaced(text, "\"format\":1", "\"format\":\"1\"")), kCorrupt);
    EXPECT_EQ(Refusal(Replaced(text, "\"format\":1,", "")), kCorrupt);
}

TEST(Manifest, UnknownMembersAreIgnored)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Encoded(manifest);
    EXPECT_EQ(Refusal(Replaced(text, "\"format\":1,", "\"format\":1, \"colour\": [1, {}],")), 0);
}

TEST(Manifest, RelabellingKeepsAllElseEvenWhatIsUnknown)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Replaced(Encoded(manifest), "\"kind\"", "\"colour\":[1,{}],\n  \"kind\"");
    g_autoptr(GBytes) bytes = g_bytes_new(text.data(), text.size());
    g_autoptr(VsManifest) labels = vs_manifest_new();
    labels->name = g_strdup("other");
    labels->expires_at_us = 5;
    g_autoptr(GBytes) relabelled = vs_manifest_relabel(bytes, labels, nullptr);
    ASSERT_NE(relabelled, nullptr);
    EXPECT_NE(Text(relabelled).find("\"colour\":["), std::string::npos);
    g_autoptr(VsManifest) back = Decode(Text(relabelled));
    ASSERT_NE(back, nullptr);
    EXPECT_STREQ(back->name, "other");
    EXPECT_EQ(back->description, nullptr);
    EXPECT_EQ(back->expires_at_us, 5);
    EXPECT_EQ(back->generation, 17u);
    labels->expires_at_us = -1;
    g_autoptr(GError) error = nullptr;
    EXPECT_EQ(vs_manifest_relabel(bytes, labels, &error), nullptr);
    EXPECT_TRUE(g_error_matches(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT));
}

TEST(Manifest, ReidentifyingKeepsAllElseEvenWhatIsUnknown)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Replaced(Encoded(manifest), "\"kind\"", "\"colour\":[1,{}],\n  \"kind\"");
    g_autoptr(GBytes) bytes = g_bytes_new(text.data(), text.size());
    g_autoptr(VsManifest) identity = vs_manifest_new();
    identity->disk_chain_identity = g_strdup("[\"13\"]");
    g_autoptr(GBytes) edited = vs_manifest_reidentify(bytes, identity, nullptr);
    ASSERT_NE(edited, nullptr);
    EXPECT_NE(Text(edited).find("\"colour\":["), std::string::npos);
    g_autoptr(VsManifest) back = Decode(Text(edited));
    ASSERT_NE(back, nullptr);
    EXPECT_STREQ(back->disk_chain_identity, "[\"13\"]");
    EXPECT_STREQ(back->name, manifest->name);
    EXPECT_STREQ(back->disk_chain, manifest->disk_chain);
}

TEST(Manifest, FieldsThatCannotBeAreRefused)
{
    g_autoptr(VsManifest) manifest = Full();
    const std::string text = Encoded(manifest);
    const std::pair<const char *, const char *> wrong[] = {
        {"\"s-0123456789abcdefghij\"", "\"s-../456789abcdefghij\""},
        {"\"s-0123456789abcdefghij\"", "\"s-0123456789abcdefghi\""},
        {"\"s-0123456789abcdefghij\"", "\"s-0123456789ABCDEFGHIJ\""},
        {"\"s-0123456789abcdefghij\"", "null"},
        {"\"s-0123456789abcdefghij\"", "7"},
        {"\"ssg-zyx", "\"s-zyx"},
        {"\"auto\"", "\"sometimes\""},
        {"\"mode\":\"full\"", "\"mode\":\"fullish\""},
        {"\"filesystem\"", "\"\""},
        {"1753000000123456", "-1"},
        {"1753000000123456", "1.5"},
        {"9223372036854775807", "9223372036854775808"},
        {"9223372036854775807", "18446744073709551616"},
        {"9223372036854775807", "99999999999999999999999999"},
        {"\"generation\":17", "\"generation\":0"},
        {"\"read_bytes\":65536", "\"read_bytes\":null"},
        {"\"root\":\"2", "\"root\":\"G"},
        {"\"d-aaaaaaaaaaaaaaaaaaaa\"", "null"},
        {"\"i-00000000000000000000\"", "\"web\""},
        {"\"vda\"", "\"v\\u0000a\""},
        {"\"vda\"", "\"v\xff\""},
        {"\"vda\"", "[]"},
        {"\n}\n", "\n}\n{}"},
        {"\n}\n", "\n"},
    };
    for (auto [what, by] : wrong)
        EXPECT_EQ(Refusal(Replaced(text, what, by)), kCorrupt) << what << " -> " << by;
}

TEST(Manifest, ThoseOfBeforeFilesAndFreezingAreTaken)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string old = Replaced(Encoded(manifest), "\"frozen_us\":2718,", "");
    size_t at = old.find(",\n  \"files\":["); // the last member
    ASSERT_NE(at, std::string::npos);
    old = Sealed(old.erase(at, old.find(']', at) + 1 - at));
    EXPECT_EQ(old.find("\"files\""), std::string::npos);
    EXPECT_EQ(old.find("frozen"), std::string::npos);
    g_autoptr(GError) error = nullptr;
    g_autoptr(VsManifest) back = Decode(old, &error);
    ASSERT_NE(back, nullptr) << error->message;
    EXPECT_EQ(back->files->len, 0u);
    EXPECT_EQ(back->frozen_us, 0);
    EXPECT_EQ(back->new_bytes, 1234u);
}

TEST(Manifest, FilesAreCheckedOneByOne)
{
    g_autoptr(VsManifest) manifest = Full();
    const std::string text = Encoded(manifest);
    const std::string zero(64, '0'), one = std::string(63, '0') + "1";
    const std::pair<std::string, std::string> wrong[] = {
        {"\"nvram\"", "null"},
        {"\"nvram\"", "\"\""},
        {"\"nvram\"", "\"Nvram\""},
        {"\"nvram\"", "\"nv ram\""},
        {"\"nvram\"", "\"" + std::string(33, 'n') + "\""},
        {"\"/boot/vmlinuz\"", "null"},
        {"\"/boot/vmlinuz\"", "\"\""},
        {"\"/boot/vmlinuz\"", "\"/boot\\u0000\""},
        {"\"/boot/vmlinuz\"", "\"" + std::string(16385, '/') + "\""},
        {"\"size_bytes\":268435456", "\"size_bytes\":268435457"},
        {"\"size_bytes\":268435456", "\"size_bytes\":-1"},
        {"\"size_bytes\":268435456", "\"bytes\":1"},
        {"\"mode\":416", "\"mode\":4096"},
        {"\"mode\":416", "\"mode\":null"},
        {zero, one}, // an empty file's
        {zero, zero.substr(1)},
        {"\"files\":[", "\"files\":[7,"},
        {"\"files\":[", "\"files\":7, \"other\":["},
        {"\"files\":[", "\"files\":null, \"other\":["},
        {"\"frozen_us\":2718", "\"frozen_us\":-1"},
        {"\"frozen_us\":2718", "\"frozen_us\":null"},
        {"\"frozen_us\":2718", "\"frozen_us\":\"1\""},
    };
    for (const auto &[what, by] : wrong)
        EXPECT_EQ(Refusal(Replaced(text, what, by)), kCorrupt) << what << " -> " << by;
    for (const auto &[what, by] :
         {std::pair<std::string, std::string>{"\"nvram\"", "\"" + std::string(32, 'n') + "\""},
          {"\"mode\":416", "\"mode\":4095, \"colour\":[]"},
          {"\"/boot/vmlinuz\"", "\"" + std::string(16384, '/') + "\""}})
        EXPECT_EQ(Refusal(Replaced(text, what, by)), 0) << what << " -> " << by;
}

TEST(Manifest, ThereIsALimitToTheNumberOfFiles)
{
    g_autoptr(VsManifest) manifest = Full();
    g_ptr_array_set_size(manifest->files, 0);
    for (unsigned i = 0; i < 32; i++)
        g_ptr_array_add(manifest->files, File("nvram", "/same", 1));
    EXPECT_EQ(Refusal(Encoded(manifest)), 0);
    g_ptr_array_add(manifest->files, File("nvram", "/same", 1));
    EXPECT_EQ(Refusal(Encoded(manifest)), kCorrupt);
}

TEST(Manifest, RelabellingKeepsFilesAndDroppingThemKeepsAllElse)
{
    g_autoptr(VsManifest) manifest = Full();
    std::string text = Replaced(Encoded(manifest), "\"role\"", "\"colour\":1, \"role\"");
    text = Replaced(text, "\"kind\"", "\"shape\":[], \"kind\"");
    g_autoptr(GBytes) bytes = g_bytes_new(text.data(), text.size());
    g_autoptr(GBytes) relabelled = vs_manifest_relabel(bytes, manifest, nullptr);
    ASSERT_NE(relabelled, nullptr);
    EXPECT_NE(Text(relabelled).find("\"colour\""), std::string::npos);
    g_autoptr(VsManifest) kept = Decode(Text(relabelled));
    EXPECT_EQ(Encoded(kept), Encoded(manifest));

    g_autoptr(GBytes) dropped = vs_manifest_drop_files(relabelled, nullptr);
    ASSERT_NE(dropped, nullptr);
    EXPECT_NE(Text(dropped).find("\"shape\""), std::string::npos);
    g_autoptr(VsManifest) without = Decode(Text(dropped));
    ASSERT_NE(without, nullptr);
    EXPECT_EQ(without->files->len, 0u);
    g_ptr_array_set_size(manifest->files, 0);
    EXPECT_EQ(Encoded(without), Encoded(manifest));
    g_autoptr(GBytes) again = vs_manifest_drop_files(dropped, nullptr);
    EXPECT_TRUE(g_bytes_equal(again, dropped));

    g_autoptr(GBytes) damaged = g_bytes_new("{", 1);
    g_autoptr(GError) error = nullptr;
    EXPECT_EQ(vs_manifest_drop_files(damaged, &error), nullptr);
    EXPECT_TRUE(g_error_matches(error, VS_MANIFEST_ERROR, VS_MANIFEST_ERROR_CORRUPT));
}

TEST(Manifest, DeepNestingIsRefused)
{
    std::string deep = std::string(100000, '[') + "sha256:";
    EXPECT_EQ(Refusal(Sealed(deep)), kCorrupt);
    EXPECT_EQ(Refusal(Sealed("[1]\nsha256:")), kCorrupt);
    EXPECT_EQ(Refusal(Sealed("sha256:")), kCorrupt);
    EXPECT_EQ(Refusal(""), kCorrupt);
}

TEST(Manifest, PathsThatAreNotUtf8AreEscaped)
{
    g_autoptr(VsManifest) manifest = Full();
    g_free(manifest->disk_source);
    manifest->disk_source = g_strdup("/d/\xff%ü\xc3");
    g_autoptr(VsManifest) back = Decode(Encoded(manifest));
    ASSERT_NE(back, nullptr);
    EXPECT_STREQ(back->disk_source, "/d/%FF%25ü%C3");
    g_autofree char *same = vs_sealed_json_escape("/d/100%ü");
    EXPECT_STREQ(same, "/d/100%ü");
}

TEST(Id, NewOnesAreValidAndDiffer)
{
    std::set<std::string> seen;
    std::set<char> letters;
    for (int i = 0; i < 2000; i++) {
        g_autofree char *id = vs_id_new("ssg-");
        EXPECT_TRUE(vs_id_is_valid(id, "ssg-")) << id;
        EXPECT_FALSE(vs_id_is_valid(id, "s-"));
        letters.insert(id + 4, id + strlen(id));
        EXPECT_TRUE(seen.insert(id).second);
    }
    EXPECT_EQ(letters.size(), 36u);
}

TEST(Id, OnlyItsOwnFormIsValid)
{
    EXPECT_TRUE(vs_id_is_valid("s-0123456789abcdefghiz", "s-"));
    for (const char *wrong :
         {"", "s-", "s-0123456789abcdefghi", "s-0123456789abcdefghijk", "s-0123456789abcdefgh/.",
          "s-0123456789abcdefghiJ", "s-0123456789abcdefghi\n", "d-0123456789abcdefghij"})
        EXPECT_FALSE(vs_id_is_valid(wrong, "s-")) << wrong;
    EXPECT_FALSE(vs_id_is_valid(nullptr, "s-"));
}

TEST(Id, DerivedOnesDependOnPrefixAndKeyOnly)
{
    // SHA-256("d-abc") in base 36, least significant digit first, computed elsewhere.
    g_autofree char *known = vs_id_from_key("d-", "abc");
    EXPECT_STREQ(known, "d-80f5vvasyahmcgr1r9rk");
    g_autofree char *other_key = vs_id_from_key("d-", "abd");
    g_autofree char *other_prefix = vs_id_from_key("i-", "abc");
    EXPECT_TRUE(vs_id_is_valid(known, "d-"));
    EXPECT_STRNE(known, other_key);
    EXPECT_STRNE(known + 2, other_prefix + 2);
}

} // namespace
