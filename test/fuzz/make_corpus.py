#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the fuzz targets' first inputs for NBD to corpus/<target>/, one short session each.

What it writes is committed; run it again after a change here. Beside them may lie inputs that a
fuzzer once found.
"""

import os
import struct

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 2, 3, *range(5, 12)


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def string(text):
    return struct.pack(">I", len(text)) + text


def ask(number, name=b"a", infos=(3,)):
    return option(number, string(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos))


def query(number, name=b"a", queries=(b"base:allocation",)):
    data = string(name) + struct.pack(">I", len(queries))
    return option(number, data + b"".join(string(q) for q in queries))


def server():
    """configuration, cut, client flags, options"""
    hello = struct.pack(">I", 3)
    yield "go", b"\x07\x00" + hello + ask(GO, infos=(0, 1, 2, 3))
    yield "export_name", b"\x00\x06" + struct.pack(">I", 1) + option(1, b"a")
    yield "list", b"\x07\x10" + hello + option(LIST) + ask(INFO) + option(ABORT)
    yield "structured", b"\x07\x00" + hello + option(STRUCTURED) + query(SET_META) + ask(GO)
    yield "extended", (b"\x07\x03" + hello + option(EXTENDED) + option(STRUCTURED)
                       + query(LIST_META, queries=(b"base:", b"x:")) + query(LIST_META, queries=())
                       + query(SET_META, queries=(b"x:a", b"x:b", b"x:a")) + ask(GO))
    yield "tls", (b"\x0f\x01" + hello + ask(GO, b"c") + ask(GO, b"z") + option(STARTTLS)
                  + option(STARTTLS) + ask(GO, b"c"))
    yield "tls_required", b"\x17\x00" + hello + option(LIST) + option(STARTTLS) + option(1, b"c")
    yield "block_size", b"\x07\x00" + hello + ask(GO, b"b", ()) + ask(GO, b"b")
    yield "unknown", b"\x07\x00" + hello + option(77, b"data") + option(4) + ask(GO, b"d")
    yield "too_long", b"\x07\xff" + hello + b"IHAVEOPT" + struct.pack(">II", GO, 1 << 20) + b"x" * 99


def request(mode, kind, flags=0, offset=0, length=512, payload=b""):
    if mode == 2:
        return struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, 77, offset, length) + payload
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, 77, offset, length) + payload


def requests():
    """mode and limits, transmission flags, requests"""
    for mode in range(3):
        head = bytes([0x10 + (mode - 16) % 3, 0xFF])
        write = 32 if mode == 2 else 0
        yield f"reads{mode}", head + request(mode, 0) + request(mode, 0, 4, 4096) + request(mode, 2)
        yield f"writes{mode}", (head + request(mode, 1, write, 0, 8, b"contents")
                                + request(mode, 3, 0, 0, 0) + request(mode, 4, 1)
                                + request(mode, 6, 2 + 16, 512, 1 << 19) + request(mode, 5))
        yield f"refused{mode}", (head + request(mode, 1, write + 64, 1 << 20, 8, b"contents")
                                 + request(mode, 99) + request(mode, 0, 0, 1 << 63, 1))
        yield f"status{mode}", head + request(mode, 7) + request(mode, 7, 8, 1024, 4096)
    payload = struct.pack(">QII", 8192, 1, 3)
    yield "filter", b"\x11\xff" + request(2, 7, 32, 0, len(payload), payload)


def reply(number, kind, data=b""):
    return struct.pack(">QIII", 0x0003E889045565A9, number, kind, len(data)) + data


def client():
    """configuration, cut, greeting, option replies"""
    hello = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
    export = reply(GO, 3, struct.pack(">HQH", 0, 1 << 20, 5))
    sizes = reply(GO, 3, struct.pack(">HIII", 3, 1, 4096, 1 << 25))
    error = 1 << 31
    yield "go", b"\x00\x00" + hello + export + sizes + reply(GO, 1)
    yield "all", (b"\x2a\x04" + hello + reply(STARTTLS, 1) + reply(EXTENDED, 1)
                  + reply(SET_META, 4, b"\0\0\0\1base:allocation") + reply(SET_META, 4, b"\0\0\0\2x:a")
                  + reply(SET_META, 1) + export + reply(GO, 1))
    yield "nothing", (b"\x26\x00" + hello + reply(STARTTLS, error + 2) + reply(EXTENDED, error + 1)
                      + reply(STRUCTURED, error + 1) + reply(GO, error + 1, b"what?")
                      + struct.pack(">QH", 512, 1))
    yield "refused", b"\x00\x00" + hello + reply(GO, error + 6, b"no such export")
    yield "old", b"\x00\x02NBDMAGICIHAVEOPT\0\0" + struct.pack(">QH", 512, 1) + bytes(124)
    yield "oldest", b"\x00\x02NBDMAGIC" + struct.pack(">QH", 0x00420281861253, 1)


def simple(cookie, error=0, data=b""):
    return struct.pack(">II", 0x67446698, error) + struct.pack("<Q", cookie) + data


def chunk(mode, cookie, kind, last, payload=b""):
    head = struct.pack(">IHH", 0x6E8A278C if mode == 2 else 0x668E33EF, last, kind)
    head += struct.pack("<Q", cookie)
    if mode == 2:
        return head + struct.pack(">QQ", 0 if cookie % 4 == 3 else 4096, len(payload)) + payload
    return head + struct.pack(">I", len(payload)) + payload


def replies():
    """mode, cut, replies; the cookie tells the request, see the target's lookup()"""
    yield "simple", b"\x00\x06" + simple(1) + simple(0, 0, b"sixteen bytes of") + simple(3, 5)
    for mode in (1, 2):
        head = bytes([mode, 5])
        data = struct.pack(">Q", 4096) + b"eight by"
        error = struct.pack(">IH", 5, 2) + b"oh"
        yield f"read{mode}", (head + chunk(mode, 0, 1, 0, data)
                              + chunk(mode, 0, 2, 0, struct.pack(">QI", 4104, 8))
                              + chunk(mode, 0, 0, 1))
        yield f"errors{mode}", (head + chunk(mode, 1, 0x8001, 1, error)
                                + chunk(mode, 0, 0x8002, 0, error + struct.pack(">Q", 4097))
                                + chunk(mode, 0, 0x8099, 1, error + b"more"))
        yield f"done{mode}", head + chunk(mode, 3, 0, 1) + chunk(mode, 5, 0, 1)
    compact = struct.pack(">IIIII", 1, 4096, 0, 4096, 3)
    wide = struct.pack(">IIQQQQ", 1, 2, 4096, 0, 1 << 40, 3)
    yield "status1", b"\x01\x00" + chunk(1, 2, 5, 0, compact) + chunk(1, 2, 5, 1, compact)
    yield "status2", b"\x02\x00" + chunk(2, 2, 6, 0, wide) + chunk(2, 2, 6, 1, wide)
    yield "mixed", b"\x01\x03" + simple(1) + chunk(1, 0, 0, 1) + simple(5, 28)


