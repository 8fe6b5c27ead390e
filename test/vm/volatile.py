# SPDX-License-Identifier: BSD-3-Clause
"""
A disk with a volatile write cache, for QEMU: an NBD server in a thread of the test.

What is written lies in the cache until a FLUSH, or went in with FUA; stable() is what a power cut would
leave behind. What killed QEMU alone would leave is no such thing: its host has the page cache still.
"""

import os
import socket
import struct
import threading
import time

import rawnbd

BLOCK = 512
FLAGS = (rawnbd.HAS_FLAGS | rawnbd.SEND_FLUSH | rawnbd.SEND_FUA | rawnbd.SEND_TRIM
         | rawnbd.SEND_WRITE_ZEROES)
# a flush takes its time: an answer that does not wait for it comes before the data is stable
FLUSH_SECONDS = 0.01


class Gone(Exception):
    """QEMU ended."""


class Disk:
    """One disk; `path` is the socket's, `contents` what is on it from the start."""

    def __init__(self, path, contents):
        self.path = path
        self.now = bytearray(contents)   # with the cache, what reads give
        self.kept = bytearray(contents)  # without
        self.dirty = set()               # blocks in which they may differ
        self.flushes = 0
        self.fua_writes = 0
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def uri(self):
        return f"nbd+unix:///?socket={self.path}"

    def stable(self):
        with self.lock:
            return bytes(self.kept)

    def close(self):
        """Ends as soon as QEMU has."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        os.unlink(self.path)

    def run(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                try:
                    if self.negotiate(peer):
                        self.serve(peer)
                except (Gone, ConnectionError):
                    pass

    @staticmethod
    def receive(peer, count):
        data = bytearray()
        while len(data) < count:
            part = peer.recv(count - len(data))
            if not part:
                raise Gone
            data += part
        return bytes(data)

    def negotiate(self, peer):
        """Options until GO or EXPORT_NAME; False: QEMU went on in no such way."""
        peer.sendall(struct.pack(">QQH", rawnbd.MAGIC_INIT, rawnbd.MAGIC_OPTION,
                                 rawnbd.FLAG_FIXED_NEWSTYLE | rawnbd.FLAG_NO_ZEROES))
        self.receive(peer, 4)

        def reply(option, kind, data=b""):
            peer.sendall(struct.pack(">QLLL", rawnbd.MAGIC_OPTION_REPLY, option, kind, len(data)) + data)

        while True:
            _, option, length = struct.unpack(">QLL", self.receive(peer, 16))
            self.receive(peer, length)
            size = struct.pack(">QH", len(self.now), FLAGS)
            if option == rawnbd.OPT_EXPORT_NAME:
                peer.sendall(size)
                return True
            if option in (rawnbd.OPT_GO, rawnbd.OPT_INFO):
                reply(option, rawnbd.REP_INFO, struct.pack(">H", rawnbd.INFO_EXPORT) + size)
                reply(option, rawnbd.REP_INFO,
                      struct.pack(">HLLL", rawnbd.INFO_BLOCK_SIZE, BLOCK, 4096, 32 << 20))
                reply(option, rawnbd.REP_ACK)
                if option == rawnbd.OPT_GO:
                    return True
            elif option == rawnbd.OPT_ABORT:
                reply(option, rawnbd.REP_ACK)
                return False
            else:
                reply(option, rawnbd.REP_ERR_UNSUP)

    def serve(self, peer):
        while True:
            _, flags, command, cookie, offset, length = struct.unpack(">LHHQQL",
                                                                      self.receive(peer, 28))
            payload = self.receive(peer, length) if command == rawnbd.CMD_WRITE else b""
            if command == rawnbd.CMD_DISC:
                return
            answer = b""
            if command == rawnbd.CMD_READ:
                answer = bytes(self.now[offset:offset + length])
            elif command == rawnbd.CMD_FLUSH:
                self.flush()
            else:  # TRIM reads as zeroes here
                self.write(offset, payload or bytes(length), flags & rawnbd.CMD_FLAG_FUA)
            peer.sendall(struct.pack(">LLQ", rawnbd.MAGIC_SIMPLE_REPLY, 0, cookie) + answer)

    def keep(self, block):
        at = slice(block * BLOCK, (block + 1) * BLOCK)
        self.kept[at] = self.now[at]
        self.dirty.discard(block)

    def flush(self):
        time.sleep(FLUSH_SECONDS)
        with self.lock:
            self.flushes += 1
            for block in list(self.dirty):
                self.keep(block)

    def write(self, offset, data, fua):
        blocks = range(offset // BLOCK, (offset + len(data)) // BLOCK)
        with self.lock:
            self.now[offset:offset + len(data)] = data
            self.dirty.update(blocks)
        if fua:
            time.sleep(FLUSH_SECONDS)
            with self.lock:
                self.fua_writes += 1
                for block in blocks:
                    self.keep(block)
