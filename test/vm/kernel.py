# SPDX-License-Identifier: BSD-3-Clause
"""
Debian's kernel for the virtual machine: fetched by apt, unpacked, and kept in the cache.

Which kernel that is says the dependency of the meta package (linux-image-amd64), so that no version
stands anywhere. Nothing here needs root: where the system's package lists are missing or too old,
lists of our own are fetched into the cache. One process at a time changes the cache (a lock file).
"""

import bz2
import contextlib
import fcntl
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib

DEFAULT = "linux-image-amd64"
DAY_S = 86400
ELF = b"\x7fELF"
# large, and of no use in a virtual machine without such devices
UNUSED = ["sound", "drivers/gpu", "drivers/media", "drivers/staging", "drivers/infiniband",
          "drivers/net/wireless", "drivers/net/ethernet", "drivers/iio", "drivers/hid",
          "drivers/input", "drivers/usb", "drivers/hwmon", "drivers/isdn"]


class Unavailable(Exception):
    """There is no kernel or no emulator here, and none can be had: a reason to skip."""


class SetupError(Exception):
    """Something is wrong with what was asked for, or with this machine."""


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "pollux-vm")
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise SetupError(f"no cache directory {path}: {error.strerror}; set XDG_CACHE_HOME") from None
    return path