def uris():
    yield "tcp", b"nbd://user@[::1]:10809/a%20b"
    yield "name", b"nbds://example.com:1/x?tls-certificates=/etc/pki&tls-verify-peer=0&tls-type=x509"
    yield "unix", b"nbd+unix:///disk?socket=/tmp/s%20s"
    yield "abstract", b"nbds+unix://a@/?socket=%00x&tls-psk-file=k;tls-username=u&tls-hostname=h"


def step_request(kind, flags=0, offset=0, length=1, shifts=0x99, payload=False):
    """A request of a range in units of 1 << shifts (length's in the high four bits)."""
    return struct.pack(">BBBHHB", 0xC1 if payload else 0xC0, kind, flags, offset, length, shifts)


def raw(data):
    """Bytes as they are, in pieces."""
    return b"".join(bytes([len(data[i:i + 100]) - 1]) + data[i:i + 100]
                    for i in range(0, len(data), 100))


SETTLE, PASS, READS, CLOSE, HALF, GIVE_BACK = b"\xff", b"\xc4", b"\xc7", b"\xcc", b"\xcb", b"\xcf"
TICK, SECOND = b"\xc5\x00", b"\xc5\x0a"


def connection():
    """who and where, how far; steps: see the target"""
    hello = struct.pack(">I", 3)
    some = (step_request(1, length=8, payload=True) + step_request(0, length=16)
            + step_request(6, 2, 64, 64) + step_request(4, 0, 32, 64) + step_request(3, length=0)
            + step_request(5, length=8) + step_request(7, length=200))
    huge = (step_request(1, 1, 3, 0x2FF1, 0x80, payload=True)
            + step_request(0, length=0x300, shifts=0xC0))
    yield "clear", b"\0\0" + raw(hello + option(LIST) + ask(INFO, b"") + ask(GO, b"")
                                 + request(0, 1, payload=b"w" * 512) + request(0, 0)) + SETTLE
    yield "export_name", b"\0\0" + raw(struct.pack(">I", 1) + option(1) + request(0, 0))
    for mode in range(2, 8):
        for export in range(3):
            yield f"some{mode}{export}", bytes([0, mode + 8 * export]) + some + SETTLE
    for mode in (2, 3, 4):
        for core in (0, 8):
            yield f"huge{mode}{core}", bytes([core, mode + 8]) + huge + SETTLE + step_request(2)
        yield f"held{mode}", bytes([0x80, mode + 8 + 32]) + huge + some + PASS * 4 + CLOSE + SECOND
        yield f"scarce{mode}", (bytes([0xA8, mode + 8]) + huge * 2 + b"\xd1\x04" + huge + READS
                                + SETTLE + GIVE_BACK)
        yield f"slots{mode}", bytes([0x40, mode + 8]) + some * 2 + GIVE_BACK + SETTLE
        yield f"tls{mode}", bytes([5, mode + 8 * (mode - 1)]) + some + huge + b"\xd3\1\xd3\0"
        yield f"pipes{mode}", bytes([0x10, mode]) + some + huge + HALF + SETTLE
        yield f"late{mode}", bytes([0, mode + 8 + 32]) + some + huge + SECOND * 4 + b"\xc8\x03"
        yield f"fails{mode}", bytes([0, mode + 8]) + b"\xc9\x03" + huge + SETTLE + some
        yield f"drained{mode}", bytes([0, mode + 8 + 32]) + some + b"\xcd\0" + some + SECOND
        yield f"killed{mode}", bytes([8, mode + 8]) + huge + b"\xcd\1" + SECOND
        yield f"faults{mode}", (bytes([0, mode]) + some + b"\xd0\0" + some + b"\xd0\1" + huge
                                + b"\xd0\2" + some)
        yield f"short{mode}", bytes([1, mode]) + b"\xd4\1" + some + huge
    yield "half_write", (b"\0\x0a" + step_request(1, length=0x100) + b"\xc2\x0f\xff" + SECOND
                         + HALF)
    stalled = step_request(1, length=0x1000) + b"\xc2\x01\xff"
    yield "stalled", (b"\x20\x0a" + stalled + b"\xd1\x14" + stalled + b"\xd1\x1d" + stalled
                      + b"\xc5\xff")
    yield "required", b"\2\0" + raw(hello + option(LIST) + ask(GO, b"") + option(STARTTLS))
    yield "garbage_tls", (b"\1\0" + raw(hello + option(STARTTLS) + b"GET / HTTP/1.1\r\n\r\n")
                          + SETTLE)
    # TLS breaks while replies wait for a client that does not read, and requests for their buffers
    broken = b"\xd5" + step_request(0, length=0x400) * 9 + b"\xd2" + raw(b"G" * 90) + b"\xd5"
    for mode in (2, 4):
        yield f"broken_tls{mode}", bytes([0x85, mode + 8]) + broken + SETTLE + SECOND
    # a simple reply has begun, and an error must wait for its end
    behind = (step_request(0, length=0x300, shifts=0xC0) + PASS * 8
              + step_request(0, offset=0xFFFF, shifts=0x0F) + PASS * 4)
    yield "error_behind", b"\x80\x0a" + behind * 2 + READS + SETTLE + step_request(2)
    yield "error_dropped", b"\x80\x0a" + behind + CLOSE + SECOND
    yield "clear_in_tls", b"\5\2" + some + b"\xd2" + some
    yield "handshake_time", b"\1\1" + raw(option(STARTTLS)) + b"\xc5\xff"
    hellos = os.path.join(HERE, "tls")
    for name in ("hello_psk", "hello_psk12", "hello_x509", "hello_x509_13"):
        with open(os.path.join(hellos, name), "rb") as file:
            yield "tls_" + name, b"\1\1" + raw(option(STARTTLS) + file.read()[2:]) + SETTLE
    everything = option(77, b"x" * 99) + query(LIST_META, b"", ()) + option(STRUCTURED)
    yield "options", b"\0\1" + raw(everything * 3) + b"\xc3\x07\x06\0\0\0\0\0\0" + SETTLE
    payload = struct.pack(">QII", 8192, 0, 1)
    yield "filter", b"\0\x05" + raw(request(2, 7, 32, 0, len(payload), payload)) + SETTLE


def main():
    targets = {"connection": connection,
               "nbd_server": server, "nbd_request": requests,
               "nbd_client": client, "nbd_reply": replies, "nbd_uri": uris}
    for target, inputs in targets.items():
        folder = os.path.join(HERE, target)
        os.makedirs(folder, exist_ok=True)
        for name, data in inputs():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
