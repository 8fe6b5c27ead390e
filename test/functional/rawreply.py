# SPDX-License-Identifier: BSD-3-Clause
"""
Replies in chunks - structured and extended - for the raw client: each chunk is checked against its
request as the document says it, and put together to what the request brought.
Source: NetworkBlockDevice/nbd, doc/proto.md, "Structured reply types".
"""

import struct

MAGIC_STRUCTURED_REPLY = 0x668E33EF
MAGIC_EXTENDED_REPLY = 0x6E8A278C
FLAG_DONE = 1

NONE, OFFSET_DATA, OFFSET_HOLE, BLOCK_STATUS, BLOCK_STATUS_EXT = 0, 1, 2, 5, 6
ERROR, ERROR_OFFSET = 1 << 15 | 1, 1 << 15 | 2

CMD_READ, CMD_BLOCK_STATUS = 0, 7
CMD_FLAG_DF, CMD_FLAG_REQ_ONE = 4, 8

STATE_HOLE, STATE_ZERO = 1, 2
MAX_EXTENTS = 1 << 20
MAX_MESSAGE_BYTES = 4096


class BadChunk(Exception):
    """The server sent a chunk that the protocol does not allow here."""


def need(condition, what):
    if not condition:
        raise BadChunk(what)


class Reply:
    """What has come for one request; `ids` are the contexts that a BLOCK_STATUS must answer."""

    def __init__(self, cookie, command, offset, length, flags, ids, extended):
        self.cookie, self.command, self.flags = cookie, command, flags
        self.offset, self.length = offset, length
        self.ids, self.extended = ids, extended
        self.error, self.message = 0, ""
        self.errors = []      # (offset or None, error, message), in order
        self.types = []       # of the chunks, in order
        self.holes = []       # (offset, length), in order
        self.extents = {}     # context id -> [(length, flags)]
        self.data = None      # of a READ, from the first content on
        self.covered = []     # (begin, end) of content

    def add(self, flags, kind, payload):
        """One chunk. True if it was the last."""
        need(not flags & ~FLAG_DONE, f"chunk flags {flags:#x}")
        self.types.append(kind)
        if kind == NONE:
            need(not payload, "NONE with a payload")
            need(flags & FLAG_DONE, "NONE that is not the last chunk")
        elif kind == OFFSET_DATA:
            need(len(payload) >= 9, "OFFSET_DATA without data")
            self.content(struct.unpack(">Q", payload[:8])[0], payload[8:])
        elif kind == OFFSET_HOLE:
            need(len(payload) == 12, f"OFFSET_HOLE of {len(payload)} bytes")
            offset, length = struct.unpack(">QL", payload)
            self.holes.append((offset, length))
            self.content(offset, bytes(length))
        elif kind in (BLOCK_STATUS, BLOCK_STATUS_EXT):
            self.status(kind, payload)
        elif kind in (ERROR, ERROR_OFFSET):
            self.failure(kind, payload)
        else:
            raise BadChunk(f"a chunk of type {kind}")
        if flags & FLAG_DONE:
            self.check_whole()
        return bool(flags & FLAG_DONE)

    def content(self, offset, data):
        need(self.command == CMD_READ, "content for what is no READ")
        begin, end = offset, offset + len(data)
        need(data and self.offset <= begin and end <= self.offset + self.length,
             f"content {begin}+{len(data)} of READ {self.offset}+{self.length}")
        need(not any(begin < e and b < end for b, e in self.covered), "content that overlaps")
        need(not self.flags & CMD_FLAG_DF or not self.covered, "two content chunks in spite of DF")
        if self.data is None:
            self.data = bytearray(self.length)
        self.covered.append((begin, end))
        self.data[begin - self.offset:end - self.offset] = data

    def status(self, kind, payload):
        need(self.command == CMD_BLOCK_STATUS, "status for what is no BLOCK_STATUS")
        need((kind == BLOCK_STATUS_EXT) == self.extended, f"status chunk {kind} in this mode")
        context, = struct.unpack(">L", payload[:4])
        need(context in self.ids, f"context {context} was not asked about")
        need(context not in self.extents, f"context {context} twice")
        head, form, size = (8, ">QQ", 16) if self.extended else (4, ">LL", 8)
        body = payload[head:]
        need(body and len(body) % size == 0, f"status chunk of {len(payload)} bytes")
        count = len(body) // size
        if self.extended:
            need(struct.unpack(">L", payload[4:8])[0] == count, "wrong descriptor count")
        need(count <= MAX_EXTENTS, f"{count} extents")
        extents = list(struct.iter_unpack(form, body))
        need(all(length for length, _ in extents), "an empty extent")
        before = sum(length for length, _ in extents[:-1])
        need(count == 1 or before < self.length, "an extent that begins behind the range")
        if self.flags & CMD_FLAG_REQ_ONE:
            need(count == 1 and extents[0][0] <= self.length, "REQ_ONE was not heeded")
        self.extents[context] = extents

    def failure(self, kind, payload):
        need(len(payload) >= 6, "a short error chunk")
        error, length = struct.unpack(">LH", payload[:6])
        need(error, "an error chunk without an error")
        need(length <= MAX_MESSAGE_BYTES, "a long message")
        rest = 8 if kind == ERROR_OFFSET else 0
        need(len(payload) == 6 + length + rest, "an error chunk of a wrong length")
        message, offset = payload[6:6 + length].decode(), None
        if kind == ERROR_OFFSET:
            offset, = struct.unpack(">Q", payload[6 + length:])
            need(self.offset <= offset < self.offset + self.length, "an error at another place")
            need(not any(b <= offset < e for b, e in self.covered), "an error inside of content")
        self.errors.append((offset, error, message))
        if not self.error:
            self.error, self.message = error, message

    def read_bytes(self):
        return b"" if self.data is None or self.error else bytes(self.data)

    def check_whole(self):
        if self.error:
            return
        if self.command == CMD_READ:
            need(sum(e - b for b, e in self.covered) == self.length, "a READ with gaps")
        if self.command == CMD_BLOCK_STATUS:
            need(set(self.extents) == set(self.ids), "not one chunk a context")
