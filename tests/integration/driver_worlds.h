// SPDX-License-Identifier: LGPL-2.1-or-later
// The places where a hypervisor driver has to do the same: an instance with two qcow2 disks, vda
// (16 MiB) and vdb (8 MiB and a bit), that one kind of driver reaches.
#ifndef TESTS_INTEGRATION_DRIVER_WORLDS_H
#define TESTS_INTEGRATION_DRIVER_WORLDS_H

#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plugin/hypervisor/libvirt-driver.h"
#include "plugin/hypervisor/storage-driver.h"
#include "tests/support/libvirt-daemon.h"
#include "tests/support/libvirt-domain.h"
#include "tests/support/process.h"
#include "tests/support/qemu-process.h"
#include "tests/support/temp-dir.h"

namespace driver_test
{

using support::LibvirtDaemon;
using support::LibvirtDomain;
using support::must_run;
using support::QemuProcess;
using support::TempDir;

constexpr uint64_t kSizes[] = {16 << 20, (8 << 20) + 512};
const char *const kTargets[] = {"vda", "vdb"};
const char *const kInstance = "i-aaaaaaaaaaaaaaaaaaaa";

class World
{
  public:
    // Makes the images, unless it is to reach those of another process.
    explicit World(bool is_own)
    {
        for (unsigned i = 0; is_own && i < 2; i++)
            must_run(
                {"qemu-img", "create", "-q", "-f", "qcow2", image(i), std::to_string(kSizes[i])});
    }
    virtual ~World() = default;

    std::string
    image(unsigned index) const
    {
        return dir_.file(std::string(kTargets[index]) + ".qcow2");
    }
    // What world_at() needs to reach the same instance from another process.
    virtual std::vector<std::string> address() const = 0;
    // A new driver of a repository, NULL with error.
    virtual VsDriver *open(const char *repository, GError **error) = 0;
    // Writes to a disk as the guest does: "write -P 0xaa 1M 64k".
    virtual void write(unsigned index, const std::string &command) = 0;
    // Whether a guest runs, so that it can write during a point in time, and needs scratch space.
    virtual bool is_running() const = 0;
    // Does what makes a point in time untenable.
    virtual void upset() = 0;

  protected:
    TempDir dir_;
};

class QmpWorld : public World
{
  public:
    QmpWorld() : World(true)
    {
        std::vector<std::string> disks;
        for (unsigned i = 0; i < 2; i++)
            for (const std::string &word : QemuProcess::virtio_disk(
                     image(i), "qcow2", std::string("node-") + kTargets[i], kTargets[i]))
                disks.push_back(word);
        qemu_ = std::make_unique<QemuProcess>(dir_, QemuProcess::idle(disks));
        qemu_->monitor().execute("cont");
    }
    std::vector<std::string>
    address() const override
    {
        return {qemu_->socket()};
    }
    VsDriver *
    open(const char *repository, GError **error) override
    {
        return vs_qmp_driver_connect(qemu_->socket().c_str(), repository, kInstance, nullptr,
                                     error);
    }
    void
    write(unsigned index, const std::string &command) override
    {
        qemu_->disk_io(kTargets[index], command);
    }
    bool
    is_running() const override
    {
        return true;
    }
    void
    upset() override
    {
        qemu_->kill();
    }

  private:
    std::unique_ptr<QemuProcess> qemu_;
};

// A domain of a private libvirtd, running or stopped.
class DomainWorld : public World
{
  public:
    DomainWorld() : World(true), daemon_(dir_)
    {
        support::LibvirtDomainOptions options;
        for (unsigned i = 0; i < 2; i++)
            options.disks.push_back({kTargets[i], image(i)});
        domain_ = std::make_unique<LibvirtDomain>(daemon_, options);
        domain_->define();
    }
    std::vector<std::string>
    address() const override
    {
        return {daemon_.uri(), domain_->name()};
    }
    VsDriver *
    open(const char *repository, GError **error) override
    {
        return vs_libvirt_driver_open(daemon_.uri().c_str(), domain_->name().c_str(), repository,
                                      kInstance, error);
    }

  protected:
    LibvirtDaemon daemon_;
    std::unique_ptr<LibvirtDomain> domain_;
};

// An instance of another process, by its address: only opens drivers.
class RemoteWorld : public World
{
  public:
    explicit RemoteWorld(std::vector<std::string> address)
        : World(false), address_(std::move(address))
    {
    }
    std::vector<std::string>
    address() const override
    {
        return address_;
    }
    VsDriver *
    open(const char *repository, GError **error) override
    {
        if (address_.size() == 1)
            return vs_qmp_driver_connect(address_[0].c_str(), repository, kInstance, nullptr,
                                         error);
        return vs_libvirt_driver_open(address_[0].c_str(), address_[1].c_str(), repository,
                                      kInstance, error);
    }
    void
    write(unsigned /*index*/, const std::string & /*command*/) override
    {
        std::abort();
    }
    bool
    is_running() const override
    {
        std::abort();
    }
    void
    upset() override
    {
        std::abort();
    }

  private:
    std::vector<std::string> address_;
};

inline std::unique_ptr<World>
world_at(const std::vector<std::string> &address)
{
    return std::make_unique<RemoteWorld>(address);
}

class RunningDomainWorld : public DomainWorld
{
  public:
    RunningDomainWorld()
    {
        domain_->start();
    }
    void
    write(unsigned index, const std::string &command) override
    {
        domain_->disk_io(kTargets[index], command);
    }
    bool
    is_running() const override
    {
        return true;
    }
    void
    upset() override
    {
        domain_->destroy();
    }
};

class StoppedDomainWorld : public DomainWorld
{
  public:
    void
    write(unsigned index, const std::string &command) override
    {
        must_run({"qemu-io", "-f", "qcow2", "-c", command, image(index)});
    }
    bool
    is_running() const override
    {
        return false;
    }
    void
    upset() override
    {
        domain_->start();
    }
};

struct WorldKind {
    const char *name;
    std::function<std::unique_ptr<World>()> make;
};

inline std::vector<WorldKind>
world_kinds()
{
    return {{"Qmp", [] { return std::make_unique<QmpWorld>(); }},
            {"RunningDomain", [] { return std::make_unique<RunningDomainWorld>(); }},
            {"StoppedDomain", [] { return std::make_unique<StoppedDomainWorld>(); }}};
}

} // namespace driver_test

#endif
