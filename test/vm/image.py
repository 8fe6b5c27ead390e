# SPDX-License-Identifier: BSD-3-Clause
"""
The initramfs of the virtual machine: busybox, dash, the named programs with their libraries, modules.

The guest has the host's paths (/bin, /sbin and /lib are links into /usr, as in Debian); a program
that comes from elsewhere lies in /usr/local/bin. An initramfs is kept in the cache under the hash of
what went into it; the script of one run is a second, small archive that is appended.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess

from kernel import SetupError, cache_directory, locked

KEPT = 6  # initramfs files that stay in the cache
MERGED = ("bin", "sbin", "lib", "lib64")
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n"
              "nobody:x:65534:65534:nobody:/:/bin/sh\n",
    "group": "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "mtab": None,
}


class Archive:
    """A cpio archive in the kernel's format (newc), written entry by entry."""

    def __init__(self, file):
        self.file = file
        self.count = 0

    def entry(self, name, mode, data=b"", device=(0, 0)):
        self.count += 1
        encoded = name.encode() + b"\0"
        fields = [self.count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0]
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self.file.write(header + encoded + b"\0" * (-(len(header) + len(encoded)) % 4))
        self.file.write(data)
        self.file.write(b"\0" * (-len(data) % 4))

    def end(self):
        self.entry("TRAILER!!!", 0)


def libraries(path):
    """What a program or library is linked with, by ldd; nothing for what is not dynamic."""
    done = subprocess.run(["ldd", path], check=False, capture_output=True, text=True)
    missing = re.findall(r"^\s*(\S+) => not found", done.stdout, re.M)
    if missing:
        raise SetupError(f"{path} needs {', '.join(missing)}, which this machine does not have")
    return re.findall(r"(/\S+) \(0x", done.stdout)


class Image:
    """What goes into an initramfs: guest paths and where their contents come from."""

    def __init__(self):
        self.files = {}  # guest path without the first /: (host path, bytes or link target)

    @staticmethod
    def merged(path):
        first = path.strip("/").split("/")[0]
        return ("usr/" if first in MERGED else "") + path.strip("/")

    def add_data(self, guest, text, mode=0o644):
        self.files[self.merged(guest)] = ("data", text.encode(), mode)

    def add_link(self, guest, target):
        self.files[self.merged(guest)] = ("link", target, 0o777)

    def add_file(self, host, guest=None):
        """A file of the host, with the libraries it is linked with if it is an ELF file."""
        if not os.path.isfile(host):
            raise SetupError(f"no such file: {host}")
        where = self.merged(guest or os.path.abspath(host))
        if where in self.files:
            return
        real = os.path.realpath(host)
        self.files[where] = ("file", real, stat.S_IMODE(os.stat(real).st_mode))
        with open(real, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return
        for library in libraries(real):
            self.add_file(library)

    def add_program(self, spec):
        """NAME from the PATH, a path, or NAME=PATH."""
        name, equals, path = spec.partition("=")
        if not equals:
            name, path = os.path.basename(spec), spec
        found = path if "/" in path else shutil.which(path, path=os.environ.get("PATH", "") +
                                                      ":/usr/local/sbin:/usr/sbin:/sbin")
        if not found or not os.path.isfile(found):
            raise SetupError(f"no such program: {path}")
        standard = os.path.dirname(os.path.abspath(found)).startswith(("/usr/", "/bin", "/sbin"))
        keep = standard and not equals
        self.add_file(found, None if keep else f"/usr/local/bin/{name}")

    def add_base(self):
        busybox = shutil.which("busybox")
        done = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
        self.add_file(busybox, "/usr/bin/busybox")
        for applet in done.stdout.split():
            # last in the guest's PATH: a real program of that name comes first
            self.add_link(f"/opt/busybox/{applet}", "/usr/bin/busybox")
        dash = shutil.which("dash")
        if not dash:
            raise SetupError("dash is missing (package dash): the guest's scripts run under it")
        self.add_file(dash, "/usr/bin/dash")
        self.add_link("/usr/bin/sh", "dash")
        self.add_link("/usr/sbin/modprobe", "/usr/bin/busybox")  # what the kernel itself calls
        for name, text in ETC.items():
            if text is None:
                self.add_link(f"/etc/{name}", "/proc/mounts")
            else:
                self.add_data(f"/etc/{name}", text)
        self.add_link("/var/run", "/run")

    def add_modules(self, kernel, paths):
        root = f"/lib/modules/{kernel.release}"
        names = {kernel.name_of(path) for path in paths}
        for path in paths:
            self.add_module(f"{root}/{path}", os.path.join(kernel.root, path))
        self.add_data(f"{root}/modules.dep", "".join(
            f"{path}: {' '.join(kernel.needs[path])}\n" for path in paths))
        self.add_data(f"{root}/modules.alias", "".join(
            line + "\n" for line in kernel.lines("modules.alias")
            if line.split()[-1].replace("-", "_") in names))
        self.add_data(f"{root}/modules.builtin", "\n".join(kernel.lines("modules.builtin")) + "\n")

    def add_module(self, guest, host):
        self.files[self.merged(guest)] = ("file", host, 0o644)

    def key(self):
        """Of a file the times and size count: reading all of them would take as long as packing."""
        text = hashlib.sha256()
        for guest, (kind, content, mode) in sorted(self.files.items()):
            if kind == "file":
                now = os.stat(content)
                content = (content, now.st_size, now.st_mtime_ns, now.st_ino)
            text.update(repr((guest, kind, content, mode)).encode())
        return text.hexdigest()[:24]

    def write(self, path):
        folders = {"dev", "proc", "sys", "tmp", "run", "root", "mnt", "usr"}
        folders |= {f"usr/{name}" for name in MERGED}
        for guest in self.files:
            parts = guest.split("/")[:-1]
            folders |= {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
        with open(path, "wb") as file:
            archive = Archive(file)
            for folder in sorted(folders):
                archive.entry(folder, stat.S_IFDIR | (0o1777 if folder == "tmp" else 0o755))
            for name in MERGED:
                archive.entry(name, stat.S_IFLNK | 0o777, f"usr/{name}".encode())
            archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
            for guest, (kind, content, mode) in sorted(self.files.items()):
                if kind == "link":
                    archive.entry(guest, stat.S_IFLNK | mode, content.encode())
                    continue
                if kind == "file":
                    with open(content, "rb") as source:
                        content = source.read()
                archive.entry(guest, stat.S_IFREG | mode, content)
            archive.end()

    def cached(self):
        """The path of the finished initramfs. The caller copies it before others can replace it."""
        folder = os.path.join(cache_directory(), "initramfs")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, self.key())
        if os.path.exists(path):
            os.utime(path)
            return path
        self.write(path + ".new")
        os.rename(path + ".new", path)
        old = sorted((os.path.join(folder, name) for name in os.listdir(folder)),
                     key=os.path.getmtime, reverse=True)
        for name in old[KEPT:]:
            os.unlink(name)
        return path


def make(image, extra, target):
    """Writes the initramfs of one run: `image` from the cache, then what `extra` holds."""
    with locked(cache_directory()):
        shutil.copyfile(image.cached(), target)
    extra.write(target + ".extra")
    with open(target, "ab") as whole, open(target + ".extra", "rb") as part:
        shutil.copyfileobj(part, whole)
    os.unlink(target + ".extra")
