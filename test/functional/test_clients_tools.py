# SPDX-License-Identifier: BSD-3-Clause
"""
The command-line clients as their users call them, over the matrix: what nbdinfo, nbddump and
qemu-img tell of a disk of known content, and copies of sparse images by every way of nbdcopy.
"""

import json
import os
import random
import subprocess

import harness
from harness import FULL, KIB, MIB, POLLUX, SANITIZED, need_program, run
from matrix import DISK, MALLOC, MatrixTest, cross

SIZE = 32 * MIB
UNIT = 256 * KIB
HOLE, ZERO = 1, 2
# unit: bytes of data, zeroes that were asked to be kept, or taken away again; else nothing
DATA, KEPT, PUNCHED = (0, 1, 7, 40, 127), (10, 11), (20,)


class Known(MatrixTest):
    """A disk that has been written in a known way."""

    def setUp(self):
        super().setUp()
        self.target = self.serve(SIZE)
        self.content = bytearray(SIZE)
        with self.target.connect() as client:
            for unit in DATA + PUNCHED:
                data = random.Random(unit).randbytes(UNIT)
                client.write(unit * UNIT, data)
                if unit in DATA:
                    self.content[unit * UNIT:(unit + 1) * UNIT] = data
            for unit in KEPT:
                client.write_zeroes(unit * UNIT, UNIT, flags=2)  # NO_HOLE
            for unit in PUNCHED:
                client.trim(unit * UNIT, UNIT)
            client.flush()

    def expected(self):
        """[offset, length, is it data]"""
        runs = []
        # memory that holds zeroes is data to the kernel
        told = DATA + (KEPT if self.backend != DISK else ())
        for unit in range(SIZE // UNIT):
            if runs and runs[-1][2] == (unit in told):
                runs[-1][1] += UNIT
            else:
                runs.append([unit * UNIT, UNIT, unit in told])
        return runs

    def merged(self, extents):
        """The same from (offset, length, flags); TRIMmed and never written units have a hole."""
        runs = []
        for offset, length, flags in extents:
            data = not flags & ZERO
            if runs and runs[-1][2] == data:
                runs[-1][1] += length
            else:
                runs.append([offset, length, data])
            if not data and offset <= PUNCHED[0] * UNIT < offset + length:
                self.assertTrue(flags & HOLE)
        return runs

    def test_nbdinfo_map(self):
        need_program("nbdinfo")
        told = json.loads(run("nbdinfo", "--map", "--json", self.target.uri()).stdout)
        self.assertEqual(self.merged((part["offset"], part["length"], part["type"])
                                     for part in told), self.expected())
        totals = json.loads(run("nbdinfo", "--map", "--totals", "--json",
                                self.target.uri()).stdout)
        self.assertEqual(sum(part["size"] for part in totals), SIZE)
        self.assertEqual([part["size"] for part in totals if part["type"] == 0],
                         [sum(length for _, length, data in self.expected() if data)])

    def test_qemu_img_map(self):
        need_program("qemu-img")
        told = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json",
                              self.target.uri()).stdout)
        self.assertEqual(self.merged((part["start"], part["length"],
                                      (0 if part["data"] else HOLE) | (ZERO if part["zero"] else 0))
                                     for part in told), self.expected())

    def test_nbddump(self):
        need_program("nbddump")
        text = run("nbddump", "--length=64", self.target.uri()).stdout
        told = bytearray()
        for line in text.splitlines():
            told += bytes.fromhex(line.split(": ", 1)[1].split("|")[0])
        self.assertEqual(told, self.content[:64])

    def test_nbdsh(self):
        need_program("nbdsh")
        code = ["h.pwrite(b'shell' * 100, 999)", "h.flush()", "h.zero(100, 1099)",
                "print(bytes(h.pread(105, 1094)) == b'shell' + bytes(100))",
                "print(h.get_size(), h.is_read_only(), h.can_multi_conn())"]
        done = run("nbdsh", "-u", self.target.uri(), *(word for line in code
                                                       for word in ("-c", line)),
                   env={**os.environ, "PATH": "/usr/bin:/bin"})
        self.assertEqual(done.stdout.split(), ["True", str(SIZE), "False", "True"])

    def copy_out(self, *how):
        out = self.path("out")
        run("nbdcopy", *how, self.target.uri(), out)
        with open(out, "rb") as file:
            self.assertTrue(file.read() == self.content, how)
        return os.stat(out).st_blocks * 512

    def test_nbdcopy_out(self):
        need_program("nbdcopy")
        for how in ([], ["--connections=4", "--requests=64"], ["--synchronous"],
                    ["--no-extents"], ["--connections=1", "--requests=1", "--request-size=65536"]):
            with self.subTest(how=how):
                # what has no data is not written either
                self.assertLess(self.copy_out(*how), 2 * len(DATA) * UNIT)
        self.copy_out("--allocated")

    def test_nbdcopy_in(self):
        """Into a disk that is full of something else, by each way."""
        need_program("nbdcopy")
        source = self.path("in")
        with open(source, "wb") as file:
            file.truncate(SIZE)
            for unit in DATA:
                file.seek(unit * UNIT)
                file.write(self.content[unit * UNIT:(unit + 1) * UNIT])
        ways = ([], ["--connections=4", "--requests=64"], ["--synchronous"], ["--allocated"],
                ["--flush", "--no-extents"])
        for how in ways[:2] if SANITIZED and not FULL else ways:
            with self.subTest(how=how):
                with self.target.connect() as client:
                    for offset in range(0, SIZE, 8 * MIB):
                        client.write(offset, b"\xee" * 8 * MIB)
                run("nbdcopy", *how, source, self.target.uri())
                self.copy_out()

    def test_nbdcopy_pipes(self):
        need_program("nbdcopy")
        with open(self.path("piped"), "wb") as out:
            subprocess.run(["nbdcopy", self.target.uri(), "-"], stdout=out, check=True, timeout=120)
        other = self.start(f"malloc:{SIZE}")
        with open(self.path("piped"), "rb") as source:
            run("nbdcopy", "-", other.uri(), stdin=source)
        run("nbdcopy", other.uri(), self.path("back"))
        with open(self.path("back"), "rb") as file:
            self.assertTrue(file.read() == self.content)
        run("nbdcopy", self.target.uri(), "null:")

    def test_nbdcopy_to_another_target(self):
        need_program("nbdcopy")
        other = self.start(f"malloc:{SIZE}")
        run("nbdcopy", self.target.uri(), other.uri())
        with other.connect() as client:
            self.assertTrue(client.read(0, SIZE) == self.content)
        if self.backend == MALLOC:
            image = self.make_file(SIZE)
            run("nbdcopy", self.target.uri(), "[", POLLUX, f"file:{image}", "]")
            with open(image, "rb") as file:
                self.assertTrue(file.read() == self.content)


