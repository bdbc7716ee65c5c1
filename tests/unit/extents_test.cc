// SPDX-License-Identifier: LGPL-2.1-or-later
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <vector>

#include "nbd-export/pull/extents.h"

namespace
{

using List = std::unique_ptr<GArray, decltype(&g_array_unref)>;

List
new_list()
{
    return List(g_array_new(FALSE, FALSE, sizeof(VsExtent)), g_array_unref);
}

const VsExtent &
at(const List &list, unsigned index)
{
    return g_array_index(list.get(), VsExtent, index);
}

// Flags of each unit of a range, the naive way to hold extents.
using Units = std::vector<uint32_t>;

List
list_of(const Units &units, uint64_t start)
{
    List list = new_list();
    for (size_t i = 0; i < units.size(); i++) {
        uint32_t entry[] = {1, units[i]};
        EXPECT_TRUE(vs_extents_append(list.get(), start + i, start + units.size(), entry, 2));
    }
    return list;
}

constexpr uint32_t kAbsent = 0xffffffff;

Units
units_of(const List &list, uint64_t start, size_t count)
{
    Units units(count, kAbsent);
    for (unsigned i = 0; i < list->len; i++)
        for (uint64_t o = 0; o < at(list, i).length; o++)
            units.at(at(list, i).offset - start + o) = at(list, i).flags;
    return units;
}

TEST(Extents, NeighboursWithEqualFlagsAreJoined)
{
    List list = new_list();
    uint32_t entries[] = {10, 1, 20, 1, 5, 0};
    ASSERT_TRUE(vs_extents_append(list.get(), 100, 200, entries, 6));
    ASSERT_EQ(list->len, 2u);
    EXPECT_EQ(at(list, 0).offset, 100u);
    EXPECT_EQ(at(list, 0).length, 30u);
    EXPECT_EQ(at(list, 1).length, 5u);
}

TEST(Extents, TheLastEntryIsClampedToTheRequest)
{
    List list = new_list();
    uint32_t entries[] = {1000, 3};
    ASSERT_TRUE(vs_extents_append(list.get(), 0, 64, entries, 2));
    EXPECT_EQ(at(list, 0).length, 64u);
}

TEST(Extents, AnAnswerWithoutProgressIsRefused)
{
    List list = new_list();
    uint32_t zero_length[] = {0, 1};
    EXPECT_FALSE(vs_extents_append(list.get(), 0, 64, zero_length, 2));
    EXPECT_FALSE(vs_extents_append(list.get(), 0, 64, zero_length, 0));
}

TEST(Extents, SettingFlagsFromAnOffsetOnAgreesWithTheNaiveWay)
{
    std::mt19937 random(1);
    for (int round = 0; round < 2000; round++) {
        Units units(1 + random() % 20);
        for (uint32_t &unit : units)
            unit = random() % 2;
        List list = list_of(units, 50);
        uint64_t from = 40 + random() % 40;
        vs_extents_set_from(list.get(), from, 1);
        for (size_t i = 0; i < units.size(); i++)
            if (50 + i >= from)
                units[i] = 1;
        ASSERT_EQ(units_of(list, 50, units.size()), units) << "round " << round;
    }
}

TEST(Extents, MarkingAndLookingUpAgreeWithTheNaiveWay)
{
    unsigned seed = std::random_device{}();
    printf("seed %u\n", seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 2000; round++) {
        Units units(1 + random() % 30);
        for (uint32_t &unit : units)
            unit = random() % 4;
        uint32_t mask = random() % 2 ? 1 : UINT32_MAX;
        List list = list_of(units, 50);
        vs_extents_mark(list.get(), mask);
        for (uint32_t &unit : units)
            unit = unit & mask ? VS_EXTENT_DIRTY : 0;
        ASSERT_EQ(units_of(list, 50, units.size()), units) << "round " << round;
        for (size_t i = 0; i < units.size(); i++) {
            const VsExtent *extent = vs_extents_at(list.get(), 50 + i);
            size_t first = i, end = i + 1;
            while (first > 0 && units[first - 1] == units[i])
                first--;
            while (end < units.size() && units[end] == units[i])
                end++;
            ASSERT_EQ(extent->offset, 50 + first) << "round " << round << " at " << i;
            ASSERT_EQ(extent->length, end - first);
            ASSERT_EQ(extent->flags, units[i]);
        }
    }
}

TEST(Extents, PiecesAreWhatIsDirtyAndZeroOnlyWhereBothAnswersSaySo)
{
    unsigned seed = std::random_device{}();
    printf("seed %u\n", seed);
    std::mt19937 random(seed);
    for (int round = 0; round < 2000; round++) {
        size_t count = 1 + random() % 30;
        Units dirty(count), first(count), second(count), expected(count);
        for (size_t i = 0; i < count; i++) {
            dirty[i] = random() % 2;
            first[i] = random() % 4;
            second[i] = random() % 4;
            bool zero = (first[i] & 2) && (second[i] & 2);
            expected[i] = !dirty[i] ? kAbsent : zero ? VS_PIECE_ZERO : 0;
        }
        List a = list_of(dirty, 7), b = list_of(first, 7), c = list_of(second, 7);
        List pieces(vs_extents_pieces(a.get(), b.get(), c.get()), g_array_unref);
        ASSERT_EQ(units_of(pieces, 7, count), expected) << "round " << round;
        for (unsigned i = 1; i < pieces->len; i++)
            ASSERT_FALSE(at(pieces, i - 1).offset + at(pieces, i - 1).length ==
                             at(pieces, i).offset &&
                         at(pieces, i - 1).flags == at(pieces, i).flags);
    }
}

TEST(Extents, WithoutABitmapEverythingIsDirtyAndWithoutAllocationEverythingIsData)
{
    Units allocation = {0, 2, 3, 1};
    List list = list_of(allocation, 0);
    List pieces(vs_extents_pieces(nullptr, list.get(), nullptr), g_array_unref);
    EXPECT_EQ(units_of(pieces, 0, 4), (Units{0, VS_PIECE_ZERO, VS_PIECE_ZERO, 0}));

    Units dirty = {1, 0, 1, 1};
    list = list_of(dirty, 0);
    pieces = List(vs_extents_pieces(list.get(), nullptr, nullptr), g_array_unref);
    EXPECT_EQ(units_of(pieces, 0, 4), (Units{0, kAbsent, 0, 0}));
}

} // namespace