@contextlib.contextmanager
def locked(directory):
    with open(os.path.join(directory, "lock"), "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def output_of(command, where=None):
    """(exit status, standard output, standard error); a missing program counts as failed."""
    try:
        done = subprocess.run(command, cwd=where, check=False, capture_output=True, text=True,
                              env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        return 127, "", f"{command[0]}: not found"
    return done.returncode, done.stdout, done.stderr


def own_lists(cache):
    """Options that make apt keep its lists in the cache, where an ordinary user may update them."""
    base = os.path.join(cache, "apt")
    os.makedirs(os.path.join(base, "lists", "partial"), exist_ok=True)
    os.makedirs(os.path.join(base, "archives", "partial"), exist_ok=True)
    return ["-o", f"Dir::State::Lists={base}/lists", "-o", f"Dir::Cache={base}",
            "-o", "APT::Sandbox::User="]


def resolve(package, options):
    """The kernel package that a meta package depends on; a kernel package stands for itself."""
    status, out, _ = output_of(["apt-cache", *options, "depends", "--important", package])
    if status:
        return None
    for line in out.splitlines():
        name = line.partition("Depends:")[2].strip()
        if name.startswith("linux-image-"):
            return name
    return package if out else None


def download(package, options, where):
    status, _, errors = output_of(["apt-get", *options, "-q", "download", package], where)
    found = [name for name in os.listdir(where) if name.endswith(".deb")]
    if status or not found:
        return None, (errors.strip() or "apt-get downloaded nothing").splitlines()[-1]
    return os.path.join(where, found[0]), None


def unpack_payload(data):
    """Undoes the compression of a bzImage's payload, whichever the kernel was built with."""
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)  # four bytes of length follow the stream
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(data)
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor().decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dcq"], input=data, check=False, capture_output=True).stdout
    if data.startswith(ELF):
        return data
    raise SetupError(f"the kernel is compressed in an unknown way ({data[:4].hex()})")


def vmlinux_of(image):
    """
    The ELF kernel inside a bzImage: QEMU starts it by its PVH entry in half the time. The offsets
    are those of the kernel's x86 boot protocol.
    """
    if image[0x202:0x206] != b"HdrS":
        raise SetupError("the package's kernel is not a bzImage")
    real_mode = ((image[0x1f1] or 4) + 1) * 512
    start = real_mode + int.from_bytes(image[0x248:0x24c], "little")
    length = int.from_bytes(image[0x24c:0x250], "little")
    kernel = unpack_payload(image[start:start + length])
    if not kernel.startswith(ELF):
        raise SetupError("the payload of the package's kernel is no ELF file")
    return kernel


def plain_modules(tree):
    """Uncompresses modules in place: not every insmod knows how."""
    for base, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(base, name)
            if name.endswith(".ko.xz"):
                with lzma.open(path) as packed, open(path[:-3], "wb") as plain:
                    shutil.copyfileobj(packed, plain)
                os.unlink(path)
            elif name.endswith(".ko.zst"):
                subprocess.run(["zstd", "-dq", "--rm", path], check=True)


def build(deb, where):
    """Fills `where` with vmlinux, release (the version) and lib/modules."""
    unpacked = os.path.join(where, "unpacked")
    subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
    for prefix in ("", "usr"):
        if os.path.isdir(os.path.join(unpacked, prefix, "lib/modules")):
            shutil.move(os.path.join(unpacked, prefix, "lib"), os.path.join(where, "lib"))
    boot = os.path.join(unpacked, "boot")
    images = [name for name in os.listdir(boot) if name.startswith("vmlinuz-")] \
        if os.path.isdir(boot) else []
    if not images:
        raise SetupError(f"{os.path.basename(deb)} holds no /boot/vmlinuz")
    release = images[0].partition("-")[2]
    with open(os.path.join(boot, images[0]), "rb") as file:
        kernel = vmlinux_of(file.read())
    with open(os.path.join(where, "vmlinux"), "wb") as file:
        file.write(kernel)
    shutil.rmtree(unpacked)
    modules = os.path.join(where, "lib/modules", release)
    for name in UNUSED:
        shutil.rmtree(os.path.join(modules, "kernel", name), ignore_errors=True)
    plain_modules(modules)
    subprocess.run(["busybox", "depmod", "-b", where, release], check=True)
    # last: who finds it may use the rest
    with open(os.path.join(where, "release"), "w", encoding="ascii") as file:
        file.write(release)


def newest(cache):
    """The kernel used last, or None."""
    ready = [os.path.join(cache, name, "release") for name in os.listdir(cache)
             if name.startswith("linux-image-")]
    ready = [path for path in ready if os.path.exists(path)]
    return os.path.dirname(max(ready, key=os.path.getmtime)) if ready else None


def remembered(cache, meta):
    """The kernel that `meta` meant within the last day: asking apt takes a second or more."""
    try:
        note = os.path.join(cache, meta + ".is")
        if time.time() - os.path.getmtime(note) > DAY_S:
            return None
        with open(note, encoding="ascii") as file:
            target = os.path.join(cache, file.read())
        return target if os.path.exists(os.path.join(target, "release")) else None
    except OSError:
        return None


def remember(cache, meta, target):
    with open(os.path.join(cache, meta + ".is"), "w", encoding="ascii") as file:
        file.write(os.path.basename(target))
    os.utime(os.path.join(target, "release"))
    return target, None


def fetch(cache, meta):
    """(directory of a kernel, None) or (None, why there is none)."""
    why = "apt does not know the package"
    known = remembered(cache, meta)
    if known:
        return known, None
    for options in ([], own_lists(cache)):
        if options:
            status, _, errors = output_of(["apt-get", *options, "-q", "update"])
            if status:
                why = (errors.strip() or "apt-get update failed").splitlines()[-1]
                continue
        package = resolve(meta, options)
        if not package:
            continue
        target = os.path.join(cache, package)
        if os.path.exists(os.path.join(target, "release")):
            return remember(cache, meta, target)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            say(f"fetching {package}")
            deb, why = download(package, options, scratch)
            if not deb:
                continue
            say("unpacking it")
            tree = os.path.join(scratch, "tree")
            os.mkdir(tree)
            build(deb, tree)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(tree, target)
        return remember(cache, meta, target)
    return None, why


class Kernel:
    """An unpacked kernel: the path of vmlinux, and its modules by name."""

    def __init__(self, directory):
        self.vmlinux = os.path.join(directory, "vmlinux")
        with open(os.path.join(directory, "release"), encoding="ascii") as file:
            self.release = file.read()
        self.root = os.path.join(directory, "lib/modules", self.release)
        self.paths = {}    # name: path below root
        self.needs = {}    # path: paths, the nearest first, as in modules.dep
        self.aliases = {}  # alias without wildcards: names
        self.builtin = {self.name_of(line) for line in self.lines("modules.builtin")}
        for line in self.lines("modules.dep"):
            path, _, needs = line.partition(":")
            self.paths[self.name_of(path)] = path
            self.needs[path] = needs.split()
        for line in self.lines("modules.alias"):
            word = line.split()
            if len(word) == 3 and word[0] == "alias" and "*" not in word[1]:
                self.aliases.setdefault(word[1].replace("-", "_"), []).append(word[2])

    def lines(self, name):
        with open(os.path.join(self.root, name), encoding="utf-8") as file:
            return file.read().splitlines()

    @staticmethod
    def name_of(path):
        return os.path.basename(path).split(".ko")[0].replace("-", "_")

    def soft(self, path):
        """Names that the module asks for by softdep, before it and after: they stand in no modules.dep."""
        with open(os.path.join(self.root, path), "rb") as file:
            entries = file.read().split(b"\0")
        names = {"pre:": [], "post:": []}
        for entry in entries:
            if entry.startswith(b"softdep="):
                which = "pre:"
                for name in entry[8:].decode("ascii", "replace").split():
                    if name in names:
                        which = name
                    else:
                        names[which].append(name)
        return names["pre:"], names["post:"]

    def find(self, name):
        """The path of a module by its name or alias, None where the kernel has it built in."""
        name = name.replace("-", "_")
        if name in self.builtin:
            return None
        if name in self.paths:
            return self.paths[name]
        names = [found.replace("-", "_") for found in self.aliases.get(name, [])]
        # several processors' versions of an algorithm have one alias: the plain one always loads
        names.sort(key=lambda found: not found.endswith("_generic"))
        for found in names:
            if found in self.builtin:
                return None
            if found in self.paths:
                return self.paths[found]
        raise SetupError(f"the kernel {self.release} has no module {name}")

    def order(self, names):
        """The paths of modules and of all they need, in an order in which they can be loaded."""
        done, begun = [], set()  # vfio and its IOMMU's part ask for each other

        def visit_soft(names):
            for name in names:
                try:
                    visit(self.find(name))
                except SetupError:
                    pass  # soft: nice to have

        def visit(path):
            if path is None or path in begun:
                return
            begun.add(path)
            for need in reversed(self.needs[path]):
                visit(need)
            before, after = self.soft(path)
            visit_soft(before)
            done.append(path)
            visit_soft(after)

        for name in names:
            visit(self.find(name))
        return done


def get(meta):
    """
    The kernel, from the cache or by apt. Raises Unavailable where neither has one. Only for the default
    another one will do: who has named a kernel would take its results for those of the named one.
    """
    for program in ("dpkg-deb", "busybox"):
        if not shutil.which(program):
            raise SetupError(f"{program} is missing (packages: dpkg, busybox-static)")
    cache = cache_directory()
    with locked(cache):
        directory, why = fetch(cache, meta)
        if not directory and meta != DEFAULT:
            directory = os.path.join(cache, meta)
            if not os.path.exists(os.path.join(directory, "release")):
                raise SetupError(f"{meta} can not be fetched ({why}), and is not cached in {cache}")
        elif not directory:
            directory = newest(cache)
            if not directory:
                raise Unavailable(f"no kernel: {meta} can not be fetched ({why}), and none is cached "
                                  f"in {cache}")
            say(f"{meta} can not be fetched ({why}): using {os.path.basename(directory)}")
    return Kernel(directory)
