# SPDX-License-Identifier: BSD-3-Clause
"""Conformance: agreeing on replies in chunks and on metadata contexts; BLOCK_STATUS."""

import struct

import conformance
import rawnbd
from conformance import ALLOCATION, CHUNKED, SIZE, SMALL, table, tearDownModule
from harness import KIB, MIB
from rawnbd import (CMD_BLOCK_STATUS, CMD_FLAG_FUA, CMD_FLAG_PAYLOAD_LEN, CMD_FLAG_REQ_ONE, EINVAL,
                    EXTENDED, OPT_EXTENDED_HEADERS, OPT_GO, OPT_LIST_META_CONTEXT,
                    OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, REP_ERR_EXT_HEADER_REQD,
                    REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, SIMPLE, contexts_data, filter_data, go_data)
from rawreply import STATE_HOLE, STATE_ZERO

assert tearDownModule
HOLE = STATE_HOLE | STATE_ZERO


class Agreeing(conformance.Rules):
    """STRUCTURED_REPLY and EXTENDED_HEADERS."""
    OPENS = True
    @table(one_byte=b"\0", option=struct.pack(">L", 1), bytes1000=bytes(1000),
           bytes70000=bytes(70000))
    def test_with_data(self, data):
        """Refused, and nothing has been agreed on."""
        client = self.greeted()
        for option in (OPT_STRUCTURED_REPLY, OPT_EXTENDED_HEADERS):
            self.assertEqual(client.refused(option, data), REP_ERR_INVALID)
        self.assertEqual(client.refused(OPT_LIST_META_CONTEXT, contexts_data("disk", ())),
                         REP_ERR_INVALID)
        self.goes_on(client)

    def test_repeated(self):
        client = self.greeted()
        for _ in range(3):
            self.agreed(client)
        self.goes_on(client)

    def test_structured_before_extended(self):
        """Extended headers take precedence, whichever was first."""
        client = self.greeted().structured().extended()
        self.goes_on(client)

    def test_structured_after_extended(self):
        client = self.greeted().extended()
        for _ in range(2):
            self.assertEqual(client.refused(OPT_STRUCTURED_REPLY), REP_ERR_EXT_HEADER_REQD)
        self.goes_on(client)

    def test_extended_without_structured(self):
        self.goes_on(self.greeted().extended())

    def test_extended_repeated(self):
        client = self.greeted().extended()
        client.refused(OPT_STRUCTURED_REPLY)
        self.goes_on(client.extended())

    def test_contexts_before_chunks(self):
        """Neither listed nor set, as long as there are only simple replies."""
        client = self.greeted()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            for queries in ((), ALLOCATION):
                self.assertEqual(client.refused(option, contexts_data("disk", queries)),
                                 REP_ERR_INVALID)
        self.goes_on(self.agreed(client))

    def test_contexts_set_before_extended(self):
        """Set with structured replies, kept when extended headers are agreed on."""
        client = self.greeted().structured()
        client.set_contexts("disk")
        client.extended().go("disk")
        error, _ = client.call(CMD_BLOCK_STATUS, 0, SMALL)
        self.assertIn(error, (0, EINVAL))
        self.in_sync(client)
        client.disconnect()

    def test_headers_are_the_agreed_ones(self):
        """The other mode's requests have a wrong magic here."""
        client = self.connect("disk")
        magic = rawnbd.MAGIC_REQUEST if self.mode == EXTENDED else rawnbd.MAGIC_EXTENDED_REQUEST
        conformance.closes(client.send, struct.pack(">LHHQQQ", magic, 0, 0, 1, 0, 512) * 2)
        self.ends(client)

    def test_go_with_everything(self):
        client = self.agreed()
        client.refused(4711)
        client.list()
        if self.mode != SIMPLE:
            client.list_contexts("disk")
            client.set_contexts("disk")
        client.info("disk", [0, 1, 2, 3])
        client.go("disk", [3])
        self.in_sync(client)
        client.disconnect()


