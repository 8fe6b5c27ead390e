# SPDX-License-Identifier: BSD-3-Clause
"""
A raw NBD client for tests: it sends what it is told to, right or wrong, and tells what came back.

Nothing is retried, checked or repaired on the way out; what comes in is checked strictly, because a
server's framing is part of what the tests are about. Every read has a time-out, so that a silent
server fails a test instead of hanging it. Simple, structured and extended replies (rawreply.py).
Source: NetworkBlockDevice/nbd, doc/proto.md.
"""

import socket
import struct

import rawreply

MAGIC_INIT = 0x4E42444D41474943
MAGIC_OPTION = 0x49484156454F5054
MAGIC_OPTION_REPLY = 0x0003E889045565A9
MAGIC_REQUEST = 0x25609513
MAGIC_EXTENDED_REQUEST = 0x21E41C71
MAGIC_SIMPLE_REPLY = 0x67446698

FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF, \
    CAN_MULTI_CONN, SEND_RESIZE, SEND_CACHE, SEND_FAST_ZERO, BLOCK_STATUS_PAYLOAD \
    = (1 << bit for bit in range(13))

SIMPLE, STRUCTURED, EXTENDED = range(3)

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK, OPT_STARTTLS, OPT_INFO, OPT_GO, \
    OPT_STRUCTURED_REPLY, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS \
    = range(1, 12)

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERROR = 1 << 31
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID, REP_ERR_PLATFORM, REP_ERR_TLS_REQD, \
    REP_ERR_UNKNOWN, REP_ERR_SHUTDOWN, REP_ERR_BLOCK_SIZE_REQD, REP_ERR_TOO_BIG, \
    REP_ERR_EXT_HEADER_REQD = (REP_ERROR | number for number in range(1, 11))

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, \
    CMD_BLOCK_STATUS, CMD_RESIZE = range(9)

CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_DF, CMD_FLAG_REQ_ONE, CMD_FLAG_FAST_ZERO, \
    CMD_FLAG_PAYLOAD_LEN = (1 << bit for bit in range(6))

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108

MAX_PAYLOAD_BYTES = 64 << 20
MAX_STRING_BYTES = 4096


class Closed(Exception):
    """The server closed the connection (end of stream or reset)."""


class ProtocolError(Exception):
    """The server sent what the protocol does not allow."""


class Refused(Exception):
    """An option was answered by an error; `reply` is its number."""

    def __init__(self, reply, message):
        super().__init__(f"option refused: {reply:#x} {message!r}")
        self.reply = reply


def option_bytes(option, data=b"", length=None, magic=MAGIC_OPTION):
    """One option as bytes; length and magic may lie."""
    return struct.pack(">QLL", magic, option, len(data) if length is None else length) + data


def go_data(name, infos=()):
    """The data of GO and INFO."""
    name = name.encode() if isinstance(name, str) else name
    return (struct.pack(">L", len(name)) + name + struct.pack(">H", len(infos))
            + b"".join(struct.pack(">H", info) for info in infos))


def request_bytes(command, offset=0, length=0, flags=0, cookie=0, payload=b"", magic=MAGIC_REQUEST):
    """One compact request as bytes, its payload behind it."""
    return struct.pack(">LHHQQL", magic, flags, command, cookie, offset, length) + payload


def extended_bytes(command, offset=0, length=0, flags=0, cookie=0, payload=b"",
                   magic=MAGIC_EXTENDED_REQUEST):
    """One extended request as bytes, its payload behind it."""
    return struct.pack(">LHHQQQ", magic, flags, command, cookie, offset, length) + payload


def contexts_data(name, queries):
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    strings = [text.encode() if isinstance(text, str) else text for text in (name, *queries)]
    packed = [struct.pack(">L", len(text)) + text for text in strings]
    return packed[0] + struct.pack(">L", len(queries)) + b"".join(packed[1:])


def filter_data(length, ids):
    """The payload of a BLOCK_STATUS: effect length and context ids."""
    return struct.pack(">Q", length) + b"".join(struct.pack(">L", number) for number in ids)


