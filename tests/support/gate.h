// SPDX-License-Identifier: LGPL-2.1-or-later
// The capability gate: one per test executable, in its main(). A GTest binary whose tests all skip
// counts as passed, so what is missing must be seen before GTest starts.
#ifndef TESTS_SUPPORT_GATE_H
#define TESTS_SUPPORT_GATE_H

#include <string>
#include <vector>

namespace support
{

// Runs all tests if every capability of @needed is there:
//   qemu     qemu-system-x86_64, qemu-img, qemu-storage-daemon
//   nbd      nbdinfo, nbdcopy
//   guest    the built guest (its kernel and busybox were installed when meson was set up)
//   libvirt  libvirtd, virsh
// Else returns 77 (skipped), or 1 when VIRTSNAP_TEST_REQUIRE, a comma-separated list, names what
// is missing.
int gated_main(int argc, char **argv, const std::vector<std::string> &needed);

} // namespace support

// The executable's main(): VS_TEST_MAIN("qemu", "guest")
#define VS_TEST_MAIN(...)                                                                          \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return support::gated_main(argc, argv, {__VA_ARGS__});                                     \
    }                                                                                              \
    static_assert(true, "takes the semicolon")

#endif
