# SPDX-License-Identifier: BSD-3-Clause
"""libnbd from Python: what it makes of structured replies, block status, DF, errors in the middle,
asynchronous requests, several connections, options, TLS and a target that it starts itself."""

import errno
import random
import shutil
import tempfile
import unittest

import harness
from harness import KIB, MIB, POLLUX
from matrix import MatrixTest, cross
from pki import Pki

try:
    import nbd
except ImportError:
    nbd = None

SIZE = 16 * MIB
CONTEXT = "base:allocation"


def whole(handle, offset, length, flags=0):
    """A structured READ: (bytes, [(kind, offset, length)], [(offset, errno)])."""
    chunks, errors, data = [], [], bytearray(length)

    def chunk(content, at, kind, error):
        if kind == nbd.READ_ERROR:
            errors.append((at, error.value))
            return 0
        chunks.append((kind, at, len(content)))
        data[at - offset:at - offset + len(content)] = content
        return 0
    try:
        returned = handle.pread_structured(length, offset, chunk, flags)
        assert returned == bytes(data)
    except nbd.Error as error:
        if not errors:
            raise
        assert error.errnum
    return bytes(data), sorted(chunks, key=lambda entry: entry[1]), errors


def extents(handle, offset, length, flags=0):
    """[(length, flags)] of base:allocation."""
    found = []

    def extent(context, at, entries, error):
        assert (context, at, error.value) == (CONTEXT, offset, 0)
        found.extend(zip(entries[::2], entries[1::2]))
        return 0
    handle.block_status(length, offset, extent, flags)
    return found


