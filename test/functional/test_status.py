# SPDX-License-Identifier: BSD-3-Clause
"""Metadata contexts, BLOCK_STATUS, and holes in READ replies, in structured and extended mode."""

import random
import threading
import time

import harness
import rawnbd
import rawreply
from harness import GIB, KIB, MIB
from matrix import DISK, MatrixTest, cross
from rawnbd import (BLOCK_STATUS_PAYLOAD, CMD_BLOCK_STATUS, CMD_FLAG_DF, CMD_FLAG_NO_HOLE,
                    CMD_FLAG_PAYLOAD_LEN, CMD_FLAG_REQ_ONE, CMD_READ, CMD_WRITE, EINVAL, EIO,
                    EXTENDED, SIMPLE, STRUCTURED, extended_bytes, filter_data)

ALLOCATION = ("base:allocation",)
MODES = (STRUCTURED, EXTENDED)
DATA, HOLE, ZERO = 0, rawreply.STATE_HOLE | rawreply.STATE_ZERO, rawreply.STATE_ZERO


def joined(extents):
    """(begin, end, flags) of neighbours, those with the same flags made one."""
    made = []
    for begin, end, flags in extents:
        if made and made[-1][2] == flags:
            made[-1] = (made[-1][0], end, flags)
        elif end > begin:
            made.append((begin, end, flags))
    return made


class Model:
    """What must be told of an export that was changed so."""

    def __init__(self, size):
        self.extents = [(0, size, HOLE)]

    def set(self, offset, length, flags):
        end, made = offset + length, []
        for begin, stop, old in self.extents:
            made += [(begin, min(stop, offset), old)] if begin < offset else []
            made += [(max(begin, end), stop, old)] if stop > end else []
        self.extents = joined(sorted(made + [(offset, end, flags)]))


def write_every_other(client, end):
    """Blocks of 4 KiB with as much between them."""
    offsets = range(0, end, 8 * KIB)
    for number, offset in enumerate(offsets):
        client.request(CMD_WRITE, offset, 4096, payload=b"e" * 4096)
        if number >= 64:
            client.reply()
    for _ in offsets[-64:]:
        client.reply()


class Contexts(MatrixTest):
    def test_negotiation(self):
        target = self.serve(MIB, name="disk")
        for mode in MODES:
            with target.client() as client:
                client.greeting()
                self.assertEqual(client.refused(rawnbd.OPT_LIST_META_CONTEXT,
                                                rawnbd.contexts_data("disk", ())),
                                 rawnbd.REP_ERR_INVALID, "before structured replies")
                (client.structured if mode == STRUCTURED else client.extended)()
                for queries in ((), ("base:",), ALLOCATION, ("base:", "x-y:z", "base:allocation")):
                    self.assertEqual(client.list_contexts("disk", queries), list(ALLOCATION))
                for queries in (("base:alloc",), ("base",), ("qemu:",), ("",), (":",),
                                ("base:allocation ",), ("qemu:dirty-bitmap:x",)):
                    self.assertEqual(client.list_contexts("disk", queries), [])
                    self.assertEqual(client.set_contexts("disk", queries), {})
                self.assertEqual(client.set_contexts("disk", ("base:",)), {})
                self.assertEqual(client.set_contexts("disk", ()), {})
                self.assertEqual(list(client.set_contexts("disk", ALLOCATION * 3)),
                                 list(ALLOCATION))
                client.go("disk")
                self.assertEqual(bool(client.flags & BLOCK_STATUS_PAYLOAD), mode == EXTENDED)
                self.assertEqual(client.map(), [(0, MIB, HOLE)])
                client.disconnect()

    def test_not_negotiated(self):
        """Without a context, or with those of another export, it is refused and nothing more."""
        target = self.serve(MIB, name="disk")
        target.rpc("bdev_null_create", name="other", num_blocks=2048, block_size=512)
        target.rpc("export_create", name="other", bdev="other")
        for mode in MODES + (SIMPLE,):
            with target.connect("disk", mode=mode) as client:
                self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, MIB)[0], EINVAL)
                self.assertEqual(client.read(0, 512), bytes(512))
                client.disconnect()
        with target.client() as client:
            client.greeting().structured()
            client.set_contexts("other")
            client.go("disk")
            self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, MIB)[0], EINVAL)
            self.assertEqual(client.last.types, [rawreply.ERROR])
            self.assertIn("context", client.last.message)
            client.disconnect()


