// SPDX-License-Identifier: LGPL-2.1-or-later
// An object store that fails when told to: in memory, or in front of another one.
//
// What it is for: run something with FailAt(1, …), FailAt(2, …), … until it gets through, and see
// each time that what was promised before is still true. Any thread.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "nbd-export/store/object-store.h"

namespace support
{

enum class Fault {
    kOnce,        // that call has no effect and fails; those after it work
    kFromThenOn,  // that call and all after it have no effect and fail: killed before it
    kAfterEffect, // that call has its effect, yet it and all after it fail: killed after it
    kNoSpace,     // that put and all puts after it fail for want of space; the other calls work
};

enum Operation : unsigned {
    kPut = 1,
    kGet = 2, // ranges and sizes
    kList = 4,
    kRemove = 8,
    kAnyOperation = kPut | kGet | kList | kRemove,
};

class FaultyObjectStore
{
  public:
    // inner is borrowed; nullptr: objects are held in memory.
    explicit FaultyObjectStore(VsObjectStore *inner = nullptr);
    FaultyObjectStore(const FaultyObjectStore &) = delete;
    FaultyObjectStore &operator=(const FaultyObjectStore &) = delete;

    // To be handed to the code under test; owned by this. Freeing it does nothing, so that it
    // outlives what opened it.
    VsObjectStore *
    store()
    {
        return &shell_.base;
    }

    // The nth (from 1) of the operations from now on fails. Calls are counted from 0 again.
    void FailAt(uint64_t nth, Fault fault, unsigned operations = kAnyOperation);
    // Nothing fails any more; calls are counted from 0 again.
    void Heal();
    // Since FailAt() or Heal(): of the operations that count.
    uint64_t calls() const;
    // Whether the fault has struck.
    bool struck() const;

    // In memory only: the objects, to look at and to damage.
    std::map<std::string, std::string> Objects() const;
    void SetObject(const std::string &name, const std::string &content);
    void EraseObject(const std::string &name);

  private:
    struct Shell {
        VsObjectStore base; // first: the C side's pointer is to it
        FaultyObjectStore *owner;
    };
    enum class Verdict { kPass, kFail, kFailAfter };

    static FaultyObjectStore *Of(VsObjectStore *store);
    static bool Put(VsObjectStore *store, const char *name, const struct iovec *parts,
                    unsigned part_count, GError **error);
    static bool PutStream(VsObjectStore *store, const char *name, VsObjectSourceFunc source,
                          gpointer user_data, GError **error);
    static bool GetRange(VsObjectStore *store, const char *name, uint64_t offset, void *buffer,
                         size_t length, GError **error);
    static bool GetSize(VsObjectStore *store, const char *name, uint64_t *size, GError **error);
    static GPtrArray *List(VsObjectStore *store, const char *folder, GError **error);
    static bool Remove(VsObjectStore *store, const char *name, GError **error);

    Verdict Judge(Operation operation);
    // Turns what the operation did into what its caller gets to know.
    bool Tell(Verdict verdict, bool done, const char *name, GError **error);

    static const VsObjectStoreOps kOps;
    Shell shell_;
    VsObjectStore *inner_;
    mutable std::mutex mutex_; // guards what follows
    std::map<std::string, std::string> objects_;
    uint64_t nth_ = 0; // 0: no fault
    Fault fault_ = Fault::kOnce;
    unsigned operations_ = kAnyOperation;
    uint64_t calls_ = 0;
    bool struck_ = false;
};

} // namespace support