QUERIES = {
    "none": ((), True, False), "namespace": (("base:",), True, False),
    "exact": (ALLOCATION, True, True), "twice": (ALLOCATION * 2, True, True),
    "hundred_times": (ALLOCATION * 100, True, True),
    "namespace_and_exact": (("base:", "base:allocation"), True, True),
    "unknown_leaf": (("base:nothing",), False, False),
    "prefix": (("base:alloc",), False, False), "longer": (("base:allocations",), False, False),
    "space": (("base:allocation ",), False, False), "case": (("BASE:ALLOCATION",), False, False),
    "two_colons": (("base:allocation:",), False, False),
    "unknown_namespace": (("x-nobody:knows",), False, False),
    "unknown_wildcard": (("x-nobody:",), False, False),
    "nbd_server": (("nbd-server:x",), False, False),
    "qemu": (("qemu:",), False, False), "dirty_bitmap": (("qemu:dirty-bitmap:b",), False, False),
    "depth": (("qemu:allocation-depth",), False, False),
    "unknown_and_exact": (("x-nobody:", "base:allocation", "qemu:q"), True, True),
    "exact_last_of_1000": (("x-a:b",) * 999 + ALLOCATION, True, True),
    "long_unknown": (("x-" + "n" * 4000 + ":leaf",), False, False),
    "utf8": (("x-é:ü",), False, False),
}
# what the document calls semantically wrong: it may be refused, or match nothing
ODD = {"no_colon": ("base",), "empty": ("",), "colon": (":",), "no_namespace": (":allocation",),
       "not_utf8": (b"\xff\xfe:\xfd",)}


