#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the fuzz targets' first inputs for NBD to corpus/nbd_<target>/, one short session each.

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


def main():
    targets = {"nbd_server": server, "nbd_request": requests, "nbd_client": client,
               "nbd_reply": replies, "nbd_uri": uris}
    for target, inputs in targets.items():
        folder = os.path.join(HERE, target)
        os.makedirs(folder, exist_ok=True)
        for name, data in inputs():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
