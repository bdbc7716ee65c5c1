// SPDX-License-Identifier: LGPL-2.1-or-later
// The oracle itself: check-records must accept what the writer may leave behind at any instant and
// refuse everything else.
#include "tests/support/gate.h"
#include "tests/support/guest-vm.h"
#include "tests/support/temp-dir.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

// record.h is C11, which says _Static_assert.
#define _Static_assert static_assert
#include "vm-images/record.h"

using namespace support;

namespace
{

constexpr uint32_t MAX_DISKS = 3;
constexpr off_t IMAGE_SIZE_BYTES = 1024 * 1024;

class CheckRecords : public testing::Test
{
  protected:
    CheckRecords()
    {
        for (int &fd : fds_) {
            fd = open(path(static_cast<uint32_t>(&fd - fds_)).c_str(), O_CREAT | O_RDWR, 0600);
            EXPECT_EQ(0, ftruncate(fd, IMAGE_SIZE_BYTES));
        }
    }
    ~CheckRecords() override
    {
        for (int fd : fds_)
            close(fd);
    }
    std::string
    path(uint32_t disk) const
    {
        return dir_.file(std::string(1, static_cast<char>('a' + disk)) + ".raw");
    }
    VsRecord
    record(uint32_t disk, uint64_t sequence) const
    {
        VsRecord result;

        vs_record_fill(&result, geometry_, disk, sequence);
        return result;
    }
    void
    put(uint32_t disk, uint64_t slot, const VsRecord &content, size_t length = sizeof(VsRecord))
    {
        EXPECT_EQ(static_cast<ssize_t>(length),
                  pwrite(fds_[disk], &content, length, static_cast<off_t>(slot * sizeof content)));
    }
    // What the writer leaves when its last records are @last, from the first disk on.
    void
    write_up_to(const std::vector<uint64_t> &last)
    {
        geometry_.disks = static_cast<uint32_t>(last.size());
        for (uint32_t disk = 0; disk < geometry_.disks; disk++)
            for (uint64_t sequence = 1; sequence <= last[disk]; sequence++)
                put(disk, record(disk, sequence).slot, record(disk, sequence));
    }
    Outcome
    check() const
    {
        std::vector<std::string> images;

        for (uint32_t disk = 0; disk < geometry_.disks; disk++)
            images.push_back(path(disk));
        return check_records(images);
    }
    void
    expect_refused(const std::string &reason) const
    {
        Outcome outcome = check();

        EXPECT_EQ(1, outcome.exit_code);
        EXPECT_NE(std::string::npos, outcome.err.find(reason)) << outcome.err;
        EXPECT_EQ("", outcome.out);
    }

  private:
    TempDir dir_;
    VsRecordGeometry geometry_ = {64, 2};
    int fds_[MAX_DISKS];
};

TEST_F(CheckRecords, AcceptsBothDisksAtTheSameRecord)
{
    write_up_to({20, 20});
    Outcome outcome = check();
    EXPECT_EQ(0, outcome.exit_code) << outcome.err;
    EXPECT_EQ("seq_a=20 seq_b=20 records_ok=40\n", outcome.out);
}

TEST_F(CheckRecords, AcceptsTheFirstDiskOneAheadAfterManyRounds)
{
    write_up_to({1001, 1000});
    Outcome outcome = check();
    EXPECT_EQ(0, outcome.exit_code) << outcome.err;
    EXPECT_EQ("seq_a=1001 seq_b=1000 records_ok=128\n", outcome.out);
}

TEST_F(CheckRecords, AcceptsTheVeryFirstRecord)
{
    write_up_to({1, 0});
    EXPECT_EQ("seq_a=1 seq_b=0 records_ok=1\n", check().out);
}

TEST_F(CheckRecords, RefusesATornRecord)
{
    write_up_to({100, 100});
    // Record 101 has reached its slot only by half: the rest is that of record 37.
    put(0, record(0, 101).slot, record(0, 101), 2048);
    expect_refused("torn record");
}

TEST_F(CheckRecords, RefusesAnOldRecordWhereANewerOneBelongs)
{
    write_up_to({100, 100});
    put(1, record(1, 90).slot, record(1, 90 - 64));
    expect_refused("holds record 26, must hold 90");
}

TEST_F(CheckRecords, RefusesALostRecord)
{
    write_up_to({20, 20});
    put(0, record(0, 7).slot, VsRecord());
    expect_refused("holds record 0, must hold 7");
}

TEST_F(CheckRecords, RefusesTheSecondDiskAhead)
{
    write_up_to({100, 101});
    expect_refused("write order");
}

TEST_F(CheckRecords, RefusesTheFirstDiskTwoAhead)
{
    write_up_to({102, 100});
    expect_refused("write order");
}

TEST_F(CheckRecords, RefusesAThirdDiskAheadOfTheSecond)
{
    write_up_to({100, 99, 100});
    expect_refused("write order");
}

TEST_F(CheckRecords, RefusesARecordInAnotherSlot)
{
    write_up_to({20, 20});
    put(0, record(0, 25).slot, record(0, 5));
    expect_refused("of slot");
}

TEST_F(CheckRecords, RefusesARecordOfTheOtherDisk)
{
    write_up_to({20, 20});
    put(1, record(1, 5).slot, record(0, 5));
    expect_refused("record of disk 0, not 1");
}

TEST_F(CheckRecords, RefusesForeignBytes)
{
    VsRecord noise = VsRecord();

    write_up_to({20, 20});
    noise.payload[3] = 1;
    put(0, record(0, 40).slot, noise);
    expect_refused("neither zero nor a record");
}

TEST_F(CheckRecords, RefusesDisksWithoutAnyRecord)
{
    expect_refused("no record at all");
}

TEST_F(CheckRecords, RefusesAnImageThatEndsEarly)
{
    write_up_to({100, 100});
    ASSERT_EQ(0, truncate(path(1).c_str(), 32 * 4096));
    expect_refused("ends before slot 32");
}

} // namespace

VS_TEST_MAIN();