class Client:
    """A connection. `address` is ("unix", path), ("tcp", host, port) or ("open", socket)."""

    def __init__(self, address, timeout=20.0, receive_buffer=None):
        if address[0] == "open":
            self.sock = address[1]
            self.sock.settimeout(timeout)
        else:
            self.connect_to(address, timeout, receive_buffer)
        self.server_flags = None
        self.size = None
        self.flags = None
        self.infos = {}
        self.cookie = 0
        self.reads = {}  # cookie -> bytes that a good simple reply carries
        self.mode = SIMPLE
        self.contexts = {}  # name -> id
        self.partial = {}  # cookie -> rawreply.Reply
        self.last = None  # the last one that is whole

    def connect_to(self, address, timeout, receive_buffer):
        if address[0] == "unix":
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            where = address[1]
        else:
            family = socket.AF_INET6 if ":" in address[1] else socket.AF_INET
            self.sock = socket.socket(family, socket.SOCK_STREAM)
            where = (address[1], address[2])
        self.sock.settimeout(timeout)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.sock.connect(where)
        except OSError:
            self.sock.close()
            raise
        if address[0] != "unix":
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- bytes ----

    def send(self, data):
        """All of the bytes, or Closed."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def receive(self, count):
        """Exactly count bytes, or Closed; a silent server raises TimeoutError."""
        data = bytearray(count)
        view, have = memoryview(data), 0
        while have < count:
            try:
                got = self.sock.recv_into(view[have:])
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Closed(str(error)) from error
            if not got:
                raise Closed(f"end of stream after {have} of {count} bytes")
            have += got
        return bytes(data)

    def receive_until_closed(self):
        """What still comes before the server closes."""
        data = bytearray()
        try:
            while True:
                chunk = self.sock.recv(1 << 16)
                if not chunk:
                    return bytes(data)
                data += chunk
        except (ConnectionResetError, BrokenPipeError):
            return bytes(data)

    def quiet(self, seconds):
        """True if nothing, not even the end of the stream, comes within that time."""
        before = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
            return False
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.sock.settimeout(before)

    def close(self):
        """Closes; unread data makes TCP send a reset, as the kernel does it."""
        self.sock.close()

    def reset(self):
        """Ends a TCP connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- handshake ----

    def greeting(self, client_flags=None):
        """Reads the greeting and sends the client's flags (default: all that the server offers)."""
        magic, option_magic, flags = struct.unpack(">QQH", self.receive(18))
        if (magic, option_magic) != (MAGIC_INIT, MAGIC_OPTION):
            raise ProtocolError(f"bad greeting {magic:#x} {option_magic:#x}")
        self.server_flags = flags
        if client_flags is None:
            client_flags = flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
        self.send(struct.pack(">L", client_flags))
        return self

    def option(self, option, data=b"", length=None, magic=MAGIC_OPTION):
        self.send(option_bytes(option, data, length, magic))

    def option_reply(self, option):
        """One reply to that option: (type, data)."""
        magic, of, kind, length = struct.unpack(">QLLL", self.receive(20))
        if magic != MAGIC_OPTION_REPLY:
            raise ProtocolError(f"bad option reply magic {magic:#x}")
        if of != option:
            raise ProtocolError(f"reply to option {of} where {option} was asked")
        if length > 1 << 20:
            raise ProtocolError(f"option reply of {length} bytes")
        return kind, self.receive(length)

    def ask(self, option, data=b"", length=None):
        """Sends an option and collects replies to its ACK. Raises Refused on an error."""
        self.option(option, data, length)
        replies = []
        while True:
            kind, reply = self.option_reply(option)
            if kind & REP_ERROR:
                raise Refused(kind, reply.decode(errors="replace"))
            if kind == REP_ACK:
                if reply:
                    raise ProtocolError("ACK with data")
                return replies
            replies.append((kind, reply))

    def refused(self, option, data=b"", length=None):
        """Sends an option that must be refused: the error's number."""
        try:
            replies = self.ask(option, data, length)
        except Refused as error:
            return error.reply
        raise ProtocolError(f"option {option} was not refused: {replies}")

    def list(self):
        """The exports' names and descriptions, as LIST tells them: [(name, description)]."""
        exports = []
        for kind, data in self.ask(OPT_LIST):
            if kind != REP_SERVER:
                raise ProtocolError(f"reply {kind} to LIST")
            length, = struct.unpack(">L", data[:4])
            exports.append((data[4:4 + length].decode(), data[4 + length:].decode()))
        return exports

    def info(self, name="", infos=(), option=OPT_INFO):
        """INFO (or GO): {info: fields}; takes size and flags over."""
        found = {}
        for kind, data in self.ask(option, go_data(name, infos)):
            if kind != REP_INFO:
                raise ProtocolError(f"reply {kind} to option {option}")
            which, = struct.unpack(">H", data[:2])
            if which in found:
                raise ProtocolError(f"info {which} came twice")
            if which == INFO_EXPORT:
                found[which] = struct.unpack(">QH", data[2:])
            elif which == INFO_BLOCK_SIZE:
                found[which] = struct.unpack(">LLL", data[2:])
            elif which in (INFO_NAME, INFO_DESCRIPTION):
                found[which] = data[2:].decode()
            else:
                found[which] = data[2:]
        if INFO_EXPORT not in found:
            raise ProtocolError("no EXPORT info")
        self.size, self.flags = found[INFO_EXPORT]
        self.infos = found
        return found

    def go(self, name="", infos=()):
        """GO: transmission begins."""
        self.info(name, infos, OPT_GO)
        return self

    def export_name(self, name="", zeroes=False):
        """EXPORT_NAME: transmission begins; there is no error reply, only Closed."""
        self.option(OPT_EXPORT_NAME, name.encode())
        self.size, self.flags = struct.unpack(">QH", self.receive(10))
        if zeroes and self.receive(124) != bytes(124):
            raise ProtocolError("the reserved bytes of EXPORT_NAME are not zero")
        return self

    def starttls(self, context):
        """STARTTLS, then TLS by that ssl.SSLContext; ssl.SSLError if it fails."""
        self.ask(OPT_STARTTLS)
        return self.wrap(context)

    def wrap(self, context):
        """TLS from here on."""
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        return self

    def structured(self):
        """STRUCTURED_REPLY: replies in chunks from now on."""
        self.ask(OPT_STRUCTURED_REPLY)
        self.mode = STRUCTURED
        return self

    def extended(self):
        """EXTENDED_HEADERS: extended requests and replies from now on."""
        self.ask(OPT_EXTENDED_HEADERS)
        self.mode = EXTENDED
        return self

    def _contexts(self, option, name, queries):
        found = {}
        for kind, data in self.ask(option, contexts_data(name, queries)):
            if kind != REP_META_CONTEXT:
                raise ProtocolError(f"reply {kind} to option {option}")
            found[data[4:].decode()] = struct.unpack(">L", data[:4])[0]
        return found

    def list_contexts(self, name="", queries=()):
        """The names of the contexts that the queries match."""
        return list(self._contexts(OPT_LIST_META_CONTEXT, name, queries))

    def set_contexts(self, name="", queries=("base:allocation",)):
        """Selects; {name: id}."""
        self.contexts = self._contexts(OPT_SET_META_CONTEXT, name, queries)
        if len(set(self.contexts.values())) != len(self.contexts):
            raise ProtocolError("two contexts with one id")
        return self.contexts

    # ---- transmission ----

    def request(self, command, offset=0, length=0, flags=0, payload=b"", cookie=None, ids=None):
        """
        Sends one request, waits for nothing; returns its cookie. In extended mode a payload has
        its flag set. ids: a BLOCK_STATUS with that list of contexts, about that length.
        """
        if cookie is None:
            self.cookie += 1
            cookie = self.cookie << 20 | 0xABCDE
        if self.mode != SIMPLE:
            wanted = self.contexts.values() if ids is None else ids
            self.partial[cookie] = rawreply.Reply(cookie, command, offset, length, flags, wanted,
                                                  self.mode == EXTENDED)
        elif command == CMD_READ:
            self.reads[cookie] = length
        if self.mode != EXTENDED:
            self.send(request_bytes(command, offset, length, flags, cookie, payload))
            return cookie
        if ids is not None:
            payload = filter_data(length, ids)
            length = len(payload)
        if payload:
            flags |= CMD_FLAG_PAYLOAD_LEN
        self.send(extended_bytes(command, offset, length, flags, cookie, payload))
        return cookie

    def chunk(self):
        """One chunk, or simple reply where it may be: the whole rawreply.Reply, or None."""
        magic, = struct.unpack(">L", self.receive(4))
        if magic == MAGIC_SIMPLE_REPLY and self.mode == STRUCTURED:
            error, cookie = struct.unpack(">LQ", self.receive(12))
            reply = self.partial.pop(cookie)
            if reply.command in (CMD_READ, CMD_BLOCK_STATUS):
                raise ProtocolError(f"a simple reply to command {reply.command}")
            reply.error = error
            return reply
        if self.mode == EXTENDED and magic == rawreply.MAGIC_EXTENDED_REPLY:
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", self.receive(28))
            if offset != self.partial[cookie].offset:
                raise ProtocolError(f"reply with offset {offset}")
        elif self.mode == STRUCTURED and magic == rawreply.MAGIC_STRUCTURED_REPLY:
            flags, kind, cookie, length = struct.unpack(">HHQL", self.receive(16))
        else:
            raise ProtocolError(f"bad reply magic {magic:#x}")
        if length > MAX_PAYLOAD_BYTES + 8:
            raise ProtocolError(f"a chunk of {length} bytes")
        reply = self.partial[cookie]
        if not reply.add(flags, kind, self.receive(length)):
            return None
        return self.partial.pop(cookie)

    def reply(self):
        """The next reply that is whole: (cookie, error, data); self.last tells more of chunks."""
        if self.mode != SIMPLE:
            self.last = None
            while not self.last:
                self.last = self.chunk()
            return self.last.cookie, self.last.error, self.last.read_bytes()
        magic, error, cookie = struct.unpack(">LLQ", self.receive(16))
        if magic != MAGIC_SIMPLE_REPLY:
            raise ProtocolError(f"bad reply magic {magic:#x}")
        length = self.reads.pop(cookie, 0)
        return cookie, error, b"" if error else self.receive(length)

    def block_status(self, offset, length, flags=0, ids=None, context="base:allocation"):
        """The extents of one context as the server tells them; an error reply fails."""
        sent = self.request(CMD_BLOCK_STATUS, offset, length, flags, ids=ids)
        cookie, error, _ = self.reply()
        if error or cookie != sent:
            raise ProtocolError(f"BLOCK_STATUS {offset}+{length}: error {error} "
                                f"{self.last.message!r}")
        return self.last.extents.get(self.contexts[context])

    def call_filter(self, offset, length, ids):
        """A BLOCK_STATUS about these contexts: the error."""
        sent = self.request(CMD_BLOCK_STATUS, offset, length, ids=ids)
        cookie, error, _ = self.reply()
        if cookie != sent:
            raise ProtocolError(f"reply for {cookie:#x} where {sent:#x} was asked")
        return error

    def map(self, offset=0, end=None, context="base:allocation", flags=0):
        """All of the export, asked for until its end; neighbours joined: [(begin, end, flags)]."""
        found, end = [], self.size if end is None else end
        while offset < end:
            for length, state in self.block_status(offset, min(end - offset, 0xFFFFF000), flags,
                                                   context=context):
                if found and found[-1][2] == state:
                    found[-1] = (found[-1][0], offset + length, state)
                else:
                    found.append((offset, offset + length, state))
                offset += length
        return found

    def call(self, command, offset=0, length=0, flags=0, payload=b""):
        """One request and its reply: (error, data)."""
        sent = self.request(command, offset, length, flags, payload)
        cookie, error, data = self.reply()
        if cookie != sent:
            raise ProtocolError(f"reply for {cookie:#x} where {sent:#x} was asked")
        return error, data

    def read(self, offset, length, flags=0):
        """The data; an error reply fails."""
        error, data = self.call(CMD_READ, offset, length, flags)
        if error:
            raise ProtocolError(f"READ {offset}+{length}: error {error}")
        return data

    def _good(self, what, command, offset, length, flags, payload=b""):
        error, _ = self.call(command, offset, length, flags, payload)
        if error:
            raise ProtocolError(f"{what} {offset}+{length}: error {error}")

    def write(self, offset, data, flags=0):
        self._good("WRITE", CMD_WRITE, offset, len(data), flags, data)

    def flush(self):
        self._good("FLUSH", CMD_FLUSH, 0, 0, 0)

    def trim(self, offset, length, flags=0):
        self._good("TRIM", CMD_TRIM, offset, length, flags)

    def write_zeroes(self, offset, length, flags=0):
        self._good("WRITE_ZEROES", CMD_WRITE_ZEROES, offset, length, flags)

    def disconnect(self):
        """DISC, then waits until the server has closed; nothing may come before that."""
        self.send((extended_bytes if self.mode == EXTENDED else request_bytes)(CMD_DISC))
        rest = self.receive_until_closed()
        self.close()
        if rest:
            raise ProtocolError(f"{len(rest)} bytes after DISC")


def connect(address, name="", infos=(), timeout=20.0, mode=SIMPLE, contexts=()):
    """A client in transmission, with what these queries select where the mode has contexts."""
    client = Client(address, timeout)
    try:
        client.greeting()
        if mode == STRUCTURED:
            client.structured()
        elif mode == EXTENDED:
            client.extended()
        if contexts:
            client.set_contexts(name, contexts)
        return client.go(name, infos)
    except BaseException:
        client.close()
        raise