class Extents(MatrixTest):
    SIZE = 24 * MIB

    def setUp(self):
        super().setUp()
        self.target = self.serve(self.SIZE)
        self.clients = {mode: self.target.connect(mode=mode, contexts=ALLOCATION) for mode in MODES}

    def kept_zeroes(self):
        """What zeroes are that were to keep their space."""
        return ZERO if self.backend == DISK else DATA

    def test_known_changes(self):
        """Writes, zeroings and punches, each followed by the map on connections of other cores."""
        rng, model = random.Random(20), Model(self.SIZE)
        writer = self.target.connect()
        for step in range(40):
            # wide apart from each other: ext4 writes small rests of unwritten space itself
            offset = rng.randrange(self.SIZE // MIB) * MIB
            length = min(rng.choice((MIB, 2 * MIB, 5 * MIB)), self.SIZE - offset)
            kind = rng.choice(("write", "write", "trim", "zero", "keep") if step else ("write",))
            if kind == "write":
                writer.write(offset, rng.randbytes(length))
                model.set(offset, length, DATA)
            elif kind == "trim":
                writer.trim(offset, length)
                model.set(offset, length, HOLE)
            elif kind == "zero":
                writer.write_zeroes(offset, length)
                model.set(offset, length, HOLE)
            else:
                writer.write_zeroes(offset, length, CMD_FLAG_NO_HOLE)
                model.set(offset, length, self.kept_zeroes())
            for client in self.clients.values():
                self.assertEqual(client.map(), model.extents, f"{kind} {offset}+{length}")
        self.assert_holes_are_told(model)

    def assert_holes_are_told(self, model):
        """READ replies tell zeroes by hole chunks wherever the map says so, and nothing else."""
        for client in self.clients.values():
            for begin, end, flags in model.extents:
                offset, length = begin, min(end - begin, MIB)
                client.read(offset, length)
                told = [(offset, length)] if flags & ZERO else []
                self.assertEqual(client.last.holes, told, f"{offset}+{length} {flags}")
                error, data = client.call(CMD_READ, offset, length, CMD_FLAG_DF)
                self.assertEqual((error, len(client.last.covered)), (0, 1))
                if flags & ZERO:
                    self.assertFalse(any(data))

    def test_large_read_tells_holes_by_part(self):
        data = random.Random(21).randbytes(MIB)
        for client in self.clients.values():
            client.write(4 * MIB, data)
            client.write(9 * MIB + 4096, data[:4096])
            client.map()
            got = client.read(0, 16 * MIB)
            self.assertTrue(got == bytes(4 * MIB) + data + bytes(4 * MIB + 4096) + data[:4096]
                            + bytes(7 * MIB - 8192))
            self.assertGreaterEqual(sum(length for _, length in client.last.holes), 8 * MIB)
            self.assertNotEqual(client.last.types.count(rawreply.OFFSET_DATA), 0)
            client.trim(4 * MIB, 6 * MIB)
        with self.target.connect() as client:  # simple replies carry the bytes
            self.assertEqual(client.read(0, 16 * MIB), bytes(16 * MIB))
            self.assertEqual(client.read(4096, 4096), bytes(4096))

    def test_any_range(self):
        rng, model = random.Random(22), Model(self.SIZE)
        writer = self.target.connect()
        for number in range(1, 24, 2):
            writer.write(number * MIB, b"d" * MIB)
            model.set(number * MIB, MIB, DATA)
        writer.disconnect()
        for client in self.clients.values():
            for _ in range(300):
                offset = rng.randrange(self.SIZE)
                length = rng.randrange(1, min(self.SIZE - offset, rng.choice((9, 5 * MIB))) + 1)
                one = rng.randrange(2) * CMD_FLAG_REQ_ONE
                at, told = offset, []
                for size, flags in client.block_status(offset, length, one):
                    told.append((at, at + size, flags))
                    at += size
                cut = [(max(b, offset), min(e, offset + length), f) for b, e, f in model.extents
                       if b < offset + length and e > offset]
                self.assertEqual(told, cut[:1] if one else cut)
            client.disconnect()

    def test_refused_ranges(self):
        """With an error chunk that has words, and then the session goes on."""
        size = self.SIZE
        for mode, client in self.clients.items():
            ranges = [(0, size + 1), (size, 1), (size - 1, 2), (size + 1, 1), (1 << 63, 4096),
                      ((1 << 64) - 1, 1), ((1 << 64) - 1, 2), (0, 0), (512, 0), (0, 0xFFFFFFFF)]
            if mode == EXTENDED:
                ranges += [(0, 1 << 32), (0, 1 << 40), (0, 1 << 63), (0, (1 << 64) - 1),
                           (512, (1 << 64) - 512)]
            for flags in (0, CMD_FLAG_REQ_ONE):
                for offset, length in ranges:
                    error, _ = client.call(CMD_BLOCK_STATUS, offset, length, flags)
                    self.assertEqual(error, EINVAL, f"{offset}+{length}")
                    self.assertTrue(client.last.message)
            for flag in (CMD_FLAG_DF, CMD_FLAG_NO_HOLE, 1 << 4, 1 << 6, 1 << 15):
                self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, 4096, flag)[0], EINVAL)
            self.assertEqual(client.block_status(0, size), [(size, HOLE)])
            client.disconnect()

    def test_many_extents(self):
        """More than one reply holds: each goes on where the one before ended."""
        writer = self.target.connect()
        write_every_other(writer, 20 * MIB)
        for mode, client in self.clients.items():
            extents = client.map()
            self.assertEqual(len(extents), 20 * MIB // (4 * KIB))
            for number, (begin, end, flags) in enumerate(extents[:-1]):
                self.assertEqual((begin, end, flags), (number * 4096, (number + 1) * 4096,
                                                       HOLE if number % 2 else DATA))
            first = client.block_status(0, 20 * MIB)
            self.assertGreaterEqual(len(first), 1000, f"mode {mode}")
            self.assertLessEqual(len(first), 1 << 20)
            self.assertEqual(client.block_status(0, 20 * MIB, CMD_FLAG_REQ_ONE), [(4096, DATA)])
        # without taking the replies, and beside other requests
        for client in self.clients.values():
            asked = [client.request(CMD_BLOCK_STATUS, 0, 20 * MIB) for _ in range(60)]
            asked += [client.request(CMD_READ, number * 4096, 4096) for number in range(60)]
            time.sleep(0.2)
            self.assert_serves(self.target)
            done = {}
            for _ in asked:
                cookie, error, _ = client.reply()
                self.assertEqual(error, 0)
                done[cookie] = client.last
            for cookie in asked[:60]:
                self.assertGreaterEqual(len(done[cookie].extents[1]), 100)
            self.assertEqual(sorted(done), sorted(asked))
            client.disconnect()

    def test_beside_writes(self):
        """What was written before it was asked is never told to be zeroes."""
        end, errors = time.monotonic() + (2 if not harness.FULL else 20), []

        def work(seed):
            rng = random.Random(seed)
            base = seed * 8 * MIB
            try:
                with self.target.connect(mode=MODES[seed % 2], contexts=ALLOCATION) as client:
                    while time.monotonic() < end:
                        offset = base + rng.randrange(2000) * 4096
                        data = rng.randbytes(4096)
                        client.write(offset, data)
                        told = client.block_status(offset, 4096)
                        if any(flags for _, flags in told):
                            errors.append(f"{offset} told {told} after a WRITE")
                        if client.read(offset, 4096) != data:
                            errors.append(f"{offset} read wrong")
                        client.trim(offset, 4096)
                        if client.read(offset, 4096) not in (bytes(4096), data):
                            errors.append(f"{offset} read wrong after TRIM")
            except Exception as error:  # pylint: disable=broad-except
                errors.append(repr(error))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors[:3], [])


