# SPDX-License-Identifier: BSD-3-Clause
"""TLS with real clients, and large transfers over it."""

import json
import os
import random
import struct
import subprocess

import harness
import rawnbd
import tlstest
from harness import KIB, MIB, need_program, run
from matrix import DISK, MALLOC, TCP, UNIX, MatrixTest, cross
from rawnbd import OPT_LIST, OPT_STARTTLS, REP_ACK, REP_ERR_TLS_REQD, option_bytes
from tlstest import TlsTest

SIZE = 16 * MIB
setUpModule, tearDownModule = tlstest.set_up, tlstest.tear_down


class Clients(MatrixTest, TlsTest):
    def image_file(self, size):
        rng = random.Random(7)
        path = self.path("in")
        with open(path, "wb") as file:
            while file.tell() < size:
                length = min(rng.choice((512, 4096, 65536, 100001, 1 << 20)), size - file.tell())
                file.write(rng.choice((bytes(length), rng.randbytes(length))))
        return path

    def both(self, **kw):
        """(name, target, uri) with certificates and with keys."""
        path = self.psk()
        target = self.serve(SIZE, args=["--tls-certificates", self.x509_dir(),
                                        "--tls-verify-peer"], **kw)
        yield "x509", target, self.x509_uri(target)
        target = self.serve(SIZE, args=["--tls-psk", path], **kw)
        yield "psk", target, self.psk_uri(target, path)

    def test_nbdinfo(self):
        need_program("nbdinfo")
        for name, _, uri in self.both():
            with self.subTest(name):
                told = json.loads(run("nbdinfo", "--json", uri).stdout)
                self.assertIs(told["TLS"], True)
                self.assertEqual(told["exports"][0]["export-size"], SIZE)

    def test_nbdcopy(self):
        """There and back by several connections; large requests and small ones."""
        need_program("nbdcopy")
        image, back = self.image_file(SIZE), self.path("out")
        for name, target, uri in self.both():
            with self.subTest(name):
                run("nbdcopy", "--connections=4", "--requests=32", image, uri)
                run("nbdcopy", "--connections=4", "--requests=32", "--request-size=1048576", uri,
                    back)
                run("cmp", image, back)
                os.unlink(back)
                run("nbdcopy", "--connections=2", "--requests=64", "--request-size=4096", uri, back)
                run("cmp", image, back)
                os.unlink(back)

    def test_qemu_img(self):
        need_program("qemu-img")
        image, back = self.image_file(SIZE), self.path("out")
        keys = os.path.dirname(self.psk("keys.psk"))
        kinds = {
            "x509": f"tls-creds-x509,id=t,dir={tlstest.PKI.dir},endpoint=client",
            "psk": f"tls-creds-psk,id=t,dir={keys},username=alice,endpoint=client",
        }
        for name, target, _ in self.both():
            with self.subTest(name):
                where = (f"server.type=unix,server.path={target.sock_path}" if self.transport == UNIX
                         else f"server.type=inet,server.host=127.0.0.1,server.port={target.port}")
                # over a unix socket qemu has no host name to check the certificate against
                if name == "x509":
                    where += ",tls-hostname=localhost"
                options = f"driver=raw,file.driver=nbd,{where},file.tls-creds=t"
                options = options.replace("server.", "file.server.").replace(
                    "tls-hostname", "file.tls-hostname")
                run("qemu-img", "convert", "-n", "--object", kinds[name], "--target-image-opts",
                    "-f", "raw", image, options)
                run("qemu-img", "convert", "--object", kinds[name], "--image-opts", options, "-O",
                    "raw", back)
                run("cmp", image, back)
                run("qemu-img", "compare", "--object", kinds[name], "--image-opts", options,
                    f"driver=raw,file.driver=file,file.filename={image}")

    def test_libnbd(self):
        try:
            import nbd
        except ImportError:
            self.skipTest("python3-libnbd is not installed")
        rng = random.Random(13)
        for name, target, uri in self.both():
            with self.subTest(name):
                handle = nbd.NBD()
                handle.set_uri_allow_local_file(True)
                handle.connect_uri(uri)
                self.assertTrue(handle.get_tls_negotiated())
                expected = bytearray(SIZE)
                for _ in range(100):
                    length = rng.randrange(1, 300000)
                    offset = rng.randrange(0, SIZE - length)
                    data = rng.randbytes(length)
                    expected[offset:offset + length] = data
                    handle.pwrite(data, offset)
                cookies = []
                for _ in range(100):
                    length = rng.randrange(1, 3 * MIB)
                    offset = rng.randrange(0, SIZE - length)
                    buffer = nbd.Buffer(length)
                    cookies.append((handle.aio_pread(buffer, offset), buffer, offset, length))
                for cookie, buffer, offset, length in cookies:
                    while not handle.aio_command_completed(cookie):
                        handle.poll(-1)
                    self.assertEqual(buffer.to_bytearray(), expected[offset:offset + length])
                handle.flush()
                handle.trim(64 * KIB, 0)
                handle.zero(64 * KIB, 128 * KIB)
                handle.shutdown()


