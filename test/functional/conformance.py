# SPDX-License-Identifier: BSD-3-Clause
"""
What the conformance modules stand on. A case is one rule of the document; each runs on every row of
matrix.DIMENSIONS that its class is for - by default on a pairwise cover of them.

Targets are shared by the cases of a module, because a rule takes milliseconds and a start takes
more: one for each kind of listener, security, backend and arrangement, stopped and checked at the
module's end (`from conformance import tearDownModule`). With --stdio each connection is a target of
its own; by default a case that opens connections runs there on one row only.
"""

import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import zlib

import harness
import rawnbd
from harness import FULL, MIB
from matrix import DIMENSIONS, MODES, NULL, STDIO, TCP, TLS, UNIX, DISK, MALLOC, rows_of
from pipes import Pipes
from pki import Pki
from rawnbd import CMD_BLOCK_STATUS, CMD_FLUSH, CMD_READ, SIMPLE, Closed

SIZE = 8 * MIB          # of the default export
SMALL = MIB             # of the export "disk"
ALLOCATION = ("base:allocation",)
CHUNKED = DIMENSIONS.mode[1:]  # the modes with chunks, and so with contexts
LISTENING = (UNIX, TCP)

_base = None     # the directory of everything
_pki = None
_pool = {}       # (row without mode, further arguments) -> Target
_cached = {}     # class -> Client
_images = []     # files behind bdevs


def base():
    """The module's directory."""
    global _base
    if not _base:
        _base = tempfile.mkdtemp(prefix="pollux-")
        os.chmod(_base, 0o755)
    return _base


def pki():
    """The module's certificates."""
    global _pki
    if not _pki:
        _pki = Pki(os.path.join(base(), "pki"))
    return _pki


