#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a snapshot costs the guest: the same random 4 KiB writes (a) with no snapshot, (b) during `virtsnap create --full`, (c) during a
peer's full backup of the same libvirt domain (virtnbdbackup), alternating, in one run on one machine.

Each round boots vm-images/ anew from the same image, so that both find the same data, and goes idle, backup, idle, backup, idle; which of
the two is first changes from round to round. A backup is compared with the idle stretches right before and after it, which are as long.

The load writes to the very disk that is backed up, at random over nearly all of its data. So nearly each write of the early backup hits a
cluster that has to be saved first (copy-before-write): a load on a second disk, or beside the data, would measure only the competition for
processor and disk. The last of the data is left alone, to compare a restored snapshot with.

Work lost is (1 - rate / idle rate) x seconds, per GiB read from the guest: the seconds of work that a GiB of snapshot costs.
The column "strangers" tells how many cores the rest of the machine took meanwhile (libvirtd and the kernel's own threads, usually a few
tenths): figures taken on a busy machine say little, as the guest then lacks a processor anyway.
Targets are printed for orientation, nothing fails by them. The last line is JSON with all figures.
"""
import argparse
import bisect
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from create import measure

MIB = 1 << 20
GIB = 1 << 30
NOBODY = 65534
DOMAIN = "vm"
DISK_BYTES = 4 * GIB
UNTOUCHED_MIB = 64
# How long the guest is left alone after whatever was done between two stretches.
SETTLE_S = 3
# More of the machine's cores than this that are neither QEMU's nor the tool's spoil the figures.
STRANGERS_MAX = 0.4
LINE = re.compile(r"load: took_us=(\d+) n=(\d+) max_us=(\d+) h=([\d:,]*)$")


def bucket_bounds(bucket):
    """From and to, in microseconds, what a bucket of the load's histogram holds; see vm-images/README.md."""
    if bucket < 8:
        return bucket, bucket + 1
    octave = bucket // 8 - 1
    return (8 + bucket % 8) << octave, (9 + bucket % 8) << octave


def percentile_ms(histogram, share):
    """Interpolated within the bucket."""
    left = share * sum(histogram.values())
    for bucket in sorted(histogram):
        if left <= histogram[bucket]:
            low, high = bucket_bounds(bucket)
            return (low + (high - low) * left / histogram[bucket]) / 1000
        left -= histogram[bucket]
    return 0.0


class Stretch:
    """What the load did in some lines of one console, which need not be adjoining."""

    def __init__(self):
        self.writes = 0
        self.seconds = 0.0
        self.worst_ms = 0.0
        self.histogram = {}

    def add(self, lines, inner):
        """Latencies of all lines; the rate from `inner`, those that are wholly within the time."""
        self.writes += sum(line["n"] for line in inner[1:])
        self.seconds += inner[-1]["at"] - inner[0]["at"]
        for line in lines:
            self.worst_ms = max(self.worst_ms, line["max_us"] / 1000)
            for bucket, count in line["h"]:
                self.histogram[bucket] = self.histogram.get(bucket, 0) + count
        return self

    def figures(self):
        return {"writes_per_s": self.writes / self.seconds, "p99_ms": percentile_ms(self.histogram, 0.99), "worst_ms": self.worst_ms}