@unittest.skipIf(nbd is None, "python3-libnbd is not installed")
class Structured(MatrixTest):
    def setUp(self):
        super().setUp()
        self.target = self.serve(SIZE)
        self.handles = []

    def tearDown(self):
        for handle in self.handles:
            handle.shutdown()
        super().tearDown()

    def connect(self, contexts=True, structured=True, uri=None):
        handle = nbd.NBD()
        if contexts:
            handle.add_meta_context(CONTEXT)
        handle.set_request_structured_replies(structured)
        handle.connect_uri(uri or self.target.uri())
        self.handles.append(handle)
        return handle

    def filled(self):
        """A handle; 1 MiB of data at 2 MiB and at 3.5."""
        handle = self.connect()
        data = random.Random(40).randbytes(MIB)
        handle.pwrite(data, 2 * MIB)
        handle.pwrite(data, 3 * MIB + MIB // 2)
        return handle, bytes(2 * MIB) + data + bytes(MIB // 2) + data + bytes(MIB // 2)

    def test_negotiated(self):
        handle = self.connect()
        self.assertTrue(handle.get_structured_replies_negotiated())
        self.assertTrue(handle.can_meta_context(CONTEXT))
        self.assertTrue(handle.can_df())
        self.assertEqual(handle.get_protocol(), "newstyle-fixed")
        self.assertEqual(handle.get_block_size(nbd.SIZE_MINIMUM), 1)
        self.assertEqual(handle.get_block_size(nbd.SIZE_MAXIMUM), 64 * MIB)
        plain = self.connect(contexts=False, structured=False)
        self.assertFalse(plain.get_structured_replies_negotiated())
        self.assertFalse(plain.can_df())
        self.assertFalse(plain.can_meta_context(CONTEXT))
        self.assertEqual(plain.pread(4096, 0), bytes(4096))

    def test_reads(self):
        handle, wanted = self.filled()
        extents(handle, 0, SIZE)  # from here on holes are known
        for offset, length in ((0, 5 * MIB), (2 * MIB, MIB), (2 * MIB - 1, 2), (3 * MIB, 4096),
                               (1, 4 * MIB + 77)):
            data, chunks, errors = whole(handle, offset, length)
            self.assertTrue(data == wanted[offset:offset + length])
            self.assertEqual(errors, [])
            at = offset
            for _, begin, size in chunks:
                self.assertEqual(begin, at)
                at += size
            self.assertEqual(at, offset + length)
        kinds = {kind for kind, _, _ in whole(handle, 0, 5 * MIB)[1]}
        self.assertEqual(kinds, {nbd.READ_DATA, nbd.READ_HOLE})

    def test_df(self):
        handle, wanted = self.filled()
        extents(handle, 0, SIZE)
        for offset, length in ((2 * MIB - 32 * KIB, 64 * KIB), (0, 65536), (2 * MIB, MIB),
                               (3 * MIB - 1, 2)):
            data, chunks, _ = whole(handle, offset, length, nbd.CMD_FLAG_DF)
            self.assertTrue(data == wanted[offset:offset + length])
            self.assertEqual(len(chunks), 1)
        with self.assertRaises(nbd.Error) as caught:
            handle.pread_structured(4 * MIB, 0, lambda *_: 0, nbd.CMD_FLAG_DF)
        self.assertEqual(caught.exception.errnum, errno.EOVERFLOW)

    def test_block_status(self):
        handle, _ = self.filled()
        wanted = [(2 * MIB, 3), (MIB, 0), (MIB // 2, 3), (MIB, 0), (SIZE - 4 * MIB - MIB // 2, 3)]
        self.assertEqual(extents(handle, 0, SIZE), wanted)
        self.assertEqual(extents(handle, 0, SIZE, nbd.CMD_FLAG_REQ_ONE), wanted[:1])
        self.assertEqual(extents(handle, MIB, 4096, nbd.CMD_FLAG_REQ_ONE), [(4096, 3)])
        handle.zero(MIB, 2 * MIB)
        self.assertEqual(extents(handle, 0, 3 * MIB)[0][1], 3)
        handle.trim(SIZE, 0)
        self.assertEqual(extents(handle, 0, SIZE), [(SIZE, 3)])

    def test_asynchronous(self):
        """Structured READs, WRITEs and BLOCK_STATUS, 64 in flight on four connections."""
        handles = [self.connect() for _ in range(4)]
        self.assertTrue(all(handle.can_multi_conn() for handle in handles))
        rng, model, seen = random.Random(41), bytearray(SIZE), []
        for _ in range(3):
            cookies = []
            for number, handle in enumerate(handles):
                for slot in range(16):
                    offset = (slot * 4 + number) * 64 * KIB
                    data = rng.randbytes(rng.randrange(1, 64 * KIB))
                    model[offset:offset + len(data)] = data
                    cookies.append((handle, handle.aio_pwrite(nbd.Buffer.from_bytearray(data),
                                                              offset)))
            self.finish(cookies)
            handles[rng.randrange(4)].flush()
            cookies = []
            for handle in handles:
                for _ in range(16):
                    length = rng.randrange(1, 300 * KIB)
                    offset = rng.randrange(SIZE - length)
                    buffer = nbd.Buffer(length)
                    cookies.append((handle, handle.aio_pread_structured(
                        buffer, offset, lambda *_: 0)))
                    seen.append((buffer, offset, length))
                    cookies.append((handle, handle.aio_block_status(
                        length, offset, lambda *_: 0)))
            self.finish(cookies)
            for buffer, offset, length in seen:
                self.assertTrue(buffer.to_bytearray() == model[offset:offset + length])
            seen.clear()

    @staticmethod
    def finish(cookies):
        for handle, cookie in cookies:
            while not handle.aio_command_completed(cookie):
                handle.poll(-1)

    def test_misuse_is_refused(self):
        """What libnbd does not send by itself."""
        handle = self.connect()
        handle.set_strict_mode(0)
        for call, number in ((lambda: handle.pread(512, SIZE), errno.EINVAL),
                             (lambda: handle.pwrite(b"x" * 512, SIZE), errno.ENOSPC),
                             (lambda: handle.trim(512, SIZE), errno.EINVAL),
                             (lambda: handle.zero(512, SIZE), errno.ENOSPC),
                             (lambda: extents(handle, SIZE, 512), errno.EINVAL),
                             (lambda: handle.pread(512, 0, nbd.CMD_FLAG_REQ_ONE), errno.EINVAL),
                             (lambda: handle.trim(512, 0, nbd.CMD_FLAG_DF), errno.EINVAL)):
            with self.assertRaises(nbd.Error) as caught:
                call()
            self.assertEqual(caught.exception.errnum, number)
        self.assertEqual(handle.pread(512, 0), bytes(512))

    def test_options(self):
        """LIST, INFO, contexts, ABORT, and a GO after one that failed."""
        handle = nbd.NBD()
        handle.set_opt_mode(True)
        handle.connect_uri(self.target.uri())
        names, contexts = [], []
        handle.opt_list(lambda name, description: names.append(name) or 0)
        self.assertEqual(names, [""])
        handle.opt_list_meta_context(lambda name: contexts.append(name) or 0)
        self.assertEqual(contexts, [CONTEXT])
        handle.set_export_name("nobody")
        for call in (handle.opt_info, handle.opt_go):
            with self.assertRaises(nbd.Error) as caught:
                call()
            self.assertEqual(caught.exception.errnum, errno.ENOENT)
        handle.set_export_name("")
        handle.opt_info()
        self.assertEqual(handle.get_size(), SIZE)
        handle.add_meta_context(CONTEXT)
        handle.opt_go()
        self.assertEqual(handle.pread(512, 0), bytes(512))
        self.assertEqual(extents(handle, 0, SIZE), [(SIZE, 3)])
        handle.shutdown()
        other = nbd.NBD()
        other.set_opt_mode(True)
        other.connect_uri(self.target.uri())
        other.opt_abort()
        self.assertTrue(other.aio_is_closed())

    def test_error_in_the_middle(self):
        """The callback is told where."""
        rpc = self.target.rpc
        rpc("bdev_malloc_create", name="m", num_blocks=16 * MIB // 512, block_size=512)
        rpc("bdev_delay_create", base_bdev_name="m", name="d", avg_read_latency=20000,
            p99_read_latency=20000, avg_write_latency=0, p99_write_latency=0)
        rpc("bdev_error_create", base_name="d")
        rpc("export_create", name="bad", bdev="EE_d")
        handle = self.connect(uri=self.target.uri("bad"))
        data = random.Random(42).randbytes(4 * MIB)
        handle.pwrite(data, 0)
        rpc("bdev_error_inject_error", name="EE_d", io_type="read", error_type="failure",
            queue_depth=1)
        found, chunks, errors = whole(handle, 0, 4 * MIB)
        self.assertEqual(len(errors), 1)
        self.assertEqual(errors[0][1], errno.EIO)
        self.assertGreaterEqual(errors[0][0], MIB)
        self.assertTrue(chunks)
        for _, at, length in chunks:
            self.assertTrue(found[at:at + length] == data[at:at + length])
        self.assertEqual(whole(handle, 0, 4 * MIB)[0], data)


@unittest.skipIf(nbd is None, "python3-libnbd is not installed")
class Otherwise(harness.TargetTest):
    def use(self, handle):
        data = random.Random(43).randbytes(3 * MIB)
        handle.pwrite(data, 1000)
        self.assertTrue(whole(handle, 1000, len(data))[0] == data)
        self.assertEqual(sum(length for length, _ in extents(handle, 0, 8 * MIB)), 8 * MIB)
        handle.shutdown()

    def test_started_by_libnbd(self):
        for how in ("connect_command", "connect_systemd_socket_activation"):
            handle = nbd.NBD()
            handle.add_meta_context(CONTEXT)
            arguments = [POLLUX, "--stdio", "malloc:8M"]
            if how != "connect_command":
                arguments.remove("--stdio")
            getattr(handle, how)(arguments)
            self.use(handle)

    def test_tls(self):
        place = tempfile.mkdtemp(prefix="pollux-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        pki = Pki(place)
        target = self.start("malloc:8M", args=["--tls-certificates", pki.dir])
        handle = nbd.NBD()
        handle.add_meta_context(CONTEXT)
        handle.set_tls(nbd.TLS_REQUIRE)
        handle.set_tls_certificates(pki.dir)
        handle.connect_uri(target.uri().replace("nbd", "nbds", 1))
        self.assertTrue(handle.get_tls_negotiated())
        self.use(handle)


cross(globals(), Structured)
