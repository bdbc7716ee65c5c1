// SPDX-License-Identifier: LGPL-2.1-or-later
// Verifying objects, and finding out whom a damaged or missing one hurts.
//
// Each node is visited once however many snapshots share it: a subtree that is whole is remembered
// as such (one VsDigestSet entry a node), one that is not with the set of what is wrong in it.
#include "nbd-export/store/repository-internal.h"

#include <string.h>

#include "nbd-export/store/digest-set.h"

// Wrong objects that are told apart; more are only counted, so that memory and output stay bounded
// where all is lost.
#define MAX_WRONG 1000u
#define VERIFY_SHARE 0.9 // of the progress

typedef struct {
    char *what;      // one line
    GPtrArray *hurt; // char *: the snapshots
} Wrong;

typedef struct {
    VsRepository *repository;
    VsChunkAccess access; // owns its codec
    VsTreeIo io;
    GPtrArray *wrong;       // Wrong *; the index is what sets hold
    GHashTable *wrong_of;   // VsDigest → index + 1: damaged or missing
    uint64_t uncounted;     // wrong ones beyond MAX_WRONG, which share the last index
    VsDigestSet *whole;     // nodes
    GHashTable *hurt_nodes; // VsDigest → set of indices
    GHashTable *packs;      // names of those that exist
    GPtrArray *problems;
} Check;

static unsigned
digest_hash(gconstpointer key)
{
    unsigned hash;

    memcpy(&hash, key, sizeof hash);
    return hash;
}

static gboolean
digest_equal(gconstpointer a, gconstpointer b)
{
    return vs_digest_equal(a, b);
}

static VsDigest *
digest_copy(const VsDigest *digest)
{
    return g_memdup2(digest, sizeof *digest);
}

static void
wrong_free(gpointer data)
{
    Wrong *wrong = data;

    g_free(wrong->what);
    g_ptr_array_unref(wrong->hurt);
    g_free(wrong);
}