class Contexts(conformance.Rules):
    """LIST_META_CONTEXT and SET_META_CONTEXT."""
    OPENS = True

    @table(**{key: row[:2] for key, row in QUERIES.items()})
    def test_list(self, queries, found):
        client = self.agreed()
        self.assertEqual(client.list_contexts("disk", queries), list(ALLOCATION) * found)
        self.goes_on(client)

    @table(**{key: row[::2] for key, row in QUERIES.items()})
    def test_set(self, queries, found):
        client = self.agreed()
        self.assertEqual(list(client.set_contexts("disk", queries)), list(ALLOCATION) * found)
        client.go("disk")
        if found:
            self.assertEqual(client.block_status(0, SMALL), [(SMALL, HOLE)])
        else:
            self.answer(client, EINVAL, CMD_BLOCK_STATUS, 0, SMALL)
        self.in_sync(client)
        client.disconnect()

    @table(**{key: (queries,) for key, queries in ODD.items()})
    def test_odd_query(self, queries):
        client = self.agreed()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            try:
                self.assertEqual(client.ask(option, contexts_data("disk", queries)), [])
            except rawnbd.Refused as error:
                self.assertEqual(error.reply, REP_ERR_INVALID)
        self.goes_on(client)

    @table(empty=b"", short=b"\0\0\0", no_count=struct.pack(">L", 4) + b"disk",
           half_count=struct.pack(">L", 4) + b"disk\0\0",
           byte_more=contexts_data("disk", ALLOCATION) + b"\0",
           byte_less=contexts_data("disk", ALLOCATION)[:-1],
           query_missing=struct.pack(">L4sL", 4, b"disk", 1),
           query_beyond=struct.pack(">L4sLL", 4, b"disk", 1, 5) + b"base",
           query_of_4g=struct.pack(">L4sLL", 4, b"disk", 1, 0xFFFFFFFF) + b"base",
           queries_of_4g=struct.pack(">L4sL", 4, b"disk", 0xFFFFFFFF),
           second_missing=struct.pack(">L4sLL", 4, b"disk", 2, 5) + b"base:",
           count_less=struct.pack(">L4sL", 4, b"disk", 0) + contexts_data("", ALLOCATION)[8:],
           name_beyond=struct.pack(">L", 100) + b"disk", name_of_4g=struct.pack(">L", 0xFFFFFFFF))
    def test_malformed(self, data):
        client = self.agreed()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            self.assertEqual(client.refused(option, data), REP_ERR_INVALID)
        self.goes_on(client)

    @table(unknown="nobody", case="DISK", bytes4096="x" * 4096)
    def test_unknown_export(self, name):
        client = self.agreed()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            self.assertEqual(client.refused(option, contexts_data(name, ALLOCATION)),
                             REP_ERR_UNKNOWN)
        self.goes_on(client)

    @table(name4097=("x" * 4097, ALLOCATION), query4097=("disk", ("base:" + "x" * 4092,)),
           nul=("disk", ("base:\0allocation",)))
    def test_no_string(self, name, queries):
        client = self.agreed()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            self.assertIn(client.refused(option, contexts_data(name, queries)),
                          (REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN))
        self.goes_on(client)

    def test_too_many_queries(self):
        client = self.agreed()
        for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
            for count in (1025, 7000):
                data = contexts_data("disk", ("x:y",) * count)
                self.assertEqual(client.refused(option, data), REP_ERR_TOO_BIG)
            self.assertEqual(client.refused(option, contexts_data("disk", ("x:",) * 20000)),
                             REP_ERR_TOO_BIG)
        self.goes_on(client)

    def test_list_ids_are_zero(self):
        client = self.agreed()
        for kind, data in client.ask(OPT_LIST_META_CONTEXT, contexts_data("disk", ())):
            self.assertEqual((kind, data[:4]), (rawnbd.REP_META_CONTEXT, bytes(4)))

    def test_list_selects_nothing(self):
        client = self.agreed()
        client.list_contexts("disk", ALLOCATION)
        client.go("disk")
        self.answer(client, EINVAL, CMD_BLOCK_STATUS, 0, 4096)
        client.disconnect()

    def test_list_between_set_and_go(self):
        client = self.agreed()
        client.set_contexts("disk")
        client.list_contexts("told")
        client.list_contexts("disk", ("x:",))
        client.go("disk")
        self.assertEqual(client.block_status(0, SMALL), [(SMALL, HOLE)])
        client.disconnect()

    def lost(self, client, name="disk"):
        """What was set does not count any more."""
        client.contexts = {}
        client.go(name)
        self.answer(client, EINVAL, CMD_BLOCK_STATUS, 0, 4096)
        self.in_sync(client)
        client.disconnect()

    def test_set_without_queries_clears(self):
        client = self.agreed()
        client.set_contexts("disk")
        self.assertEqual(client.set_contexts("disk", ()), {})
        self.lost(client)

    def test_set_again_replaces(self):
        client = self.agreed()
        client.set_contexts("told")
        client.set_contexts("disk")
        client.go("disk")
        self.assertEqual(client.block_status(0, SMALL), [(SMALL, HOLE)])
        client.disconnect()

    @table(malformed=(b"", REP_ERR_INVALID),
           unknown=(contexts_data("nobody", ALLOCATION), REP_ERR_UNKNOWN),
           too_many=(contexts_data("disk", ("x:y",) * 1025), REP_ERR_TOO_BIG),
           too_long=(bytes(70000), REP_ERR_TOO_BIG))
    def test_failed_set_clears(self, data, reply):
        client = self.agreed()
        client.set_contexts("disk")
        self.assertEqual(client.refused(OPT_SET_META_CONTEXT, data), reply)
        self.lost(client)

    def test_set_for_another_export(self):
        client = self.agreed()
        client.set_contexts("told")
        self.lost(client)

    def test_set_then_another_first(self):
        """The last one counts, for the name it was for."""
        client = self.agreed()
        client.set_contexts("disk")
        client.set_contexts("told")
        self.lost(client)

    def test_set_without_go(self):
        client = self.agreed()
        client.set_contexts("disk")
        self.assertEqual(client.ask(rawnbd.OPT_ABORT), [])
        self.ends(client)

    def test_set_survives_other_options(self):
        client = self.agreed()
        client.set_contexts("disk")
        client.refused(4711)
        client.list()
        client.info("told")
        client.refused(OPT_GO, go_data("nobody"))
        self.agreed(client)
        client.go("disk")
        self.assertEqual(client.block_status(0, SMALL), [(SMALL, HOLE)])
        client.disconnect()

    def test_set_for_default_export(self):
        client = self.agreed()
        client.set_contexts("")
        client.go("")
        self.assertEqual(sum(length for length, _ in client.block_status(0, SIZE)), SIZE)
        client.disconnect()