class Filter(MatrixTest):
    """BLOCK_STATUS with a payload: the contexts that the client wants to hear of."""
    SIZE = 4 * MIB

    def setUp(self):
        super().setUp()
        self.target = self.serve(self.SIZE)
        self.client = self.target.connect(mode=EXTENDED, contexts=ALLOCATION)
        self.known = self.client.contexts["base:allocation"]

    def test_good(self):
        client = self.client
        client.write(MIB, b"f" * MIB)
        wanted = [(MIB, HOLE), (MIB, DATA), (2 * MIB, HOLE)]
        self.assertEqual(client.block_status(0, self.SIZE, ids=[self.known]), wanted)
        self.assertEqual(client.block_status(0, self.SIZE, CMD_FLAG_REQ_ONE, [self.known]),
                         wanted[:1])
        # an effect length that is shorter than the payload, just before the end
        for length in (1, 4, 11, 12, 13):
            self.assertEqual(client.block_status(self.SIZE - length, length, ids=[self.known]),
                             [(length, HOLE)])
        client.disconnect()

    def test_refused(self):
        client, known = self.client, self.known
        bad = [(4096, []), (4096, [known + 1]), (4096, [known, known]),
               (4096, [known, known + 1]),
               (4096, [0]), (4096, [0xFFFFFFFF]), (4096, [known] + list(range(100, 115))),
               (0, [known]), (self.SIZE + 1, [known]), (1 << 63, [known]), ((1 << 64) - 1, [known])]
        for length, ids in bad:
            self.assertEqual(client.call_filter(0, length, ids), EINVAL, f"{length} {ids}")
            self.assertTrue(client.last.message)
        for offset in (self.SIZE, self.SIZE - 4095, (1 << 64) - 4096, (1 << 64) - 1):
            self.assertEqual(client.call_filter(offset, 4096, [known]), EINVAL)
        # payloads that are no list at all
        for payload in (b"", b"1", b"1" * 7, b"1" * 11, filter_data(4096, [known]) + b"2",
                        filter_data(4096, [known] * 17), filter_data(4096, range(1, 3000))):
            client.partial[7] = rawreply.Reply(7, CMD_BLOCK_STATUS, 0, 4096, 0, [known], True)
            client.send(extended_bytes(CMD_BLOCK_STATUS, 0, len(payload), CMD_FLAG_PAYLOAD_LEN, 7,
                                       payload))
            self.assertEqual(client.reply()[:2], (7, EINVAL), f"{len(payload)} bytes")
        # the stream is where it should be
        self.assertEqual(client.block_status(0, self.SIZE, ids=[known]), [(self.SIZE, HOLE)])
        client.disconnect()

    def test_in_pieces(self):
        client = self.client
        for cut in (1, 31, 32, 33, 40, 43):
            client.partial[9] = rawreply.Reply(9, CMD_BLOCK_STATUS, 0, 4096, 0, [self.known], True)
            whole = extended_bytes(CMD_BLOCK_STATUS, 0, 12, CMD_FLAG_PAYLOAD_LEN, 9,
                                   filter_data(4096, [self.known]))
            client.send(whole[:cut])
            time.sleep(0.01)
            client.send(whole[cut:] + extended_bytes(CMD_READ, 0, 512, cookie=10))
            client.partial[10] = rawreply.Reply(10, CMD_READ, 0, 512, 0, [], True)
            self.assertEqual(sorted(client.reply()[0] for _ in range(2)), [9, 10])
        for byte in extended_bytes(CMD_BLOCK_STATUS, 0, 12, CMD_FLAG_PAYLOAD_LEN, 9,
                                   filter_data(4096, [self.known])):
            client.partial[9] = rawreply.Reply(9, CMD_BLOCK_STATUS, 0, 4096, 0, [self.known], True)
            client.send(bytes([byte]))
        self.assertEqual(client.reply()[:2], (9, 0))
        # gone in the middle
        for cut in (32, 33, 40, 43):
            with self.target.connect(mode=EXTENDED, contexts=ALLOCATION) as leaver:
                leaver.send(whole[:cut])
        self.wait_idle(self.target, 1)
        client.disconnect()

    def test_not_offered(self):
        """With compact headers the flag is unknown, and no payload comes."""
        with self.target.connect(mode=STRUCTURED, contexts=ALLOCATION) as client:
            self.assertFalse(client.flags & BLOCK_STATUS_PAYLOAD)
            self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, 4096, CMD_FLAG_PAYLOAD_LEN)[0],
                             EINVAL)
            self.assertEqual(client.block_status(0, 4096), [(4096, HOLE)])
            client.disconnect()