class Console:
    """Reads the guest's serial console and notes when each line of the load came."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines, self.text = [], []
        self.came = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.socket.makefile("r", errors="replace") as stream:
            for text in stream:
                at = time.monotonic()
                found = LINE.search(text.rstrip())
                with self.came:
                    if found:
                        pairs = [tuple(map(int, pair.split(":"))) for pair in found[4].split(",")]
                        self.lines.append({"at": at, "n": int(found[2]), "max_us": int(found[3]), "h": pairs})
                    else:
                        self.text.append(text)
                    self.came.notify_all()

    def wait_line_after(self, at, timeout_s=60):
        with self.came:
            if not self.came.wait_for(lambda: self.lines and self.lines[-1]["at"] > at, timeout_s):
                raise RuntimeError("the guest's load does not go on: " + "".join(self.text[-20:]))

    def stretch(self, began, ended, into=None):
        self.wait_line_after(ended)
        with self.came:
            times = [line["at"] for line in self.lines]
            first, last = bisect.bisect_right(times, began), bisect.bisect_right(times, ended)
            # The line after the end has the write that was under way then.
            return (into or Stretch()).add(self.lines[first:last + 1], self.lines[first:last])


class Libvirt:
    """A private session libvirtd, of "nobody" where we are root; the twin of tests/support/libvirt-daemon.cc."""

    def __init__(self, work):
        self.home = work / "lv"
        for folder in (self.home, *(self.home / name for name in ("run", "cache", "data", "libvirt"))):
            folder.mkdir(mode=0o700)
            give(folder)
        (self.home / "libvirt/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
        self.socket = self.home / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        # virtnbdbackup wants a password where a transport is named.
        self.plain_uri = f"qemu:///session?socket={self.socket}"
        environment = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home),
                       "XDG_RUNTIME_DIR": str(self.home / "run"), "XDG_CACHE_HOME": str(self.home / "cache"),
                       "XDG_DATA_HOME": str(self.home / "data")}
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        with open(work / "libvirtd.log", "w") as log:
            self.daemon = subprocess.Popen(drop + ["libvirtd"], env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while subprocess.run(["virsh", "-c", self.uri, "version"], capture_output=True).returncode:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self.daemon.kill()
                sys.exit("libvirtd did not come up: " + (work / "libvirtd.log").read_text())
            time.sleep(0.1)

    def virsh(self, *arguments):
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"virsh {arguments[0]}: {done.stderr}")
        return done.stdout

    def qemu_pid(self):
        return int((self.home / f"run/libvirt/qemu/run/{DOMAIN}.pid").read_text())

    def stop(self):
        subprocess.run(["virsh", "-q", "-c", self.uri, "destroy", DOMAIN], capture_output=True)
        self.daemon.terminate()
        self.daemon.wait()


def give(path):
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def make_image(work, data_bytes):
    """The disk as it is before each round: the files of /usr/lib one after the other; and the end of them, to compare with."""
    raw, image = work / "data.raw", work / "data.qcow2"
    with open(raw, "wb") as out:
        for root, folders, files in os.walk("/usr/lib"):
            folders.sort()
            for name in sorted(files):
                path = pathlib.Path(root, name)
                if out.tell() < data_bytes and path.is_file() and not path.is_symlink():
                    out.write(path.read_bytes())
        chooser = random.Random(1)
        while out.tell() < data_bytes:
            out.write(chooser.randbytes(MIB // 2).hex().encode())
        out.truncate(data_bytes)
        out.truncate(DISK_BYTES)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], check=True)
    with open(raw, "rb") as data:
        data.seek(data_bytes - UNTOUCHED_MIB * MIB)
        untouched = data.read(UNTOUCHED_MIB * MIB)
    raw.unlink()
    return image, untouched


def definition(work, guest, span_mib, cache):
    for name in ("kernel", "initramfs"):
        shutil.copyfile(guest / name, work / name)
    return f"""<domain type='qemu'>
<name>{DOMAIN}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu><features><acpi/></features>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{work}/kernel</kernel><initrd>{work}/initramfs</initrd>
<cmdline>console=ttyS0 quiet panic=-1 nokaslr mitigations=off load.disk=/dev/vda load.span={span_mib}</cmdline></os>
<devices><controller type='usb' model='none'/><memballoon model='none'/>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='{cache}'/><source file='{work}/disk.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<serial type='unix'><source mode='bind' path='{work}/console'/></serial></devices></domain>
"""


@contextlib.contextmanager
def running_guest(work, libvirt, image):
    shutil.copyfile(image, work / "disk.qcow2")
    give(work / "disk.qcow2")
    libvirt.virsh("start", DOMAIN)
    try:
        console = Console(str(work / "console"))
        console.wait_line_after(0)
        yield console
    finally:
        libvirt.virsh("destroy", DOMAIN)
        (work / "console").unlink(missing_ok=True)


def thread_seconds(pid):
    """Processor time so far of QEMU's main thread, its vCPU, and the others together."""
    seconds = {"main": 0.0, "vcpu": 0.0, "others": 0.0}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name, fields = re.fullmatch(r"\d+ \((.*)\) (.*)", (task / "stat").read_text().strip(), re.DOTALL).groups()
            kind = "main" if task.name == str(pid) else "vcpu" if name.startswith("CPU") else "others"
            seconds[kind] += sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


