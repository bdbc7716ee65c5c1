#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Times `virtsnap create` beside the floor, in one run on one machine.

The floor of a first create is what it can't do without: reading the export (nbdcopy of the same disk from the same QEMU to a file) plus
compressing it on all cores (zstd at our level, from the file). Runs are interleaved; medians and ratios are printed, as machines are noisy.

Data: an ext4 file system with real files (those of /usr), filled up with half-random text where they are too few.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

GIB = 1 << 30


class Qmp:
    """A second monitor, for the benchmark itself."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]


@contextlib.contextmanager
def running_qemu(work, image):
    """An idle QEMU with one qcow2 disk; gives its two monitors' paths."""
    sockets = [str(work / name) for name in ("vm.qmp", "bench.qmp")]
    for path in sockets:
        pathlib.Path(path).unlink(missing_ok=True)
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-S", "-nodefaults", "-machine", "q35", "-display", "none"]
        + [word for path in sockets for word in ("-qmp", f"unix:{path},server=on,wait=off")]
        + ["-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image}",
           "-device", "virtio-blk-pci,drive=disk,id=vda"])
    try:
        yield sockets[0], Qmp(sockets[1])
    finally:
        qemu.kill()
        qemu.wait()


def measure(command, stderr=None):
    """Wall seconds, CPU seconds and peak memory in MiB (of the largest process) of a command, with its output."""
    read, write = os.pipe()
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=write, stderr=stderr, pass_fds=())
    os.close(write)
    with os.fdopen(read) as pipe:
        output = pipe.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)}: exit {child.returncode}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "mib": usage.ru_maxrss / 1024, "output": output}


def fill(folder, size):
    """Links real files of /usr into folder until they amount to size bytes."""
    total = 0
    for root, folders, files in os.walk("/usr"):
        folders.sort()
        for name in sorted(files):
            source = os.path.join(root, name)
            if os.path.islink(source) or not os.path.isfile(source):
                continue
            target = folder / root.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target / name)
            except OSError:
                shutil.copyfile(source, target / name)
            total += os.path.getsize(source)
            if total >= size:
                return total
    chooser = random.Random(1)
    with open(folder / "filler", "w") as filler:
        while total < size:
            total += filler.write(chooser.randbytes(1 << 19).hex())
    return total


def make_image(work, size):
    folder = pathlib.Path(tempfile.mkdtemp(dir="/usr" if os.access("/usr", os.W_OK) and
                                           os.stat("/usr").st_dev == os.stat(work).st_dev else work))
    try:
        held = fill(folder, size)
        raw = work / "data.raw"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(raw), f"{size // 1024 * 5 // 4}k"], check=True)
    finally:
        shutil.rmtree(folder)
    image = work / "data.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], check=True)
    raw.unlink()
    return image, held


def create(program, repository, vm):
    run = measure([program, "--repo", str(repository), "--output", "json", "create", f"qmp:{vm}"])
    run["snapshot"] = json.loads(run["output"])["snapshots"][0]
    return run


def fresh_repository(program, work):
    repository = work / "repo"
    shutil.rmtree(repository, ignore_errors=True)
    measure([program, "--repo", str(repository), "repo", "init"])
    return repository


def floor(work, monitor):
    """nbdcopy of the same disk from the same QEMU to a file, and zstd of that file."""
    path, copy = str(work / "nbd"), work / "copy.raw"
    monitor.run("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    monitor.run("block-export-add", type="nbd", id="bench", name="disk", **{"node-name": "disk"})
    copying = measure(["nbdcopy", f"nbd+unix:///disk?socket={path}", str(copy)])
    to_null = measure(["nbdcopy", f"nbd+unix:///disk?socket={path}", "null:"])
    monitor.run("block-export-del", id="bench", mode="hard")
    while monitor.run("query-block-exports"):
        time.sleep(0.01)
    monitor.run("nbd-server-stop")
    packing = measure(["zstd", "-q", "-1", "-T0", "-f", str(copy), "-o", "/dev/null"])
    copy.unlink()
    return {"copy": copying, "null": to_null, "zstd": packing, "wall": copying["wall"] + packing["wall"]}


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def report(name, wall, extra=""):
    print(f"  {name:<44}{wall:>9.3f} s   {extra}", flush=True)


def bench_data(args, work):
    image, held = make_image(work, args.size)
    ours, floors, unchanged = [], [], []
    with running_qemu(work, image) as (vm, monitor):
        for _ in range(args.runs):
            repository = fresh_repository(args.program, work)
            ours.append(create(args.program, repository, vm))
            floors.append(floor(work, monitor))
            unchanged.append(create(args.program, repository, vm))
    image.unlink()
    first = ours[0]["snapshot"]
    print(f"first create, {held / GIB:.2f} GiB of files, {first['read_bytes'] / GIB:.2f} GiB read:")
    report("virtsnap create", median(ours, "wall"), f"{median(ours, 'cpu'):.1f} s CPU, {max(r['mib'] for r in ours):.0f} MiB")
    report("floor: nbdcopy to a file + zstd -1 -T0", median(floors, "wall"))
    report("  nbdcopy to a file", median([f["copy"] for f in floors], "wall"))
    report("  nbdcopy to null:", median([f["null"] for f in floors], "wall"))
    report("  zstd -1 -T0", median([f["zstd"] for f in floors], "wall"))
    ratio = statistics.median(o["wall"] / f["wall"] for o, f in zip(ours, floors))
    print(f"  ratio create / floor: {ratio:.2f}   stored / read: {first['new_bytes'] / first['read_bytes']:.3f}")
    print("nothing changed since:")
    report("virtsnap create", median(unchanged, "wall"),
           f"{max(r['mib'] for r in unchanged):.0f} MiB, {max(r['snapshot']['read_bytes'] for r in unchanged)} bytes read")
    return [("first create / floor", ratio, 1.0),
            ("unchanged create, s", median(unchanged, "wall"), 0.150),
            ("unchanged create, bytes read", max(r["snapshot"]["read_bytes"] for r in unchanged), 0),
            ("peak memory of a first create, MiB", max(r["mib"] for r in ours), 128),
            ("peak memory of an unchanged create, MiB", max(r["mib"] for r in unchanged), 128)]


def bench_sparse(args, work):
    image = work / "sparse.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1T"], check=True)
    runs = []
    with running_qemu(work, image) as (vm, _):
        repository = fresh_repository(args.program, work)
        for _ in range(2):
            runs.append(create(args.program, repository, vm))
    image.unlink()
    print("1 TiB sparse disk:")
    report("first create", runs[0]["wall"], f"{runs[0]['mib']:.0f} MiB")
    report("unchanged create", runs[1]["wall"], f"{runs[1]['mib']:.0f} MiB")
    return [("peak memory, 1 TiB sparse, MiB", max(run["mib"] for run in runs), 128)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=float, default=4, help="GiB of files")
    args = parser.parse_args()
    args.size = int(args.size * GIB)
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, medians of {args.runs} interleaved runs")
    with tempfile.TemporaryDirectory(prefix="virtsnap-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        limits = bench_data(args, pathlib.Path(folder)) + bench_sparse(args, pathlib.Path(folder))
    missed = [f"{name}: {value:.3g} > {limit:g}" for name, value, limit in limits if value > limit]
    print("all within the limits" if not missed else "MISSED  " + "; ".join(missed))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
