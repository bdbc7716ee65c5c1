// SPDX-License-Identifier: LGPL-2.1-or-later
// What an image can be turned into behind a snapshot's back where no libvirt knows of it: what its
// guest makes it look like, shorter for a while, one of several that share a bitmap's name. The
// next create is exact, or refused in clear words. The oracle is qemu-img, which is told the
// format.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>
#include <system_error>
#include <unistd.h>

#include "tests/support/gate.h"
#include "tests/support/qemu-process.h"
#include "tests/support/virtsnap.h"

namespace
{

using support::Json;
using support::json_quote;
using support::must_run;
using support::Outcome;
using support::QemuProcess;
using support::TempDir;
using support::Virtsnap;

// Notices an event of inotify's at one of some files, whatever process does it.
class FileWatch
{
  public:
    FileWatch(const std::vector<std::string> &paths, uint32_t event)
        : fd_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK))
    {
        for (const std::string &path : paths)
            if (inotify_add_watch(fd_, path.c_str(), event) < 0)
                throw std::system_error(errno, std::generic_category(), "watching " + path);
    }
    ~FileWatch()
    {
        close(fd_);
    }
    FileWatch(const FileWatch &) = delete;
    FileWatch &operator=(const FileWatch &) = delete;

    // Whether it was since the watch began.
    bool
    has_seen() const
    {
        pollfd poll_fd = {fd_, POLLIN, 0};
        return poll(&poll_fd, 1, 0) > 0;
    }

  private:
    int fd_;
};

class ImageDoubt : public testing::Test
{
  protected:
    void
    SetUp() override
    {
        virtsnap_.json({"repo", "init"});
        std::ofstream(secret_) << std::string(1 << 20, '#');
    }
    void
    make_image(const std::string &format)
    {
        format_ = format;
        must_run({"qemu-img", "create", "-q", "-f", format, image_, "16M"});
        must_run({"qemu-io", "-f", format, "-c", "write -q -P 1 0 16M", image_});
    }
    void
    start()
    {
        qemu_ = std::make_unique<QemuProcess>(
            dir_, QemuProcess::idle(QemuProcess::virtio_disk(image_, format_, "top", "dA")));
        qemu_->monitor().execute("cont");
    }
    Json
    create(const std::string &instance)
    {
        return virtsnap_.json({"create", instance})["snapshots"][0];
    }
    Json
    create_running()
    {
        return create("qmp:" + qemu_->socket());
    }
    Json
    create_stopped()
    {
        return create("file:" + image_);
    }
    void
    expect_exact(const Json &snapshot)
    {
        const std::string oracle = dir_.file("oracle"), restored = dir_.file("restored");
        if (qemu_ && qemu_->process().running())
            qemu_->disk_io("dA", "flush");
        must_run({"qemu-img", "convert", "-U", "-f", format_, "-O", "raw", image_, oracle});
        virtsnap_.json({"restore", snapshot["id"].text(), "--to", restored, "--format", "raw"});
        const Outcome outcome = support::run({"cmp", oracle, restored});
        EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err << snapshot.dump();
        EXPECT_EQ(snapshot["mode"].text() == "full", !snapshot["mode_reason"].is_null());
        std::filesystem::remove(restored);
    }
    void
    expect_exact(const Json &snapshot, const std::string &mode)
    {
        EXPECT_EQ(snapshot["mode"].text(), mode) << snapshot.dump();
        expect_exact(snapshot);
    }
    void
    expect_never_attached(const std::string &command)
    {
        const Outcome outcome = virtsnap_.run({"--output", "json", command, "file:" + image_});
        EXPECT_EQ(outcome.exit_code, 3) << outcome.out << outcome.err;
        EXPECT_EQ(Json::parse(outcome.out)["error"]["code"].text(),
                  "IncorrectDiskStatus.NeverAttached");
        EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    }
    // A qcow2 header that names a file of the host's.
    std::string
    make_header(const std::vector<std::string> &options)
    {
        const std::string header = dir_.file("header");
        std::vector<std::string> line = {"qemu-img", "create", "-q", "-u", "-f", "qcow2"};
        line.insert(line.end(), options.begin(), options.end());
        line.insert(line.end(), {header, "1M"});
        must_run(line);
        return header;
    }

