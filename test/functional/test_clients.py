# SPDX-License-Identifier: BSD-3-Clause
"""Real clients: libnbd's and qemu's tools, fio, nbd-client, libnbd from Python; over the matrix."""

import json
import os
import random

import harness
from harness import FULL, KIB, MIB, SANITIZED, need_program, run
from matrix import MatrixTest, cross

SIZE = 32 * MIB


class Tools(MatrixTest):
    def image_file(self, size, name="in", seed=12):
        """An image with data, zeroes and runs of one byte."""
        rng, content = random.Random(seed), bytearray()
        while len(content) < size:
            length = rng.choice((1, 512, 4096, 65536, 100001))
            content += rng.choice((bytes(length), rng.randbytes(length), b"\x55" * length))
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(content[:size])
        return path

    def test_nbdinfo(self):
        need_program("nbdinfo")
        target = self.serve(SIZE, name="disk")
        # where there is no default export the list must still be told
        listed = json.loads(run("nbdinfo", "--no-content", "--list", "--json", target.uri()).stdout)
        self.assertEqual([export["export-name"] for export in listed["exports"]], ["disk"])
        told = json.loads(run("nbdinfo", "--no-content", "--json",
                              target.uri("disk")).stdout)["exports"][0]
        self.assertEqual(told["export-size"], SIZE)
        self.assertFalse(told["is_read_only"])
        self.assertTrue(told["can_multi_conn"])
        self.assertTrue(told["can_flush"] and told["can_fua"] and told["can_trim"])
        self.assertTrue(told["can_zero"])
        self.assertEqual((told["block_size_minimum"], told["block_size_maximum"]), (1, 64 * MIB))
        self.assertGreaterEqual(told["block_size_preferred"], 4096)
        self.assertEqual(run("nbdinfo", "--size", target.uri("disk")).stdout.strip(), str(SIZE))
        for what in ("connect", "flush", "fua", "trim", "zero", "multi-conn"):
            run("nbdinfo", "--can", what, target.uri("disk"))

    def nbdcopy(self, size):
        source, back = self.image_file(size), self.path("out")
        target = self.serve(size)
        run("nbdcopy", "--flush", source, target.uri())
        run("nbdcopy", target.uri(), back)
        run("cmp", source, back)
        os.unlink(back)
        run("nbdcopy", "--synchronous", target.uri(), back)
        run("cmp", source, back)
        target.stop()
        if self.image:
            run("cmp", source, self.image)

    def test_nbdcopy(self):
        need_program("nbdcopy")
        self.nbdcopy(SIZE)

    def test_nbdcopy_of_odd_length(self):
        need_program("nbdcopy")
        sizes = (1, 511, 100001, 3 * MIB + 7)
        if self.backend == "malloc":  # it has whole blocks
            sizes = (512, 1536, 3 * MIB + 512)
        for size in sizes:
            with self.subTest(size=size):
                self.nbdcopy(size)

    def test_qemu_img(self):
        need_program("qemu-img")
        source = self.image_file(SIZE)
        qcow = self.path("q.qcow2")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, qcow)
        target = self.serve(SIZE)
        run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow, target.uri())
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", qcow, target.uri())
        back = self.path("back")
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", target.uri(), back)
        run("cmp", source, back)
        self.assertEqual(json.loads(run("qemu-img", "info", "--output=json", target.uri()).stdout)
                         ["virtual-size"], SIZE)

    def test_qemu_io(self):
        need_program("qemu-io")
        target = self.serve(SIZE)
        commands = ["write -P 0x11 0 64k", "write -f -P 0x22 64k 64k", "read -P 0x11 0 64k",
                    "read -P 0x22 64k 64k", "write -z 16k 16k", "read -P 0 16k 16k",
                    "write -z -u 32k 16k", "read -P 0 32k 16k", "read -P 0x11 48k 16k",
                    "discard 64k 32k", "read -P 0x22 96k 32k", "flush",
                    "aio_write -P 0x33 1M 1M", "aio_write -P 0x44 2M 1M", "aio_flush",
                    "read -P 0x33 1M 1M", "read -P 0x44 2M 1M",
                    "write -P 0x55 1000 3333", "read -P 0x55 1000 3333", "read -P 0x11 0 1000",
                    "writev -P 0x66 5M 512 1024 8192", "read -P 0x66 5M 9728",
                    f"write -P 0x77 {SIZE - 512} 512", f"read -P 0x77 {SIZE - 512} 512"]
        args = []
        for command in commands:
            args += ["-c", command]
        done = run("qemu-io", "-f", "raw", *args, target.uri())
        self.assertNotIn("verification failed", done.stdout + done.stderr)
        self.assertNotIn("failed", done.stdout + done.stderr)

    def test_fio(self):
        need_program("fio")
        if "nbd" not in run("fio", "--enghelp").stdout.split():
            self.skipTest("this fio has no nbd engine")
        target = self.serve(SIZE)
        each = SIZE // 8
        if SANITIZED and not FULL:
            each //= 4
        done = run("fio", "--name=verify", "--ioengine=nbd", f"--uri={target.uri()}", "--rw=randrw",
                   "--rwmixread=30", "--bsrange=512-64k", "--iodepth=64", "--numjobs=8",
                   f"--size={each}", f"--offset_increment={SIZE // 8}", "--verify=crc32c",
                   "--verify_fatal=1", "--group_reporting", "--output-format=json",
                   f"--aux-path={self.directory}", timeout=300, cwd=self.directory)
        job, = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
        self.assertEqual(job["error"], 0)
        self.assertGreater(job["write"]["total_ios"], 100)
        self.assertGreater(job["read"]["total_ios"], 100)

    def test_nbd_client_list(self):
        client = need_program("nbd-client")
        target = self.serve(SIZE, name="disk")
        where = (["-u", target.sock_path] if self.transport == "unix"
                 else ["127.0.0.1", str(target.port)])
        self.assertIn("disk", run(client, "-l", *where).stdout)

    def test_libnbd(self):
        """Asynchronous requests of all kinds on several connections of one handle each."""
        try:
            import nbd
        except ImportError:
            self.skipTest("python3-libnbd is not installed")
        target = self.serve(SIZE)
        handles = []
        for _ in range(4):
            handle = nbd.NBD()
            handle.connect_uri(target.uri())
            handles.append(handle)
        self.assertTrue(handles[0].can_multi_conn())
        rng = random.Random(13)
        expected = bytearray(SIZE)
        for number, handle in enumerate(handles):
            base, cookies = number * (SIZE // 4), []
            for _ in range(64):
                length = rng.randrange(1, 50000)
                offset = base + rng.randrange(0, SIZE // 4 - length)
                data = rng.randbytes(length)
                expected[offset:offset + length] = data
                handle.pwrite(data, offset)
            for _ in range(64):
                length = rng.randrange(1, 100000)
                offset = base + rng.randrange(0, SIZE // 4 - length)
                buffer = nbd.Buffer(length)
                cookies.append((handle.aio_pread(buffer, offset), buffer, offset, length))
            for cookie, buffer, offset, length in cookies:
                while not handle.aio_command_completed(cookie):
                    handle.poll(-1)
                self.assertEqual(buffer.to_bytearray(), expected[offset:offset + length])
        handles[0].flush()
        for handle in handles:
            handle.zero(4096, 0)
            handle.shutdown()
        expected[:4096] = bytes(4096)
        check = nbd.NBD()
        check.connect_uri(target.uri())
        self.assertEqual(check.pread(4 * MIB, 0), expected[:4 * MIB])
        check.trim(64 * KIB, 0)
        check.shutdown()


class Other(harness.TargetTest):
    def test_nbdkit_in_front(self):
        """Another server as a client: nbdkit's nbd plugin passes a disk through."""
        need_program("nbdkit")
        need_program("nbdcopy")
        target = self.start("malloc:8M")
        image, back = self.make_file(8 * MIB, content=random.Random(14).randbytes(8 * MIB)), \
            self.path("out")
        if "nbd" not in run("nbdkit", "--dump-plugin", "nbd", check=False).stdout:
            self.skipTest("nbdkit has no nbd plugin here")
        run("nbdkit", "-U", "-", "nbd", f"socket={target.sock_path}", "--run",
            f'nbdcopy {image} "$uri" && nbdcopy "$uri" {back}')
        run("cmp", image, back)

    def test_qemu_storage_daemon_as_a_client(self):
        need_program("qemu-nbd")
        target = self.start("disk=malloc:8M")
        listed = run("qemu-nbd", "--list", "-k", target.sock_path)
        self.assertIn("disk", listed.stdout)
        self.assertIn(str(8 * MIB), listed.stdout)


cross(globals(), Tools)