def client_tls():
    """An ssl.SSLContext that trusts the targets."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(pki().path("ca-cert.pem"))
    return made


class StdioTarget(harness.Target):
    """Ended by its client; listens on a unix socket besides, for a second connection."""

    def __init__(self, *args, pipes, **kw):
        super().__init__(*args, **kw)
        self.args.append("--stdio")
        self.pipes = pipes
        self.ours = None

    def launch(self):
        if self.pipes:
            (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
            given, self.ours = (their_in, their_out), Pipes(our_in, our_out)
        else:
            self.ours, theirs = socket.socketpair()
            given = (theirs.detach(),) * 2
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=given[0], stdout=given[1], stderr=log,
                env={**harness.environment(), **self.env}, cwd=self.directory)
        for fd in set(given):
            os.close(fd)
        self.pid = self.process.pid

    def stop(self):
        """It ends by itself, when its client has gone."""
        if self.process and not self.checked:
            self.close_clients()
            harness.wait_exit(self.process, harness.STOP_SECONDS)
        super().stop()


def make_image(row, size):
    """A sparse file for that row's backend; removed at the module's end."""
    where = harness.disk_directory() if row.backend == DISK else harness.tmpfs_directory()
    handle, path = tempfile.mkstemp(prefix="pollux-", dir=where)
    os.truncate(handle, size)
    os.close(handle)
    _images.append(path)
    return path


def make_target(row, directory, extra=()):
    """A target for that row, not started: the default export and a small one called disk."""
    os.mkdir(directory)
    os.chmod(directory, 0o755)
    if row.backend in (MALLOC, NULL):
        spec = f"{row.backend}:{SIZE}"
    else:
        spec = f"file:{make_image(row, SIZE)}"
    args = list(extra)
    if row.security == TLS and "--tls" not in args:
        args += ["--tls-certificates", pki().dir, "--tls", "on"]
    elif row.security == TLS:
        args += ["--tls-certificates", pki().dir]
    kind = {"cores": harness.cores_of(row.arrangement), "args": args}
    specs = [spec, f"disk=malloc:{SMALL}"]
    if row.transport == STDIO:
        return StdioTarget(directory, specs, pipes=row.security != TLS, **kind)
    return harness.Target(directory, specs, tcp=row.transport == TCP, **kind)


def start_target(row, directory, extra=()):
    """The same, started, with two exports more: a described one, and the default one read-only."""
    target = make_target(row, directory, extra)
    try:
        target.start()
        backing = next(entry["bdev"] for entry in target.rpc("export_get_exports")
                       if not entry["name"])
        target.rpc("bdev_null_create", name="nothing", num_blocks=4096, block_size=512)
        target.rpc("export_create", name="told", bdev="nothing", description="words for people")
        target.rpc("export_create", name="fixed", bdev=backing, read_only=True)
    except BaseException:
        target.kill()
        raise
    return target


def pooled(row, extra=()):
    """The target that all cases on such a row share."""
    key = (row._replace(mode=""), extra)
    target = _pool.get(key)
    if target and not target.alive():
        target = None
    if not target:
        target = start_target(row, os.path.join(base(), os.urandom(4).hex()), extra)
        _pool[key] = target
    return target


def tearDownModule():
    """Stops what is left: all must end well, with clean logs."""
    global _base, _pki
    errors = []
    for target in _pool.values():
        try:
            target.stop()
        except AssertionError as error:
            errors.append(f"{error}\n{target.log()}")
            target.kill()
    for path in _images:
        os.unlink(path)
    for state in (_pool, _images):
        state.clear()
    if _base:
        shutil.rmtree(_base, ignore_errors=True)
    _base = _pki = None
    if errors:
        raise AssertionError("\n".join(errors))


def table(**rows):
    """A case for each row of a table: test_x with arguments becomes test_x_KEY for each key."""
    def mark(function):
        function.table = rows
        return function
    return mark


def of_row(function, values):
    values = values if isinstance(values, tuple) else (values,)

    def case(self):
        function(self, *values)
    case.__doc__ = function.__doc__
    case.made_from = function.__name__
    return case


class Rules(harness.TargetTest):
    """Cases for rows; `OPENS`: most of them open connections; `EXTRA`: arguments of the target."""

    row = None
    OPENS = False
    EXTRA = ()

    def __init_subclass__(cls, **kw):
        super().__init_subclass__(**kw)
        for name, function in list(vars(cls).items()):
            if hasattr(function, "table"):
                for key, values in function.table.items():
                    setattr(cls, f"{name}_{key}", of_row(function, values))
                delattr(cls, name)

    def setUp(self):
        super().setUp()
        self.mode = MODES.index(self.row.mode)
        self.keeps = self.row.backend != NULL
        self.used = None
        self.stdio_targets = 0

    @classmethod
    def tearDownClass(cls):
        client = _cached.pop(cls, None)
        if client:
            client.close()
            if cls.row.transport == STDIO:
                client.target.stop()

    def tearDown(self):
        used, self.used = self.used, None
        try:
            if used:
                self.in_sync(used)
        except BaseException:
            self.drop(used)
            raise
        finally:
            super().tearDown()

    # ---- connections ----

    def open(self, timeout=20.0, keep=False):
        """A client that has sent nothing. keep: its target outlives the case."""
        if self.row.transport == STDIO:
            self.stdio_targets += 1
            where = (os.path.join(base(), os.urandom(4).hex()) if keep
                     else self.path(f"s{self.stdio_targets}"))
            target = start_target(self.row, where, self.EXTRA)
            if not keep:
                self.targets.append(target)
            client = rawnbd.Client(("open", target.ours), timeout)
            target.clients.append(client)  # which closes it before the target is to end
        else:
            target = pooled(self.row, self.EXTRA)
            client = rawnbd.Client(target.address, timeout)
        client.target = target
        if not keep:
            self.addCleanup(client.close)
        return client

    def beside(self, client, timeout=20.0, keep=False):
        """Another connection to the same target, greeted and in TLS where the row is."""
        other = rawnbd.Client(client.target.address, timeout)
        other.target = client.target
        client.target.clients.append(other)
        if not keep:
            self.addCleanup(other.close)
        return self.secured(other.greeting())

    def secured(self, client):
        return client.starttls(client_tls()) if self.row.security == TLS else client

    def greeted(self, flags=None, **kw):
        """A client among options; in TLS where the row is."""
        return self.secured(self.open(**kw).greeting(flags))

    def agreed(self, client=None, mode=None):
        """A client among options that has asked for the row's mode."""
        client = client or self.greeted()
        mode = self.mode if mode is None else mode
        if mode != SIMPLE:
            (client.structured if mode == rawnbd.STRUCTURED else client.extended)()
        return client

    def connect(self, name="", contexts=ALLOCATION, client=None, mode=None, infos=(), **kw):
        """A client in transmission, with contexts where the mode has them."""
        client = self.agreed(client or self.greeted(**kw), mode)
        if client.mode != SIMPLE and contexts:
            client.set_contexts(name, contexts)
        return client.go(name, infos)

    @property
    def client(self):
        """The connection that this class's cases share: in transmission, and so it must stay."""
        if not self.used:
            self.used = _cached.get(type(self))
            if self.used and not self.used.target.alive():
                self.drop(self.used)
                self.used = None
            if not self.used:
                self.used = _cached[type(self)] = self.connect(keep=True)
        return self.used

    def drop(self, client):
        """The shared connection is of no use any more."""
        client.close()
        _cached.pop(type(self), None)
        if self.row.transport == STDIO:
            self.targets.append(client.target)

    def spend(self):
        """The shared connection, which does not outlive this case."""
        client, self.used = self.client, None
        _cached.pop(type(self))
        self.addCleanup(client.close)
        if self.row.transport == STDIO:
            self.targets.append(client.target)
        return client

    def add_bdev(self, target, size, name=None):
        """A bdev more, of the row's backend: its name."""
        name = name or "b" + os.urandom(4).hex()
        if self.row.backend in (MALLOC, NULL):
            return target.rpc(f"bdev_{self.row.backend}_create", name=name,
                              num_blocks=size // 512, block_size=512)
        return target.rpc("bdev_file_create", name=name, filename=make_image(self.row, size))

    def add_export(self, target, bdev, **kw):
        target.rpc("export_create", name=bdev, bdev=bdev, **kw)
        return bdev

    # ---- what must hold ----

    def in_sync(self, client):
        """The next request is answered by the next reply."""
        error, _ = client.call(CMD_FLUSH)
        self.assertEqual(error, 0)
        self.assertFalse(client.partial, "a reply is not whole")

    def goes_on(self, client, name="disk", mode=None):
        """Options still work on this connection, and then transmission does."""
        self.assertIn(("disk", ""), client.list())
        client.go(name)
        self.assertEqual(client.read(0, 512), bytes(512))
        self.in_sync(client)
        client.disconnect()

    def ends(self, client):
        """The server says nothing more and closes; others are served."""
        self.assertEqual(client.receive_until_closed(), b"")
        self.assertTrue(client.target.alive() or self.row.transport == STDIO)
        if self.row.transport != STDIO:
            self.connect("disk").disconnect()

    def cleared(self):
        """The shared connection, the export all zeroes and free of space."""
        client = self.client
        client.trim(0, SIZE)
        client.write_zeroes(0, SIZE)
        return client

    def patterned(self, seed=1, length=64 << 10, offset=0):
        """The shared connection and what it has written; zeroes where nothing is kept."""
        client, data = self.cleared(), random.Random(seed).randbytes(length)
        client.write(offset, data)
        return client, (data if self.keeps else bytes(length))

    def holds(self, client, offset, data):
        """That is what the export has there; zeroes where nothing is kept."""
        found = client.read(offset, len(data))
        self.assertTrue(found == (data if self.keeps else bytes(len(data))),
                        f"{len(data)} bytes at {offset}")

    def answer(self, client, error, command, offset=0, length=0, flags=0, payload=b""):
        """The request is answered by that error (or one of them), in the form that its mode has."""
        wanted = error if isinstance(error, tuple) else (error,)
        found, data = client.call(command, offset, length, flags, payload)
        self.assertIn(found, wanted, f"{command=} {offset=} {length=} {flags=:#x}")
        if client.mode == SIMPLE:
            return data
        last = client.last
        if found and command in (CMD_READ, CMD_BLOCK_STATUS) or client.mode == rawnbd.EXTENDED:
            self.assertTrue(last.types, "a simple reply")
        if found and last.types:
            self.assertTrue(last.message, "an error without words")
        return data

    def raw(self, client, command, offset=0, length=0, flags=0, payload=b"", cookie=7, **kw):
        """A request's bytes in the client's mode, with nothing added."""
        make = (rawnbd.extended_bytes if client.mode == rawnbd.EXTENDED else rawnbd.request_bytes)
        return make(command, offset, length, flags, cookie, payload, **kw)


def cases(cls):
    return [name for name in dir(cls) if name.startswith("test_") and getattr(cls, name)]


def across(namespace, *bases, **only):
    """Puts a class for each row into a module and takes the bases out; only: narrower dimensions."""
    rows = rows_of(**only)
    stdio = [row for row in rows if row.transport == STDIO]
    for cls in bases:
        for row in rows:
            name = "_".join((cls.__name__, *row))
            body = {"row": row, "__module__": cls.__module__, "__qualname__": name}
            if row in stdio and cls.OPENS and not FULL:
                body.update({case: None for case in cases(cls)
                             if zlib.crc32(case.encode()) % len(stdio) != stdio.index(row)})
            namespace[name] = type(name, (cls,), body)
        namespace.pop(cls.__name__)


def closes(function, *args):
    """True if the server has closed by the time that function ends."""
    try:
        function(*args)
    except Closed:
        return True
    return False