    TempDir dir_;
    // No libvirt, whatever the host has.
    Virtsnap virtsnap_{dir_.file("repo"), "qemu+unix:///session?socket=" + dir_.file("absent")};
    std::string image_ = dir_.file("image");
    std::string format_;
    std::string secret_ = dir_.file("secret");
    std::unique_ptr<QemuProcess> qemu_;
};

// Formats ---------------------------------------------------------------------------------------

TEST_F(ImageDoubt, AnImageThatNeverWasAttachedIsRefusedBeforeAnybodyLooksIntoIt)
{
    const std::vector<std::vector<std::string>> headers = {
        {}, {"-b", secret_, "-F", "raw"}, {"-o", "data_file=" + secret_ + ",data_file_raw=on"}};
    for (const auto &options : headers) {
        SCOPED_TRACE(options.empty() ? "plain" : options[1]);
        std::filesystem::copy_file(make_header(options), image_,
                                   std::filesystem::copy_options::overwrite_existing);
        const FileWatch opened({image_, secret_}, IN_OPEN);
        expect_never_attached("create");
        EXPECT_FALSE(opened.has_seen());
        // This one opens the image to look at its lock.
        const FileWatch read({image_, secret_}, IN_ACCESS);
        expect_never_attached("disks");
        EXPECT_FALSE(read.has_seen());
        must_run({"cat", image_});
        EXPECT_TRUE(opened.has_seen() && read.has_seen()) << "the watch is blind";
    }
}

TEST_F(ImageDoubt, ARawImageIsRawWhateverHeaderItsGuestWritesIntoIt)
{
    make_image("raw");
    start();
    expect_exact(create_running(), "full");
    const std::string header = make_header({"-b", secret_, "-F", "raw"});
    const FileWatch watch({secret_}, IN_OPEN);
    qemu_->disk_io("dA", "write -s " + header + " 0 " +
                             std::to_string(std::filesystem::file_size(header)));
    expect_exact(create_running());
    qemu_->quit();
    expect_exact(create_stopped(), "full");
    expect_exact(create_stopped(), "full");
    EXPECT_FALSE(watch.has_seen());
}

