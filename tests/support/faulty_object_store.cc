// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/support/faulty_object_store.h"

#include <cstring>
#include <vector>

namespace support
{

namespace
{

void
FreeNothing(VsObjectStore *)
{
}

bool
SetNotFound(const char *name, GError **error)
{
    g_set_error(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_NOT_FOUND,
                "find object \"%s\": there is none", name);
    return false;
}

} // namespace

const VsObjectStoreOps FaultyObjectStore::kOps = {
    FreeNothing, Put, PutStream, GetRange, GetSize, List, Remove,
};

FaultyObjectStore::FaultyObjectStore(VsObjectStore *inner) : shell_{{&kOps}, this}, inner_(inner)
{
}

void
FaultyObjectStore::FailAt(uint64_t nth, Fault fault, unsigned operations)
{
    std::lock_guard<std::mutex> lock(mutex_);
    nth_ = nth;
    fault_ = fault;
    operations_ = fault == Fault::kNoSpace ? unsigned{kPut} : operations;
    calls_ = 0;
    struck_ = false;
}

void
FaultyObjectStore::Heal()
{
    FailAt(0, Fault::kOnce);
}

uint64_t
FaultyObjectStore::calls() const
{
    std::lock_guard<std::mutex> lock(mutex_);
    return calls_;
}

bool
FaultyObjectStore::struck() const
{
    std::lock_guard<std::mutex> lock(mutex_);
    return struck_;
}

std::map<std::string, std::string>
FaultyObjectStore::Objects() const
{
    std::lock_guard<std::mutex> lock(mutex_);
    return objects_;
}

void
FaultyObjectStore::SetObject(const std::string &name, const std::string &content)
{
    std::lock_guard<std::mutex> lock(mutex_);
    objects_[name] = content;
}

void
FaultyObjectStore::EraseObject(const std::string &name)
{
    std::lock_guard<std::mutex> lock(mutex_);
    objects_.erase(name);
}

FaultyObjectStore *
FaultyObjectStore::Of(VsObjectStore *store)
{
    return reinterpret_cast<Shell *>(store)->owner;
}

FaultyObjectStore::Verdict
FaultyObjectStore::Judge(Operation operation)
{
    std::lock_guard<std::mutex> lock(mutex_);
    bool counts = (operations_ & operation) != 0;
    calls_ += counts;
    bool is_it = nth_ != 0 && counts && calls_ == nth_;
    bool is_after = nth_ != 0 && struck_;
    struck_ = struck_ || is_it;
    switch (fault_) {
    case Fault::kOnce:
        return is_it ? Verdict::kFail : Verdict::kPass;
    case Fault::kFromThenOn:
        return is_it || is_after ? Verdict::kFail : Verdict::kPass;
    case Fault::kAfterEffect:
        return is_it ? Verdict::kFailAfter : is_after ? Verdict::kFail : Verdict::kPass;
    case Fault::kNoSpace:
        return is_it || (is_after && counts) ? Verdict::kFail : Verdict::kPass;
    }
    return Verdict::kPass;
}

bool
FaultyObjectStore::Tell(Verdict verdict, bool done, const char *name, GError **error)
{
    if (verdict == Verdict::kPass) {
        return done;
    }
    if (!done && error != nullptr) {
        g_clear_error(error);
    }
    std::lock_guard<std::mutex> lock(mutex_);
    bool no_space = fault_ == Fault::kNoSpace;
    g_set_error(error, VS_OBJECT_STORE_ERROR,
                no_space ? VS_OBJECT_STORE_ERROR_NO_SPACE : VS_OBJECT_STORE_ERROR_FAILED,
                "use object \"%s\": %s", name, no_space ? "no space (injected)" : "injected");
    return false;
}

bool
FaultyObjectStore::Put(VsObjectStore *store, const char *name, const struct iovec *parts,
                       unsigned part_count, GError **error)
{
    FaultyObjectStore *self = Of(store);
    Verdict verdict = self->Judge(kPut);
    bool done = false;
    if (verdict != Verdict::kFail && self->inner_ != nullptr) {
        done = vs_object_store_put(self->inner_, name, parts, part_count, error);
    } else if (verdict != Verdict::kFail) {
        std::string content;
        for (unsigned i = 0; i < part_count; i++) {
            content.append(static_cast<const char *>(parts[i].iov_base), parts[i].iov_len);
        }
        self->SetObject(name, content);
        done = true;
    }
    return self->Tell(verdict, done, name, error);
}

bool
FaultyObjectStore::PutStream(VsObjectStore *store, const char *name, VsObjectSourceFunc source,
                             gpointer user_data, GError **error)
{
    FaultyObjectStore *self = Of(store);
    Verdict verdict = self->Judge(kPut);
    if (verdict == Verdict::kFail) {
        return self->Tell(verdict, false, name, error);
    }
    if (self->inner_ != nullptr) {
        bool done = vs_object_store_put_stream(self->inner_, name, source, user_data, error);
        return self->Tell(verdict, done, name, error);
    }
    std::string content;
    std::vector<char> buffer(4096);
    for (;;) {
        size_t length = 0;
        if (!source(user_data, buffer.data(), buffer.size(), &length, error)) {
            return false;
        }
        if (length == 0) {
            break;
        }
        content.append(buffer.data(), length);
    }
    self->SetObject(name, content);
    return self->Tell(verdict, true, name, error);
}

bool
FaultyObjectStore::GetRange(VsObjectStore *store, const char *name, uint64_t offset, void *buffer,
                            size_t length, GError **error)
{
    FaultyObjectStore *self = Of(store);
    if (self->Judge(kGet) != Verdict::kPass) {
        return self->Tell(Verdict::kFail, false, name, error);
    }
    if (self->inner_ != nullptr) {
        return vs_object_store_get_range(self->inner_, name, offset, buffer, length, error);
    }
    std::lock_guard<std::mutex> lock(self->mutex_);
    auto found = self->objects_.find(name);
    if (found == self->objects_.end()) {
        return SetNotFound(name, error);
    }
    const std::string &content = found->second;
    if (offset > content.size() || length > content.size() - offset) {
        g_set_error(error, VS_OBJECT_STORE_ERROR, VS_OBJECT_STORE_ERROR_SHORT,
                    "read object \"%s\": it is too short", name);
        return false;
    }
    if (length > 0) {
        memcpy(buffer, content.data() + offset, length);
    }
    return true;
}

bool
FaultyObjectStore::GetSize(VsObjectStore *store, const char *name, uint64_t *size, GError **error)
{
    FaultyObjectStore *self = Of(store);
    if (self->Judge(kGet) != Verdict::kPass) {
        return self->Tell(Verdict::kFail, false, name, error);
    }
    if (self->inner_ != nullptr) {
        return vs_object_store_get_size(self->inner_, name, size, error);
    }
    std::lock_guard<std::mutex> lock(self->mutex_);
    auto found = self->objects_.find(name);
    if (found == self->objects_.end()) {
        return SetNotFound(name, error);
    }
    *size = found->second.size();
    return true;
}

GPtrArray *
FaultyObjectStore::List(VsObjectStore *store, const char *folder, GError **error)
{
    FaultyObjectStore *self = Of(store);
    if (self->Judge(kList) != Verdict::kPass) {
        self->Tell(Verdict::kFail, false, folder, error);
        return nullptr;
    }
    if (self->inner_ != nullptr) {
        return vs_object_store_list(self->inner_, folder, error);
    }
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    std::string prefix = std::string(folder) + "/";
    std::lock_guard<std::mutex> lock(self->mutex_);
    for (auto at = self->objects_.lower_bound(prefix);
         at != self->objects_.end() && at->first.compare(0, prefix.size(), prefix) == 0; ++at) {
        g_ptr_array_add(names, g_strdup(at->first.c_str() + prefix.size()));
    }
    return names;
}

bool
FaultyObjectStore::Remove(VsObjectStore *store, const char *name, GError **error)
{
    FaultyObjectStore *self = Of(store);
    Verdict verdict = self->Judge(kRemove);
    bool done = false;
    if (verdict != Verdict::kFail && self->inner_ != nullptr) {
        done = vs_object_store_remove(self->inner_, name, error);
    } else if (verdict != Verdict::kFail) {
        std::lock_guard<std::mutex> lock(self->mutex_);
        done = self->objects_.erase(name) > 0 || SetNotFound(name, error);
    }
    return self->Tell(verdict, done, name, error);
}

} // namespace support