class OtherClients(TlsTest):
    def test_gnutls_cli(self):
        """TLS 1.1 asked for by GnuTLS itself, behind STARTTLS."""
        client = need_program("gnutls-cli")
        target = self.start_x509(tcp=True)
        # gnutls-cli speaks no NBD: a plain connection first shows that the port answers nothing to it
        done = run(client, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1", "--insecure",
                   f"127.0.0.1:{target.port}", check=False, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.serves_tls(target)

    def test_nbdsh(self):
        shell = need_program("nbdsh")
        path = self.psk()
        target = self.start_psk(path=path)
        run(shell, "-c", "h.set_uri_allow_local_file(True)", "-c",
            f"h.connect_uri('{self.psk_uri(target, path)}')", "-c", "h.pwrite(b'hello', 0)", "-c",
            "assert h.pread(5, 0) == b'hello'",
            env={**os.environ, "PATH": "/usr/bin:/bin"})  # the python that has libnbd's module

    def libnbd(self, path):
        """A handle that insists on TLS with alice's key."""
        try:
            import nbd
        except ImportError:
            self.skipTest("python3-libnbd is not installed")
        handle = nbd.NBD()
        handle.set_tls(nbd.TLS_REQUIRE)
        handle.set_tls_psk_file(path)
        handle.set_tls_username("alice")
        return handle

    def check_started(self, handle):
        data = random.Random(4).randbytes(3 * MIB)
        self.assertTrue(handle.get_tls_negotiated())
        handle.pwrite(data, 12345)
        self.assertEqual(handle.pread(len(data), 12345), data)
        handle.shutdown()

    def test_stdio(self):
        path = self.psk()
        handle = self.libnbd(path)
        handle.connect_command([harness.POLLUX, "-s", "--tls-psk", path, "malloc:8M"])
        self.check_started(handle)

    def test_socket_activation(self):
        path = self.psk()
        handle = self.libnbd(path)
        handle.connect_systemd_socket_activation([harness.POLLUX, "--tls-psk", path, "malloc:8M"])
        self.check_started(handle)

    def test_stdio_refuses_the_clear(self):
        """The options hold on standard input and output too, over pipes as well."""
        path = self.psk()
        child = subprocess.Popen([harness.POLLUX, "-s", "--tls-psk", path, "malloc:8M"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, env=harness.environment())
        self.addCleanup(child.kill)
        child.stdin.write(struct.pack(">L", 3) + option_bytes(OPT_LIST)
                          + option_bytes(OPT_STARTTLS) + b"no TLS")
        child.stdin.flush()
        child.stdout.read(18)
        magic, option, reply, length = struct.unpack(">QLLL", child.stdout.read(20))
        self.assertEqual((magic, option, reply),
                         (rawnbd.MAGIC_OPTION_REPLY, OPT_LIST, REP_ERR_TLS_REQD))
        child.stdout.read(length)
        self.assertEqual(struct.unpack(">QLLL", child.stdout.read(20))[2], REP_ACK)
        self.assertEqual(child.stdout.read()[:1], b"\x15", "an alert")
        child.stdin.close()
        self.assertEqual(child.wait(30), 0)
        child.stdout.close()

    def test_nbdcopy_between_targets(self):
        need_program("nbdcopy")
        path = self.psk()
        source, sink = self.start_psk(path=path), self.start_psk(path=path)
        data = random.Random(2).randbytes(8 * MIB)
        image = self.make_file(0, content=data)
        run("nbdcopy", image, self.psk_uri(source, path))
        run("nbdcopy", self.psk_uri(source, path), self.psk_uri(sink, path))
        run("nbdcopy", self.psk_uri(sink, path), self.path("out"))
        run("cmp", image, self.path("out"))


TLS_ROWS = [(MALLOC, UNIX, harness.TOGETHER), (MALLOC, TCP, harness.APART),
            (DISK, TCP, harness.TOGETHER), (DISK, UNIX, harness.APART)]
cross(globals(), Clients, rows=TLS_ROWS)
del TlsTest