class Status(conformance.Rules):
    """BLOCK_STATUS of base:allocation."""

    @table(whole=(0, SIZE), first=(0, 512), byte=(0, 1), last=(SIZE - 512, 512),
           last_byte=(SIZE - 1, 1), unaligned=(4097, 8191), middle=(3 * MIB, MIB))
    def test_range(self, offset, length):
        told = self.cleared().block_status(offset, length)
        self.assertGreaterEqual(offset + sum(size for size, _ in told), offset + length)
        self.assertLessEqual(offset + sum(size for size, _ in told[:-1]), offset + length)
        self.assertEqual({flags for _, flags in told}, {HOLE})

    @table(past_end=(SIZE, 1), over_end=(SIZE - 1, 2), all_and_one=(0, SIZE + 1),
           far=(1 << 62, 4096), negative=(1 << 63, 4096), wraps=((1 << 64) - 1, 1),
           wraps_to_zero=((1 << 64) - 4096, 4096), big=(0, 0xFFFFFFFF), zero=(0, 0),
           zero_in=(4096, 0), zero_at_end=(SIZE, 0))
    def test_refused_range(self, offset, length):
        client = self.client
        for flags in (0, CMD_FLAG_REQ_ONE, CMD_FLAG_FUA):
            self.answer(client, EINVAL, CMD_BLOCK_STATUS, offset, length, flags)

    def test_data(self):
        """What was written is told as data, and only that."""
        client = self.cleared()
        client.write(2 * MIB, b"d" * MIB)
        wanted = ([(0, 2 * MIB, HOLE), (2 * MIB, 3 * MIB, 0), (3 * MIB, SIZE, HOLE)]
                  if self.keeps else [(0, SIZE, HOLE)])
        self.assertEqual(client.map(), wanted)

    def test_req_one(self):
        client = self.cleared()
        client.write(MIB, b"d" * MIB)
        wanted = MIB if self.keeps else 4 * MIB
        self.assertEqual(client.block_status(0, 4 * MIB, CMD_FLAG_REQ_ONE), [(wanted, HOLE)])
        self.assertEqual(client.block_status(0, 4096, CMD_FLAG_REQ_ONE), [(4096, HOLE)])
        self.assertEqual(client.block_status(MIB + 1, 77, CMD_FLAG_REQ_ONE),
                         [(77, 0 if self.keeps else HOLE)])

    def test_neighbours_differ(self):
        client = self.cleared()
        for number in range(0, 64, 2):
            client.write(number * 64 * KIB, b"d" * 64 * KIB)
        told = client.block_status(0, SIZE)
        for one, two in zip(told, told[1:]):
            self.assertNotEqual(one[1], two[1])
        self.assertEqual(len(told), 64 if self.keeps else 1)

    def test_fua_is_accepted(self):
        client = self.cleared()
        self.assertEqual(client.block_status(0, SIZE, CMD_FLAG_FUA), [(SIZE, HOLE)])

    def test_zeroes_written_as_data(self):
        """Whatever is told of them, it is true: they read as zeroes."""
        client = self.cleared()
        client.write(MIB, bytes(MIB))
        for length, flags in client.block_status(MIB, MIB):
            self.assertFalse(flags & ~HOLE)
            self.assertGreater(length, 0)
        self.assertEqual(client.read(MIB, MIB), bytes(MIB))

    def test_progress(self):
        """Asked again for the rest, every offset gets its answer."""
        client = self.cleared()
        for offset in range(0, SIZE, 128 * KIB):
            client.write(offset, b"p" * 4096)
        at = 0
        while at < SIZE:
            at += sum(length for length, _ in client.block_status(at, SIZE - at))
        self.assertEqual(at, SIZE)

    def test_beside_others(self):
        client = self.cleared()
        asked = [client.request(command, number * 4096, 4096) for number in range(50)
                 for command in (CMD_BLOCK_STATUS, rawnbd.CMD_READ, rawnbd.CMD_FLUSH + 2)]
        self.assertEqual(sorted(client.reply()[0] for _ in asked), sorted(asked))