def busy_seconds():
    """Processor time so far of the whole machine, all cores together."""
    with open("/proc/stat") as stat:
        fields = [int(field) for field in stat.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def settle():
    """Nothing of the stretch before may be left to write when the next one begins."""
    os.sync()
    time.sleep(SETTLE_S)


class Virtsnap:
    name, stderr = "virtsnap", None

    def __init__(self, args, work, libvirt, untouched):
        self.repository, self.restored, self.untouched = work / "repo", work / "restored.raw", untouched
        self.base = [args.program, "--quiet", "--repo", str(self.repository), "--connect", libvirt.uri, "--output", "json"]
        self.data_bytes = args.data_bytes

    def prepare(self):
        measure(self.base + ["repo", "init"])

    def command(self):
        return self.base + ["create", DOMAIN, "--full"]

    def check(self, output):
        """Bytes read; exits unless the snapshot can be restored and has what nobody wrote to since."""
        snapshot = json.loads(output)["snapshots"][0]
        measure(self.base + ["restore", snapshot["id"], "--to", str(self.restored)])
        with open(self.restored, "rb") as restored:
            restored.seek(self.data_bytes - UNTOUCHED_MIB * MIB)
            if self.restored.stat().st_size != DISK_BYTES or restored.read(UNTOUCHED_MIB * MIB) != self.untouched:
                sys.exit("virtsnap: the restored snapshot is not what the disk was")
        return snapshot["read_bytes"]

    def clean(self):
        self.restored.unlink(missing_ok=True)
        shutil.rmtree(self.repository, ignore_errors=True)


class Peer:
    # It says there what it also puts into its log.
    name, stderr = "virtnbdbackup", subprocess.DEVNULL

    def __init__(self, args, work, libvirt):
        self.output, self.scratch, self.socket = work / "peer", work / "peer-scratch", work / "peer.sock"
        self.scratch.mkdir()
        give(self.scratch)
        self.base = ["virtnbdbackup", "-U", libvirt.plain_uri, "-d", DOMAIN, "-l", "full", "-n", "-o", str(self.output),
                     "-S", str(self.scratch), "-f", str(self.socket)] + args.peer_option

    def prepare(self):
        pass

    def command(self):
        return self.base

    def check(self, _):
        """Bytes read; exits unless its own log and its output say that it is complete."""
        logs = "".join(path.read_text() for path in self.output.glob("*.log"))
        # Its meta line tells how much data follows, whatever is compressed.
        data = next(self.output.glob("vda.full.data"), None)
        if "Finished successfully" not in logs or data is None:
            sys.exit("virtnbdbackup: not complete: " + logs)
        with open(data, "rb") as stream:
            meta = re.search(rb'"dataSize": (\d+)', stream.read(4096))
        return int(meta[1])

    def clean(self):
        shutil.rmtree(self.output, ignore_errors=True)
        self.socket.unlink(missing_ok=True)


def back_up(tool, libvirt, console):
    """One backup with what the load did meanwhile; leaves neither files nor checkpoints."""
    tool.prepare()
    settle()
    before, busy = thread_seconds(libvirt.qemu_pid()), busy_seconds()
    began = time.monotonic()
    run = measure(tool.command(), stderr=tool.stderr)
    ended = time.monotonic()
    after, busy = thread_seconds(libvirt.qemu_pid()), busy_seconds() - busy
    stretch = console.stretch(began, ended)
    gib = tool.check(run["output"]) / GIB
    for checkpoint in libvirt.virsh("checkpoint-list", DOMAIN, "--name").split():
        libvirt.virsh("checkpoint-delete", DOMAIN, checkpoint)
    tool.clean()
    strangers = max(0.0, busy - run["cpu"] - sum(after.values()) + sum(before.values())) / run["wall"]
    return {"tool": tool.name, "seconds": run["wall"], "gib": gib, "stretch": stretch, "tool_cpu_s": run["cpu"], "strangers": strangers,
            **{f"qemu_{kind}_cpu_s": after[kind] - before[kind] for kind in before}}


def idle(console, seconds):
    """Where the load is measured with no snapshot: from when to when."""
    settle()
    began = time.monotonic()
    time.sleep(seconds)
    ended = time.monotonic()
    console.wait_line_after(ended)
    return began, ended


def one_round(tools, libvirt, console, first_idle_s):
    idles, backups = [idle(console, first_idle_s)], []
    for tool in tools:
        backups.append(back_up(tool, libvirt, console))
        idles.append(idle(console, max(5, backups[-1]["seconds"])))
    return [judge(console, backup, idles[number:number + 2]) for number, backup in enumerate(backups)]


def judge(console, backup, idles):
    """The backup's figures as such, and beside the idle stretches around it."""
    base = Stretch()
    for began, ended in idles:
        console.stretch(began, ended, base)
    idle_figures, figures = base.figures(), backup.pop("stretch").figures()
    kept = figures["writes_per_s"] / idle_figures["writes_per_s"]
    return {**backup, **figures, "idle": idle_figures, "rate_kept": kept,
            "p99_ratio": figures["p99_ms"] / idle_figures["p99_ms"], "worst_ratio": figures["worst_ms"] / idle_figures["worst_ms"],
            "lost_s": (1 - kept) * backup["seconds"], "lost_s_per_gib": (1 - kept) * backup["seconds"] / backup["gib"]}


HEAD = f"{'':<24}{'writes/s':>9}{'p99 ms':>9}{'worst ms':>10}{'rate x':>8}{'p99 x':>8}{'worst x':>9}{'seconds':>9}{'GiB':>7}{'lost s':>8}{'s/GiB':>8}{'strangers':>11}"


def row(name, figures):
    text = f"{name:<24}{figures['writes_per_s']:>9.0f}{figures['p99_ms']:>9.2f}{figures['worst_ms']:>10.1f}"
    if "rate_kept" in figures:
        text += (f"{figures['rate_kept']:>8.2f}{figures['p99_ratio']:>8.2f}{figures['worst_ratio']:>9.2f}{figures['seconds']:>9.1f}"
                 f"{figures['gib']:>7.2f}{figures['lost_s']:>8.2f}{figures['lost_s_per_gib']:>8.2f}{figures['strangers']:>11.2f}")
    print(text, flush=True)


def medians(runs):
    keys = [key for key, value in runs[0].items() if isinstance(value, float)]
    return {key: statistics.median(run[key] for run in runs) for key in keys}


def summary(rounds):
    """Medians of the rounds, and of the rounds' ratios ours / peer's."""
    pairs = [[next(run for run in runs if run["tool"] == tool.name) for tool in (Virtsnap, Peer)] for runs in rounds]
    keys = ("lost_s_per_gib", "lost_s", "seconds", "writes_per_s", "rate_kept", "p99_ms", "worst_ms")
    return {"idle": medians([run["idle"] for pair in pairs for run in pair]),
            "virtsnap": medians([ours for ours, _ in pairs]), "peer": medians([peer for _, peer in pairs]),
            "ours_to_peer": {key: statistics.median(ours[key] / peer[key] for ours, peer in pairs) for key in keys}}


def report(result):
    print(f"medians of {len(result['rounds'])} rounds:\n{HEAD}")
    row("(a) no snapshot", result["idle"])
    row("(b) virtsnap", result["virtsnap"])
    row("(c) virtnbdbackup", result["peer"])
    for name, key in (("(b) virtsnap", "virtsnap"), ("(c) virtnbdbackup", "peer")):
        run = result[key]
        print(f"{name:<24}CPU seconds: the tool {run['tool_cpu_s']:.1f}; QEMU's main thread {run['qemu_main_cpu_s']:.1f}, "
              f"vCPU {run['qemu_vcpu_cpu_s']:.1f}, others {run['qemu_others_cpu_s']:.1f}")
    strangers = max(result["virtsnap"]["strangers"], result["peer"]["strangers"])
    if strangers > STRANGERS_MAX:
        print(f"NOT QUIET: other programs took {strangers:.1f} cores during the backups, so these figures say little")
    ratios = result["ours_to_peer"]
    print("ours / peer: " + ", ".join(f"{key} {value:.2f}" for key, value in ratios.items()))
    for name, value, limit in (("work lost / peer's, at most", ratios["lost_s_per_gib"], 0.25),
                               ("rate kept, at least", result["virtsnap"]["rate_kept"], 0.6),
                               ("worst write / peer's, at most", ratios["worst_ms"], 0.5)):
        print(f"  target: {name} {limit:g}: {value:.2f}")


def bench(args, work):
    image, untouched = make_image(work, args.data_bytes)
    libvirt = Libvirt(work)
    try:
        span_mib = args.data_bytes // MIB - UNTOUCHED_MIB
        (work / "vm.xml").write_text(definition(work, args.guest, span_mib, args.cache))
        libvirt.virsh("define", str(work / "vm.xml"))
        tools = [Virtsnap(args, work, libvirt, untouched), Peer(args, work, libvirt)]
        rounds = []
        print(HEAD)
        for number in range(args.rounds):
            with running_guest(work, libvirt, image) as console:
                rounds.append(one_round(tools[::-1] if number % 2 else tools, libvirt, console, args.idle))
            for run in rounds[-1]:
                row("around it", run["idle"])
                row(f"round {number + 1} {run['tool']}", run)
    finally:
        libvirt.stop()
    return {"cores": os.cpu_count(), "data_gib": args.data_bytes / GIB, "cache": args.cache, "load_average": os.getloadavg()[0],
            "rounds": rounds, **summary(rounds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--guest", required=True, type=pathlib.Path, help="where vm-images/build.sh has put kernel and initramfs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=float, default=2, help="GiB of data on the disk")
    parser.add_argument("--idle", type=float, default=15, help="seconds of a round's first idle stretch")
    parser.add_argument("--cache", default="default", help="the disk's cache mode, as libvirt calls it")
    parser.add_argument("--peer-option", action="append", default=[], help="one more option for virtnbdbackup, as in --peer-option=-z")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures to this file")
    args = parser.parse_args()
    args.data_bytes = int(args.data * 1024) * MIB
    if not shutil.which("virtnbdbackup"):
        sys.exit("no virtnbdbackup to compare with (install virtnbdbackup)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}, {args.rounds} rounds, "
          f"{args.data:g} GiB of data, cache={args.cache}")
    with tempfile.TemporaryDirectory(prefix="vsg-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        give(folder)
        result = bench(args, pathlib.Path(folder))
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