class Said(MatrixTest):
    def test_can_and_is(self):
        """nbdinfo's exit status: 0 yes, 2 no."""
        need_program("nbdinfo")
        target = self.serve(SIZE)
        for words, status in ((("cache", "rotational"), 2),
                              (("connect", "read", "write", "df", "flush", "fua", "multi-conn",
                                "structured-reply", "trim", "zero", "fast-zero"), 0)):
            for word in words:
                switch = "--is" if word == "rotational" else "--can"
                done = run("nbdinfo", switch, word, target.uri(), check=False)
                if word == "cache" and self.backend != MALLOC and not done.returncode:
                    continue  # where the page cache is used it can be filled
                self.assertEqual(done.returncode, status, (word, done.stderr))
        for word in ("read-only", "tls"):
            self.assertEqual(run("nbdinfo", "--is", word, target.uri(), check=False).returncode, 2)

    def test_read_only(self):
        need_program("nbdinfo")
        target = self.serve(SIZE, args=["--read-only"])
        run("nbdinfo", "--is", "read-only", target.uri())
        for word in ("write", "trim", "zero"):
            done = run("nbdinfo", "--can", word, target.uri(), check=False)
            self.assertEqual(done.returncode, 2, word)
        done = run("nbdcopy", self.make_file(MIB, name="in", content=b"x" * MIB), target.uri(),
                   check=False)
        self.assertNotEqual(done.returncode, 0)

    def test_qemu_nbd_list(self):
        need_program("qemu-nbd")
        target = self.serve(SIZE, name="disk")
        where = (["-k", target.sock_path] if self.transport == "unix"
                 else ["-b", "127.0.0.1", "-p", str(target.port)])
        text = run("qemu-nbd", "--list", *where).stdout
        for words in ("export: 'disk'", f"size:  {SIZE}", "base:allocation", "min block: 1",
                      f"max block: {64 * MIB}"):
            self.assertIn(words, text)

    def test_nbdcopy_of_nothing_there(self):
        """Clients are told in words what is wrong."""
        need_program("nbdcopy")
        target = self.serve(SIZE, name="disk")
        done = run("nbdcopy", target.uri("disc"), "null:", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no export", done.stderr)


class Started(harness.TargetTest):
    def test_systemd_socket_activate(self):
        """systemd's own tool hands the socket over at the first connection."""
        program = need_program("systemd-socket-activate")
        need_program("nbdinfo")
        path = self.path("s")
        with open(self.path("log"), "w", encoding="utf-8") as log:
            process = subprocess.Popen([program, "-l", path, POLLUX, "--cores",
                                        str(harness.CPUS[0]), "malloc:3M"],
                                       stdout=log, stderr=log, env=harness.environment())
        self.addCleanup(process.kill)
        harness.wait_for(lambda: os.path.exists(path), harness.START_SECONDS, "the socket")
        uri = f"nbd+unix:///?socket={path}"
        for _ in range(2):
            self.assertEqual(run("nbdinfo", "--size", uri).stdout.strip(), str(3 * MIB))
        process.terminate()
        self.assertEqual(harness.wait_exit(process, harness.STOP_SECONDS), 0)
        with open(self.path("log"), encoding="utf-8") as log:
            self.assertNotRegex(log.read(), harness.SANITIZER_REPORT)


cross(globals(), Known, Said)