class Filter(conformance.Rules):
    """BLOCK_STATUS that names the contexts it wants: PAYLOAD_LEN with extended headers."""

    def known(self):
        return self.client.contexts["base:allocation"]

    @table(whole=(0, SIZE), byte=(SIZE - 1, 1), shorter_than_its_payload=(4096, 5))
    def test_good(self, offset, length):
        self.cleared()
        told = self.client.block_status(offset, length, ids=[self.known()])
        self.assertEqual({flags for _, flags in told}, {HOLE})

    def test_req_one(self):
        self.cleared()
        self.assertEqual(self.client.block_status(0, 4096, CMD_FLAG_REQ_ONE, [self.known()]),
                         [(4096, HOLE)])

    @table(no_ids=(4096, []), unknown=(4096, [77]), zero=(4096, [0]), top=(4096, [0xFFFFFFFF]),
           twice=(4096, [1, 1]), one_unknown=(4096, [1, 2]), seventeen=(4096, range(1, 18)),
           thousands=(4096, range(1, 5000)), length_zero=(0, [1]), beyond=(SIZE + 1, [1]),
           length_2_63=(1 << 63, [1]), length_top=((1 << 64) - 1, [1]))
    def test_refused(self, length, ids):
        self.assertEqual(self.known(), 1)
        self.assertEqual(self.client.call_filter(0, length, ids), EINVAL)
        self.assertTrue(self.client.last.message)

    @table(at_end=SIZE, over_end=SIZE - 4095, wraps=(1 << 64) - 4096, top=(1 << 64) - 1)
    def test_refused_offset(self, offset):
        self.assertEqual(self.client.call_filter(offset, 4096, [self.known()]), EINVAL)

    @table(one_byte=b"1", seven=b"1" * 7, only_length=filter_data(4096, []),
           eleven=filter_data(4096, [])+ b"123", thirteen=filter_data(4096, [1]) + b"x",
           megabyte=bytes(MIB), largest=bytes(32 * MIB))
    def test_no_list(self, payload):
        """Consumed, and then refused: the stream goes on."""
        self.answer(self.client, EINVAL, CMD_BLOCK_STATUS, 0, len(payload), 0, payload)

    def test_empty_payload(self):
        self.answer(self.client, EINVAL, CMD_BLOCK_STATUS, 0, 0, CMD_FLAG_PAYLOAD_LEN)

    def test_without_contexts(self):
        """Not offered without contexts: consumed and refused."""
        client = self.connect("disk", contexts=())
        self.assertFalse(client.flags & rawnbd.BLOCK_STATUS_PAYLOAD)
        self.assertEqual(client.call_filter(0, 4096, [1]), EINVAL)
        self.in_sync(client)
        client.disconnect()


class Compact(conformance.Rules):
    """PAYLOAD_LEN without extended headers, and contexts without chunks."""

    def test_payload_len(self):
        self.answer(self.client, EINVAL, CMD_BLOCK_STATUS, 0, 4096, CMD_FLAG_PAYLOAD_LEN)

    def test_status_in_simple_mode(self):
        client = self.connect("disk", mode=SIMPLE)
        self.answer(client, EINVAL, CMD_BLOCK_STATUS, 0, 4096)
        self.in_sync(client)
        client.disconnect()


conformance.across(globals(), Agreeing)
conformance.across(globals(), Contexts, Status, mode=CHUNKED)
conformance.across(globals(), Filter, mode=CHUNKED[1:])
conformance.across(globals(), Compact, mode=conformance.MODES[:2])