static unsigned add_wrong(Check *check, const VsDigest *digest, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

// Notes what is wrong with an object, once; returns its index.
static unsigned
add_wrong(Check *check, const VsDigest *digest, const char *format, ...)
{
    unsigned index = GPOINTER_TO_UINT(g_hash_table_lookup(check->wrong_of, digest));

    if (index != 0)
        return index - 1;
    if (check->wrong->len < MAX_WRONG) {
        Wrong *wrong = g_new0(Wrong, 1);
        va_list arguments;
        va_start(arguments, format);
        wrong->what = g_strdup_vprintf(format, arguments);
        va_end(arguments);
        wrong->hurt = g_ptr_array_new_with_free_func(g_free);
        g_ptr_array_add(check->wrong, wrong);
    } else {
        check->uncounted++;
    }
    index = check->wrong->len;
    g_hash_table_insert(check->wrong_of, digest_copy(digest), GUINT_TO_POINTER(index));
    return index - 1;
}

// Objects ---------------------------------------------------------------------------------------

static bool
is_readable(Check *check, const VsDigest *digest, GError **error)
{
    size_t length = MAX(check->repository->chunk_size, VS_TREE_NODE_MAX_BYTES);
    g_autofree void *raw = g_malloc(length);
    VsPackId pack;
    VsPackEntry entry;

    return vs_chunk_store_locate(check->access.store, digest, &pack, &entry, error) &&
           vs_chunk_store_get_upto(&check->access, entry.type, digest, raw, &length, error);
}

static void
note_damage(const VsDigest *digest, const char *pack, const char *what, gpointer user_data)
{
    Check *check = user_data;
    char hex[VS_DIGEST_HEX_BYTES];

    if (digest == NULL) {
        g_ptr_array_add(check->problems, g_strdup_printf("pack %s: %s", pack, what));
        return;
    }
    vs_digest_to_hex(digest, hex);
    if (is_readable(check, digest, NULL)) {
        g_ptr_array_add(
            check->problems,
            g_strdup_printf("object %s in pack %s is damaged (%s); another copy is good", hex, pack,
                            what));
        return;
    }
    add_wrong(check, digest, "object %s in pack %s is damaged (%s)", hex, pack, what);
}

// Where the index names a pack that is gone, only reading finds out whether there is another copy.
static bool
is_present(Check *check, const VsDigest *digest, GError **error)
{
    char name[VS_PACK_NAME_BYTES];
    VsPackId pack;
    VsPackEntry entry;

    if (!vs_chunk_store_locate(check->access.store, digest, &pack, &entry, error))
        return false;
    vs_pack_id_to_name(&pack, name);
    return g_hash_table_contains(check->packs, name) || is_readable(check, digest, error);
}

static bool
list_packs(Check *check, GError **error)
{
    g_autoptr(GPtrArray) names =
        vs_object_store_list(check->repository->objects, VS_REPOSITORY_PACKS, error);

    if (names == NULL)
        return false;
    for (unsigned i = 0; i < names->len; i++)
        g_hash_table_add(check->packs, g_path_get_basename(names->pdata[i]));
    return true;
}

// Trees -------------------------------------------------------------------------------------------

static void
add_to_set(GHashTable **set, unsigned index)
{
    if (*set == NULL)
        *set = g_hash_table_new(NULL, NULL);
    g_hash_table_add(*set, GUINT_TO_POINTER(index));
}

static void
add_all_to_set(GHashTable **set, GHashTable *others)
{
    GHashTableIter iterator;
    gpointer index;

    g_hash_table_iter_init(&iterator, others);
    while (g_hash_table_iter_next(&iterator, &index, NULL))
        add_to_set(set, GPOINTER_TO_UINT(index));
}

static void
check_chunk(Check *check, const VsDigest *digest, GHashTable **set)
{
    g_autoptr(GError) cause = NULL;
    char hex[VS_DIGEST_HEX_BYTES];
    unsigned index = GPOINTER_TO_UINT(g_hash_table_lookup(check->wrong_of, digest));

    if (index != 0) {
        add_to_set(set, index - 1);
    } else if (!is_present(check, digest, &cause)) {
        vs_digest_to_hex(digest, hex);
        add_to_set(set, add_wrong(check, digest, "chunk %s is missing (%s)", hex, cause->message));
    }
}

// Adds what is wrong below the node to set, which is made when needed.
static void
check_node(Check *check, const VsTreePlace *place, const VsDigest *digest, GHashTable **set)
{
    GHashTable *found = g_hash_table_lookup(check->hurt_nodes, digest);
    g_autoptr(GError) cause = NULL;
    VsTreeNode node;

    if (found == NULL && vs_digest_set_contains(check->whole, digest))
        return;
    if (found != NULL) {
        add_all_to_set(set, found);
        return;
    }
    if (!vs_tree_load_node(&check->io, place, digest, &node, &cause)) {
        char hex[VS_DIGEST_HEX_BYTES];
        vs_digest_to_hex(digest, hex);
        add_to_set(set,
                   add_wrong(check, digest, "node %s can't be read (%s)", hex, cause->message));
        return;
    }
    for (unsigned i = 0; i < VS_TREE_FANOUT; i++) {
        if (vs_digest_is_zero(&node.children[i]))
            continue;
        if (place->level == 0) {
            check_chunk(check, &node.children[i], &found);
        } else {
            const VsTreePlace child = vs_tree_place_child(place, i);
            check_node(check, &child, &node.children[i], &found);
        }
    }
    if (found == NULL) {
        vs_digest_set_add(check->whole, digest);
        return;
    }
    add_all_to_set(set, found);
    g_hash_table_insert(check->hurt_nodes, digest_copy(digest), found);
}

// whom: what the tree is, as the line of a wrong object in it names it.
static void
check_tree(Check *check, const VsTree *tree, const char *whom)
{
    const VsTreePlace root = vs_tree_place_root(tree->chunk_count);
    g_autoptr(GHashTable) set = NULL;
    GHashTableIter iterator;
    gpointer index;

    if (!vs_digest_is_zero(&tree->root))
        check_node(check, &root, &tree->root, &set);
    if (set == NULL)
        return;
    g_hash_table_iter_init(&iterator, set);
    while (g_hash_table_iter_next(&iterator, &index, NULL)) {
        Wrong *wrong = check->wrong->pdata[GPOINTER_TO_UINT(index)];
        g_ptr_array_add(wrong->hurt, g_strdup(whom));
    }
}

static void
check_manifest(Check *check, const VsManifest *manifest, const char *kind)
{
    VsTree tree = vs_repository_tree(check->repository, manifest);
    const char *target = manifest->disk_target != NULL ? manifest->disk_target : "-";
    g_autofree char *whom =
        g_strdup_printf("%s%s of %s (%s)", kind, manifest->id, manifest->disk_id, target);

    check_tree(check, &tree, whom);
    for (unsigned i = 0; i < manifest->files->len; i++) {
        const VsManifestFile *file = manifest->files->pdata[i];
        g_autofree char *whose =
            g_strdup_printf("the %s file %s of %s", file->role, file->path, whom);
        tree = vs_repository_file_tree(check->repository, file);
        check_tree(check, &tree, whose);
    }
}

// The whole -------------------------------------------------------------------------------------

static void
note_manifest(const char *what, const GError *cause, gpointer user_data)
{
    Check *check = user_data;

    g_ptr_array_add(check->problems, g_strdup_printf("%s is damaged: %s", what, cause->message));
}

static void
report_wrong(Check *check)
{
    for (unsigned i = 0; i < check->wrong->len; i++) {
        const Wrong *wrong = check->wrong->pdata[i];
        g_ptr_array_add(wrong->hurt, NULL);
        g_autofree char *hurt = g_strjoinv(", ", (char **)wrong->hurt->pdata);
        const char *verb = *hurt != '\0' ? "hurts " : "no snapshot needs it";
        g_ptr_array_add(check->problems, g_strconcat(wrong->what, ": ", verb, hurt, NULL));
    }
    if (check->uncounted > 0)
        g_ptr_array_add(check->problems,
                        g_strdup_printf("%" G_GUINT64_FORMAT
                                        " more objects are damaged or missing; the last one "
                                        "named stands for what they hurt",
                                        check->uncounted));
}

static void
report_progress(VsProgressFunc progress, gpointer user_data, double fraction)
{
    if (progress != NULL)
        progress(fraction, user_data);
}

static bool
run(Check *check, double percent, VsProgressFunc progress, gpointer user_data,
    VsCheckResult *result, GError **error)
{
    g_auto(VsContents) contents = {NULL, NULL};
    VsVerifyResult verified;

    report_progress(progress, user_data, 0);
    if (!list_packs(check, error) ||
        !vs_chunk_store_verify(check->access.store, percent, note_damage, check, &verified,
                               error) ||
        !vs_repository_read_contents(check->repository, note_manifest, check, &contents, error))
        return false;
    result->objects = verified.objects;
    result->bytes = verified.bytes;
    unsigned total = contents.snapshots->len + contents.bases->len;
    for (unsigned i = 0; i < total; i++) {
        bool is_base = i >= contents.snapshots->len;
        report_progress(progress, user_data, VERIFY_SHARE + (1 - VERIFY_SHARE) * i / total);
        check_manifest(check,
                       is_base ? contents.bases->pdata[i - contents.snapshots->len]
                               : contents.snapshots->pdata[i],
                       is_base ? "the hidden base " : "");
    }
    result->snapshots = contents.snapshots->len;
    report_wrong(check);
    report_progress(progress, user_data, 1);
    return true;
}

static void
check_init(Check *check, VsRepository *repository)
{
    check->repository = repository;
    check->access = (VsChunkAccess){repository->chunks, vs_codec_new(VS_CODEC_ZSTD_LEVEL), 0};
    check->io = vs_chunk_access_tree_io(&check->access);
    check->wrong = g_ptr_array_new_with_free_func(wrong_free);
    check->wrong_of = g_hash_table_new_full(digest_hash, digest_equal, g_free, NULL);
    check->whole = vs_digest_set_new();
    check->hurt_nodes = g_hash_table_new_full(digest_hash, digest_equal, g_free,
                                              (GDestroyNotify)g_hash_table_unref);
    check->packs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
}

static void
check_clear(Check *check)
{
    g_hash_table_unref(check->packs);
    g_hash_table_unref(check->hurt_nodes);
    vs_digest_set_free(check->whole);
    g_hash_table_unref(check->wrong_of);
    g_ptr_array_unref(check->wrong);
    vs_codec_free(check->access.codec);
}

void
vs_check_result_clear(VsCheckResult *result)
{
    g_clear_pointer(&result->problems, g_ptr_array_unref);
}

bool
vs_repository_check(VsRepository *repository, double percent, VsProgressFunc progress,
                    gpointer user_data, VsCheckResult *result, GError **error)
{
    Check check = {NULL};

    *result = (VsCheckResult){.problems = g_ptr_array_new_with_free_func(g_free)};
    check.problems = result->problems;
    check_init(&check, repository);
    bool done = run(&check, percent, progress, user_data, result, error);
    check_clear(&check);
    if (!done) {
        vs_check_result_clear(result);
        g_prefix_error(error, "cannot check the repository %s: ", repository->path);
    }
    return done;
}