TEST_F(ImageDoubt, ARawImageThatHasBecomeQcow2IsReadAsSuch)
{
    make_image("raw");
    start();
    expect_exact(create_running(), "full");
    qemu_->quit();
    must_run({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", image_, dir_.file("other")});
    std::filesystem::rename(dir_.file("other"), image_);
    format_ = "qcow2";
    start();
    qemu_->disk_io("dA", "write -P 2 5M 1M");
    expect_exact(create_running(), "full");
    qemu_->disk_io("dA", "write -P 3 6M 1M");
    qemu_->quit();
    expect_exact(create_stopped(), "incremental");
}

// Sizes -----------------------------------------------------------------------------------------

// An overlay that is grown over a longer backing file: QEMU writes zeroes there, past the bitmaps.
TEST_F(ImageDoubt, AnOverlayThatWasCutAndGrewAgainIsExact)
{
    make_image("qcow2");
    const std::string base = image_;
    for (const uint64_t cut : {512, 40960}) {
        SCOPED_TRACE("cut by " + std::to_string(cut));
        image_ = dir_.file("overlay" + std::to_string(cut));
        must_run({"qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", image_});
        start();
        expect_exact(create_running(), "full");
        const uint64_t whole = 16 << 20;
        for (const uint64_t size : {whole - cut, whole})
            qemu_->monitor().execute("block_resize", R"({"node-name": "top", "size": )" +
                                                         std::to_string(size) + "}");
        expect_exact(create_running());
        qemu_->quit();
        for (const uint64_t size : {whole - cut, whole})
            must_run({"qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", image_,
                      std::to_string(size)});
        expect_exact(create_stopped());
        must_run({"qemu-io", "-f", "qcow2", "-c", "write -q -P 5 1M 64k", image_});
        expect_exact(create_stopped(), "incremental");
    }
}

// Chains ----------------------------------------------------------------------------------------

class ImageRotation : public ImageDoubt
{
  protected:
    // A snapshot of an overlay; then what libvirt does for a commit of it and a new overlay under
    // the same name: its bitmap goes on in the base, and then in the new one. Neither the base's
    // size nor its time of the last write tell that anything happened, as on a block device.
    void
    rotate()
    {
        make_image("qcow2");
        base_ = image_;
        std::filesystem::resize_file(base_, 64 << 20);
        start();
        image_ = dir_.file("overlay");
        add_overlay("top", "over");
        expect_exact(create_running(), "full");
        const auto written = std::filesystem::last_write_time(base_);
        qemu_->disk_io("dA", "write -P 2 2560k 64k");
        const std::string bitmap = bitmap_of("over");
        add_bitmap("top", bitmap);
        run("block-dirty-bitmap-merge", R"({"node": "top", "target": )" + json_quote(bitmap) +
                                            R"(, "bitmaps": [{"node": "over", "name": )" +
                                            json_quote(bitmap) + "}]}");
        commit("over");
        add_overlay("top", "again", bitmap);
        qemu_->disk_io("dA", "write -P 3 11M 64k");
        std::filesystem::last_write_time(base_, written);
    }

  private:
    void
    run(const std::string &command, const std::string &arguments)
    {
        qemu_->monitor().execute(command, arguments);
    }
    void
    add_bitmap(const std::string &node, const std::string &bitmap)
    {
        run("block-dirty-bitmap-add", R"({"node": ")" + node +
                                          R"(", "persistent": true, "name": )" +
                                          json_quote(bitmap) + "}");
    }
    // The image is made anew in the same file, and put above the node.
    void
    add_overlay(const std::string &node, const std::string &overlay, const std::string &bitmap = "")
    {
        must_run({"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base_, "-F", "qcow2",
                  image_, "16M"});
        run("blockdev-add", R"({"driver": "qcow2", "node-name": ")" + overlay +
                                R"(", "backing": null, "file": {"driver": "file", "filename": )" +
                                json_quote(image_) + "}}");
        if (!bitmap.empty())
            add_bitmap(overlay, bitmap);
        run("blockdev-snapshot", R"({"node": ")" + node + R"(", "overlay": ")" + overlay + R"("})");
    }
    void
    commit(const std::string &overlay)
    {
        run("block-commit", R"({"job-id": "commit", "device": ")" + overlay + R"("})");
        qemu_->monitor().wait_event("BLOCK_JOB_READY");
        run("block-job-complete", R"({"device": "commit"})");
        qemu_->monitor().wait_event("BLOCK_JOB_COMPLETED");
        run("blockdev-del", R"({"node-name": ")" + overlay + R"("})");
    }
    // The one that the snapshot has left in the node, not its companion.
    std::string
    bitmap_of(const std::string &name)
    {
        for (const Json &node : qemu_->monitor().execute("query-named-block-nodes").items())
            if (node["node-name"].text() == name)
                for (const Json &bitmap : node["dirty-bitmaps"].items())
                    if (bitmap["name"].text().find(".end") == std::string::npos)
                        return bitmap["name"].text();
        throw std::runtime_error("no bitmap in " + name);
    }

    std::string base_;
};

TEST_F(ImageRotation, IsReadInFullWhileQemuRuns)
{
    rotate();
    expect_exact(create_running(), "full");
    qemu_->disk_io("dA", "write -P 4 7M 64k");
    expect_exact(create_running());
}

TEST_F(ImageRotation, IsReadInFullWhenQemuHasEnded)
{
    rotate();
    qemu_->quit();
    expect_exact(create_stopped(), "full");
    must_run({"qemu-io", "-f", "qcow2", "-c", "write -q -P 4 7M 64k", image_});
    expect_exact(create_stopped());
}

} // namespace

VS_TEST_MAIN("qemu");