class Stacks(harness.TargetTest):
    """Bdevs without a file below, and what they do to BLOCK_STATUS."""

    def each(self):
        for arrangement in (harness.TOGETHER, harness.APART):
            yield harness.cores_of(arrangement)

    def test_null(self):
        for cores in self.each():
            target = self.start("null:1T", cores=cores)
            with target.connect(mode=EXTENDED, contexts=ALLOCATION) as client:
                self.assertEqual(client.block_status(0, 1 << 40), [(1 << 40, HOLE)])
                client.write(0, b"x" * 4096)
                self.assertEqual(client.read(5, 5 * MIB), bytes(5 * MIB))
                self.assertEqual(sum(length for _, length in client.last.holes), 5 * MIB)
                client.disconnect()
            with target.connect(mode=STRUCTURED, contexts=ALLOCATION) as client:
                (length, flags), = client.block_status(0, 0xFFFFFFFF)
                self.assertEqual((flags, length % 4096), (HOLE, 0))
                self.assertGreaterEqual(length, GIB)
                client.disconnect()

    def test_large_malloc(self):
        """A map of terabytes is told in steps; the core serves others in between."""
        target = self.start("malloc:1T", cores=harness.cores_of(harness.TOGETHER))
        with target.connect(mode=EXTENDED, contexts=ALLOCATION) as client:
            client.write((1 << 40) - 4096, b"x" * 4096)
            found, at = [], 0
            while at < 1 << 40:
                extents = client.block_status(at, (1 << 40) - at)
                at += sum(length for length, _ in extents)
                found += extents
            self.assertEqual(found[-1], (4096, DATA))
            self.assertEqual({flags for _, flags in found[:-1]}, {HOLE})
            client.disconnect()

    def test_delay(self):
        for cores in self.each():
            target = self.start("disk=malloc:16M", cores=cores)
            base = target.rpc("bdev_get_bdevs")[0]["name"]
            target.rpc("export_delete", name="disk")
            target.rpc("bdev_delay_create", base_bdev_name=base, name="slow",
                       avg_read_latency=20000, p99_read_latency=20000, avg_write_latency=0,
                       p99_write_latency=0)
            target.rpc("export_create", name="slow", bdev="slow")
            for mode in MODES:
                with target.connect("slow", mode=mode, contexts=ALLOCATION) as client:
                    client.write(MIB, b"s" * MIB)
                    began = time.monotonic()
                    self.assertEqual(client.block_status(0, 4 * MIB),
                                     [(MIB, HOLE), (MIB, DATA), (2 * MIB, HOLE)])
                    self.assertGreaterEqual(time.monotonic() - began, 0.02)
                    self.assertEqual(client.read(0, 4096), bytes(4096))
                    self.assertEqual(client.last.holes, [(0, 4096)])
                    client.read(MIB, 4096)
                    self.assertEqual(client.last.holes, [])
                    client.disconnect()

    def failing(self, cores, **export):
        target = self.start("disk=malloc:16M", cores=cores)
        base = target.rpc("bdev_get_bdevs")[0]["name"]
        target.rpc("export_delete", name="disk")
        target.rpc("bdev_error_create", base_name=base)
        target.rpc("export_create", name="bad", bdev="EE_" + base, **export)
        return target, "EE_" + base

    def test_error(self):
        for cores in self.each():
            target, bdev = self.failing(cores)
            for mode in MODES:
                with target.connect("bad", mode=mode, contexts=ALLOCATION) as client:
                    target.rpc("bdev_error_inject_error", name=bdev, io_type="all",
                               error_type="failure")
                    self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, 16 * MIB)[0], EIO)
                    self.assertEqual(client.last.types, [rawreply.ERROR])
                    self.assertTrue(client.last.message)
                    target.rpc("bdev_error_inject_error", name=bdev, io_type="clear",
                               error_type="failure")
                    self.assertEqual(client.block_status(0, 16 * MIB), [(16 * MIB, HOLE)])
                    # a changed byte is told, though it was in a hole
                    target.rpc("bdev_error_inject_error", name=bdev, io_type="read",
                               error_type="corrupt_data", corrupt_offset=9, corrupt_value=8)
                    self.assertEqual(client.read(0, 16), bytes(9) + b"\x08" + bytes(6))
                    client.disconnect()
            stats = target.rpc("export_get_iostat")["exports"][0]["block_status"]
            self.assertEqual((stats["ops"], stats["errors"]), (4, 2))

    def test_time_out(self):
        target, bdev = self.failing(harness.cores_of(harness.TOGETHER), io_timeout_ms=200)
        with target.connect("bad", mode=STRUCTURED, contexts=ALLOCATION) as client:
            target.rpc("bdev_error_inject_error", name=bdev, io_type="all", error_type="pending")
            self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, MIB)[0], EIO)
            target.rpc("bdev_error_inject_error", name=bdev, io_type="clear", error_type="pending")
            self.assertEqual(client.block_status(0, MIB), [(MIB, HOLE)])
            client.disconnect()

    def test_shrunk(self):
        """A client is told its size once; what was cut off is refused."""
        for spec, method in (("malloc:8M", "bdev_malloc_resize"),
                             (f"file:{self.make_file(8 * MIB)}", "bdev_file_resize")):
            target = self.start(spec)
            name = target.rpc("bdev_get_bdevs")[0]["name"]
            with target.connect(mode=EXTENDED, contexts=ALLOCATION) as client:
                self.assertEqual(client.map(), [(0, 8 * MIB, HOLE)])
                target.rpc(method, name=name, new_size=4 * MIB)
                known = list(client.contexts.values())
                self.assertEqual(client.call(CMD_BLOCK_STATUS, 0, 8 * MIB)[0], EINVAL)
                self.assertEqual(client.call_filter(0, 8 * MIB, known), EINVAL)
                self.assertEqual(client.block_status(0, 4 * MIB), [(4 * MIB, HOLE)])
                target.rpc(method, name=name, new_size=16 * MIB)
                self.assertEqual(client.map(), [(0, 8 * MIB, HOLE)])
                client.disconnect()
            with target.connect(mode=EXTENDED, contexts=ALLOCATION) as client:
                self.assertEqual(client.map(), [(0, 16 * MIB, HOLE)])
                client.disconnect()

    def test_few_buffers(self):
        """Many clients that ask much and take nothing, on a target with little memory."""
        target = self.start("malloc:32M", args=["--memory", "2M", "--stall-timeout", "500"])
        with target.connect() as writer:
            write_every_other(writer, 32 * MIB)
        lazy = [target.connect(mode=EXTENDED, contexts=ALLOCATION) for _ in range(30)]
        for client in lazy:
            try:
                for _ in range(100):
                    client.request(CMD_BLOCK_STATUS, 0, 32 * MIB)
            except rawnbd.Closed:
                pass  # it stood still for too long already
        with target.connect(mode=EXTENDED, contexts=ALLOCATION, timeout=60) as client:
            self.assertEqual(len(client.map()), 32 * MIB // (4 * KIB))
            client.disconnect()
        for client in lazy:
            client.close()
        self.wait_idle(target)


cross(globals(), Contexts, Extents, Filter)
