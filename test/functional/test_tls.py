# SPDX-License-Identifier: BSD-3-Clause
"""TLS: who gets in and who does not, with certificates and with pre-shared keys; that refusing one
harms no other; real clients and large transfers over it."""

import json
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from errno import ENOTCONN

import harness
import rawnbd
import rpcclient
from harness import KIB, MIB, SANITIZED, need_program, run, wait_for
from matrix import DISK, MALLOC, TCP, UNIX, MatrixTest, cross
from pki import Pki, psk_file
from rawnbd import (CMD_DISC, Closed, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_STARTTLS,
                    OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_INVALID, REP_ERR_POLICY,
                    REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, go_data, option_bytes)

TCP_ULP = 31
KEY, OTHER_KEY = "0123456789abcdef" * 4, "fedcba9876543210" * 4
SIZE = 16 * MIB
PKI = None
BASE = None


def setUpModule():
    """One authority for all cases, and one that nobody trusts."""
    global PKI, BASE
    BASE = tempfile.mkdtemp(prefix="pollux-")
    need_program("psktool")
    PKI = Pki(os.path.join(BASE, "pki"))
    PKI.certificate("expired", "client two", "client", activation_date="2020-01-01 00:00:00",
                    expiration_date="2021-01-01 00:00:00")
    PKI.certificate("late", "localhost", "server", activation_date="2020-01-01 00:00:00",
                    expiration_date="2021-01-01 00:00:00")
    PKI.certificate("renewed", "renewed", "server")
    PKI.certificate("second", "client-two", "client")
    PKI.revoke("second")
    other = Pki(os.path.join(BASE, "other"), "somebody else")
    PKI.other = other


def tearDownModule():
    shutil.rmtree(BASE, ignore_errors=True)


def context(client="client", ca=None, pki=None, low=None):
    """An ssl.SSLContext of a client; client=None: without a certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations((ca or PKI).path("ca-cert.pem"))
    if client:
        owner = pki or PKI
        made.load_cert_chain(owner.path(f"{client}-cert.pem"), owner.path(f"{client}-key.pem"))
    if low:
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = made.maximum_version = low
    return made


class TlsTest(harness.TargetTest):
    """Helpers for targets with TLS."""

    def x509_dir(self, **files):
        return PKI.view(tempfile.mkdtemp(dir=self.directory), **files)

    def psk(self, name="keys.psk", **keys):
        return psk_file(self.path(name), **(keys or {"alice": KEY}))

    def start_x509(self, *args, specs=("malloc:8M",), directory=None, **kw):
        return self.start(*specs, args=["--tls-certificates", directory or self.x509_dir(), *args],
                          **kw)

    def start_psk(self, *args, specs=("malloc:8M",), path=None, **kw):
        return self.start(*specs, args=["--tls-psk", path or self.psk(), *args], **kw)

    @staticmethod
    def x509_uri(target, directory=None, name=""):
        base = target.uri(name).replace("nbd", "nbds", 1)
        return (base + ("&" if "?" in base else "?")
                + f"tls-certificates={directory or PKI.dir}")

    @staticmethod
    def psk_uri(target, path, user="alice", name=""):
        base = target.uri(name).replace("nbd", "nbds", 1).replace("://", f"://{user}@", 1)
        return base + ("&" if "?" in base else "?") + f"tls-psk-file={path}"

    def open(self, target, ssl_context=None, **kw):
        """A raw client inside TLS, before GO."""
        return target.client(**kw).greeting().starttls(ssl_context or context())

    def serves_tls(self, target, ssl_context=None, name=""):
        """Another client gets through: handshakes, WRITE, READ."""
        self.assertTrue(target.alive(), "the target has died:\n" + target.log())
        client = self.open(target, ssl_context).go(name)
        data = random.Random(1).randbytes(100000)
        client.write(4096, data)
        self.assertEqual(client.read(4096, len(data)), data)
        client.send(rawnbd.request_bytes(CMD_DISC))
        client.close()

    @staticmethod
    def more(client):
        """Bytes from below TLS."""
        data = client.sock.recv(1 << 16)
        if not data:
            raise Closed("in the middle of TLS")
        return data

    def logged(self, target, text, seconds=10):
        return wait_for(lambda: text in target.log(whole=True), seconds, f"'{text}' in the log")

    def refused_tls(self, target, ssl_context, log):
        """A raw client that TLS turns away, with a line in the log."""
        client = target.client().greeting()
        with self.assertRaises((ssl.SSLError, OSError, Closed, rawnbd.ProtocolError)):
            client.starttls(ssl_context)
            client.go()  # in TLS 1.3 a client learns only by reading that it was refused
        self.logged(target, log)
        client.close()


# ---- Who may what ----

class Modes(TlsTest):
    def test_off_offers_nothing(self):
        target = self.start("malloc:8M")
        client = target.client().greeting()
        self.assertEqual(client.refused(OPT_STARTTLS), REP_ERR_POLICY)
        client.go().read(0, 512)

    def test_off_with_credentials(self):
        target = self.start_x509("--tls", "off")
        client = target.client().greeting()
        self.assertEqual(client.refused(OPT_STARTTLS), REP_ERR_POLICY)
        client.go().read(0, 512)
        self.assertIn("at nbd+unix://", target.log())

    def test_on_serves_both(self):
        target = self.start_x509("--tls", "on")
        target.connect().read(0, 512)
        self.serves_tls(target)
        client = self.open(target)
        self.assertEqual(client.refused(OPT_STARTTLS), REP_ERR_INVALID)
        client.go().read(0, 512)
        self.assertIn("at nbd+unix://", target.log())

    def test_require_serves_only_tls(self):
        target = self.start_x509()
        self.assertIn("at nbds+unix://", target.log())
        client = target.client().greeting()
        for option, data in ((OPT_LIST, b""), (OPT_INFO, go_data("")), (OPT_GO, go_data("")),
                             (OPT_STRUCTURED_REPLY, b"")):
            self.assertEqual(client.refused(option, data), REP_ERR_TLS_REQD)
        client.starttls(context())
        client.go().read(0, 512)
        client = target.client().greeting()
        client.option(OPT_EXPORT_NAME, b"")
        self.assertEqual(client.receive_until_closed(), b"")
        self.serves_tls(target)

    def test_require_tells_who_did_without(self):
        """One line a client that was refused for want of TLS; none for those that began it."""
        target = self.start_x509()

        def export_name(client):
            client.option(OPT_EXPORT_NAME, b"")
            client.receive_until_closed()

        def options(client):
            for option in (OPT_LIST, OPT_GO):
                self.assertEqual(client.refused(option), REP_ERR_TLS_REQD)

        for told, use in enumerate((export_name, options), 1):
            with target.client().greeting() as client:
                use(client)
            wait_for(lambda: self.missed(target) == told, 10, "a line in the log")
        with target.client().greeting() as client:
            options(client)
            client.starttls(context()).go().read(0, 512)
        with target.client().greeting():
            pass
        self.serves_tls(target)
        self.assertEqual(self.missed(target), 2)

    @staticmethod
    def missed(target):
        return target.log(whole=True).count("failed: the client has not begun it")

    def test_tcp_uri(self):
        target = self.start_x509(tcp=True)
        self.logged(target, f"at nbds://127.0.0.1:{target.port}")

    def test_negotiated_state_is_forgotten(self):
        target = self.start_x509("--tls", "on")
        client = target.client().greeting()
        client.ask(OPT_STRUCTURED_REPLY)
        client.starttls(context())
        client.go().read(0, 4096)  # a simple reply, checked strictly

    def test_requests_before_export_name_inside_tls(self):
        target = self.start_x509()
        client = self.open(target)
        client.export_name("")
        self.assertEqual(client.size, 8 * MIB)
        client.read(0, 100000)

    def test_connection_tells(self):
        target = self.start_x509("--tls-verify-peer")
        client = self.open(target).go()
        tls, = [told["tls"] for told in target.rpc("connection_get_connections")]
        self.assertEqual((tls["version"], tls["client"]), ("TLS1.3", "client one"))
        self.assertTrue(tls["cipher"] and tls["key_exchange"])
        client.read(0, 1)

    def test_bytes_one_at_a_time(self):
        """Client flags, STARTTLS, hello and requests a byte at a time."""
        target = self.start_x509()
        client = target.client()
        client.receive(18)
        for byte in struct.pack(">L", 3) + option_bytes(OPT_STARTTLS):
            client.send(bytes([byte]))
        self.assertEqual(client.option_reply(OPT_STARTTLS), (REP_ACK, b""))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        for step in (session.do_handshake,
                     lambda: session.write(option_bytes(OPT_LIST))):
            while True:
                try:
                    step()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
                for byte in outgoing.read():
                    client.send(bytes([byte]))
                if done:
                    break
                incoming.write(self.more(client))
        data = b""
        while len(data) < 44:
            try:
                data += session.read(1 << 16)
            except ssl.SSLWantReadError:
                incoming.write(self.more(client))
        self.assertEqual(len(data), 20 + 4 + 20)  # one export without a name, the ACK


class Selective(TlsTest):
    """Exports that only clients in TLS may know of."""

    def setUp(self):
        super().setUp()
        self.target = self.start_x509("--tls", "on", specs=["open=malloc:1M"])
        self.target.rpc("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
        self.target.rpc("export_create", name="secret", bdev="m", tls_required=True)

    def test_in_the_clear(self):
        client = self.target.client().greeting()
        self.assertEqual([name for name, _ in client.list()], ["open"])
        for option in (OPT_INFO, OPT_GO):
            self.assertEqual(client.refused(option, go_data("secret")), REP_ERR_TLS_REQD)
            self.assertEqual(client.refused(option, go_data("unknown")), REP_ERR_TLS_REQD)
        client.go("open").read(0, 512)
        for name in (b"secret", b"unknown"):
            client = self.target.client().greeting()
            client.option(OPT_EXPORT_NAME, name)
            self.assertEqual(client.receive_until_closed(), b"")

    def test_inside(self):
        client = self.open(self.target)
        self.assertEqual(sorted(name for name, _ in client.list()), ["open", "secret"])
        self.assertEqual(client.refused(OPT_GO, go_data("unknown")), REP_ERR_UNKNOWN)
        client.go("secret").read(0, 512)

    def test_without_tls_at_all(self):
        """A listener that has no TLS does not promise any: the export is unknown there."""
        path = self.path("plain.sock")
        self.target.rpc("listener_create", uri=f"unix://{path}")
        with rawnbd.Client(("unix", path)) as client:
            client.greeting()
            self.assertEqual([name for name, _ in client.list()], ["open"])
            self.assertEqual(client.refused(OPT_GO, go_data("secret")), REP_ERR_UNKNOWN)

    def test_told(self):
        told = {export["name"]: export["tls_required"]
                for export in self.target.rpc("export_get_exports")}
        self.assertEqual(told, {"open": False, "secret": True})


# ---- Who is turned away ----

class Refusals(TlsTest):
    def test_client_does_not_trust_us(self):
        need_program("nbdinfo")
        target = self.start_x509(tcp=True)  # on a unix socket libnbd checks no name, and no CA
        done = run("nbdinfo", self.x509_uri(target, PKI.other.dir), check=False, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.logged(target, "the client broke off in the handshake")
        # OpenSSL says why, though in the clear
        self.refused_tls(target, context(None, ca=PKI.other),
                         'the alert "CA is unknown": it does not trust our certificate')
        self.serves_tls(target)

    def test_qemu_does_not_trust_us(self):
        """It finishes the handshake and leaves."""
        need_program("qemu-img")
        target = self.start_x509(tcp=True)
        done = run("qemu-img", "info", "--object",
                   f"tls-creds-x509,id=t,dir={PKI.other.dir},endpoint=client", "--image-opts",
                   f"driver=nbd,host=127.0.0.1,port={target.port},tls-creds=t", check=False,
                   timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.logged(target, "broke off right after the handshake")
        self.serves_tls(target)

    def test_client_certificate_missing(self):
        target = self.start_x509("--tls-verify-peer")
        self.refused_tls(target, context(None), "shows no certificate")
        self.serves_tls(target)

    def test_client_certificate_of_another_authority(self):
        target = self.start_x509("--tls-verify-peer")
        self.refused_tls(target, context(pki=PKI.other), "failed: the client")
        self.assertIn("TLS with unix pid", target.log())
        self.serves_tls(target)

    def test_client_certificate_expired(self):
        target = self.start_x509("--tls-verify-peer")
        self.refused_tls(target, context("expired"), "expired")
        self.serves_tls(target)

    def test_client_certificate_revoked(self):
        directory = self.x509_dir()
        shutil.copy(PKI.path("ca-crl.pem"), directory)
        target = self.start_x509("--tls-verify-peer", directory=directory)
        self.refused_tls(target, context("second"), "revoked")
        self.serves_tls(target)

    def test_requested_certificate_may_be_missing_but_not_wrong(self):
        target = self.start("malloc:8M", listen=False)
        target.rpc("tls_create", name="t", dir=self.x509_dir(), verify_peer="request")
        target.rpc("listener_create", uri=f"unix://{target.sock_path}", tls_credentials="t")
        self.refused_tls(target, context(pki=PKI.other), "failed: the client")
        self.serves_tls(target, context(None))
        self.serves_tls(target, context())

    def test_allowed_names(self):
        target = self.start("malloc:8M", listen=False)
        target.rpc("tls_create", name="t", dir=self.x509_dir(), verify_peer="require",
                   allowed_names=["backup-*", "client o?e"])
        target.rpc("listener_create", uri=f"unix://{target.sock_path}", tls_credentials="t")
        self.refused_tls(target, context("second"), "client-two")
        self.serves_tls(target, context())

    def test_expired_server_certificate(self):
        """It is served, with a warning: the client judges."""
        target = self.start_x509(directory=self.x509_dir(server="late"))
        self.assertIn("expired", target.log())
        self.refused_tls(target, context(), "it does not trust our certificate")
        lenient = context()
        lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
        self.serves_tls(target, lenient)

    def test_tls_1_1(self):
        target = self.start_x509()
        self.refused_tls(target, context(low=ssl.TLSVersion.TLSv1_1), "ours start at TLS 1.2")
        self.serves_tls(target, context(low=ssl.TLSVersion.TLSv1_2))

    def test_minimum_version_and_priority(self):
        target = self.start("malloc:8M", listen=False)
        target.rpc("tls_create", name="new", dir=self.x509_dir(), min_version="1.3")
        target.rpc("listener_create", uri=f"unix://{target.sock_path}", tls_credentials="new")
        self.refused_tls(target, context(low=ssl.TLSVersion.TLSv1_2), "ours start at TLS 1.3")
        self.serves_tls(target)
        path = self.path("other.sock")
        target.rpc("tls_create", name="p", dir=self.x509_dir(),
                   priority="NORMAL:-CIPHER-ALL:+AES-256-GCM")
        target.rpc("listener_create", uri=f"unix://{path}", tls_credentials="p")
        with rawnbd.Client(("unix", path)) as client:
            client.greeting().starttls(context()).go()
            tls, = [told["tls"] for told in target.rpc("connection_get_connections")]
            self.assertEqual(tls["cipher"], "AES-256-GCM")

    def check_psk(self, target, path, user, log, **keys):
        need_program("nbdinfo")
        mine = self.psk("mine.psk", **keys)
        done = run("nbdinfo", "--size", self.psk_uri(target, mine, user), check=False, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.logged(target, log)
        good = run("nbdinfo", "--size", self.psk_uri(target, path))
        self.assertEqual(good.stdout.strip(), str(8 * MIB))

    def test_psk_mismatch(self):
        path = self.psk()
        target = self.start_psk(path=path)
        self.check_psk(target, path, "alice", '"alice" is not ours', alice=OTHER_KEY)

    def test_psk_unknown_identity(self):
        path = self.psk()
        target = self.start_psk(path=path)
        self.check_psk(target, path, "mallory", '"mallory" is unknown', mallory=KEY)

    def test_certificates_where_psk_is_wanted(self):
        target = self.start_psk()
        self.refused_tls(target, context(), "no cipher suite in common")

    def test_lines_are_limited(self):
        """Whoever fails a hundred times fills no disk."""
        target = self.start_x509()
        for _ in range(100):
            client = target.client().greeting()
            client.ask(OPT_STARTTLS)
            client.send(b"no TLS at all")
            client.receive_until_closed()
            client.close()
        time.sleep(1.1)
        client = target.client().greeting()
        client.ask(OPT_STARTTLS)
        client.send(b"no TLS at all")
        self.logged(target, "more failures of TLS were not logged")
        seconds = 2 if not SANITIZED else 10
        self.assertLessEqual(target.log(whole=True).count("does not speak TLS"), 10 * seconds + 1)
        self.serves_tls(target)


class Hostile(TlsTest):
    ARGS = ["--handshake-timeout", "200"]

    def after_ack(self, target):
        client = target.client().greeting()
        client.ask(OPT_STARTTLS)
        return client

    def test_garbage(self):
        target = self.start_x509()
        rng = random.Random(3)
        for length in (1, 5, 100, 5000, 100000):
            client = self.after_ack(target)
            try:
                client.send(b"\xee" + rng.randbytes(length))
                client.sock.shutdown(socket.SHUT_WR)
            except (Closed, OSError):
                pass
            client.receive_until_closed()
            client.close()
        self.logged(target, "does not speak TLS")
        self.serves_tls(target)

    def test_plain_options_after_starttls(self):
        """An option in the clear behind STARTTLS is never carried out."""
        target = self.start_x509("--tls", "on")
        for together in (True, False):
            with self.subTest(together=together):
                client = target.client()
                client.receive(18)
                first = struct.pack(">L", 3) + option_bytes(OPT_STARTTLS)
                plain = option_bytes(OPT_LIST) + option_bytes(OPT_GO, go_data(""))
                client.send(first + plain if together else first)
                self.assertEqual(client.option_reply(OPT_STARTTLS), (REP_ACK, b""))
                if not together:
                    client.send(plain)
                rest = client.receive_until_closed()
                self.assertNotIn(struct.pack(">Q", rawnbd.MAGIC_OPTION_REPLY), rest)
                self.assertEqual(rest[:1], b"\x15", "an alert")
                client.close()
        self.logged(target, 'it begins with "IHAV"')
        self.serves_tls(target)

    def test_hello_in_the_same_packet(self):
        """A hello that did not wait for the ACK is taken as one, behind it."""
        target = self.start_x509()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            session.do_handshake()
        client = target.client()
        client.receive(18)
        client.send(struct.pack(">L", 3) + option_bytes(OPT_STARTTLS) + outgoing.read())
        self.assertEqual(client.option_reply(OPT_STARTTLS), (REP_ACK, b""))
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.send(outgoing.read())  # where the server asks for another hello
                incoming.write(self.more(client))
        session.write(option_bytes(OPT_LIST))
        client.send(outgoing.read())
        with self.assertRaises(ssl.SSLWantReadError):
            session.read(1)
        incoming.write(self.more(client))
        self.assertEqual(session.read(8), struct.pack(">Q", rawnbd.MAGIC_OPTION_REPLY))

    def test_stall(self):
        target = self.start_x509(*self.ARGS)
        clients = [self.after_ack(target) for _ in range(3)]
        clients[1].send(b"\x16\x03\x01")  # half a record's head
        hello = ssl.MemoryBIO()
        session = context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            session.do_handshake()
        clients[2].send(hello.read())  # and never the client's part
        begun = time.monotonic()
        for client in clients:
            client.receive_until_closed()
        self.assertLess(time.monotonic() - begun, 5 if SANITIZED else 2)
        self.logged(target, "the handshake took too long")
        self.wait_idle(target)
        client = self.open(target).go()
        time.sleep(0.5)  # TLS is up: the deadline is over
        client.read(0, 4096)

    def test_gone_in_the_middle(self):
        target = self.start_x509()
        self.after_ack(target).close()
        self.logged(target, "the client broke off in the handshake")
        client = self.open(target).go()
        client.request(rawnbd.CMD_READ, 0, 4096)
        client.close()
        self.wait_idle(target)
        self.serves_tls(target)

    def test_close_notify_without_disconnect(self):
        """An orderly end of TLS: what came before is carried out, ours is said too."""
        target = self.start_x509()
        client = self.open(target).go()
        client.send(rawnbd.request_bytes(rawnbd.CMD_WRITE, 0, 5, payload=b"hello"))
        client.reply()
        client.sock.unwrap().close()  # raises if the server ends without close_notify
        self.wait_idle(target)
        reader = self.open(target).go()
        self.assertEqual(reader.read(0, 5), b"hello")

    def test_disconnect_says_close_notify(self):
        target = self.start_x509()
        client = self.open(target).go()
        client.sock.suppress_ragged_eofs = False
        client.send(rawnbd.request_bytes(CMD_DISC))
        self.assertEqual(client.sock.recv(1), b"")  # SSLEOFError without close_notify

    def test_record_damaged_on_the_way(self):
        target = self.start_x509()
        client = self.open(target).go()
        client.write(0, b"x" * 4096)
        plain = socket.socket(fileno=os.dup(client.sock.fileno()))
        self.addCleanup(plain.close)
        plain.settimeout(20)
        plain.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        while plain.recv(1 << 16):
            pass
        self.logged(target, "breaks TLS")
        self.wait_idle(target, 1 if SANITIZED else 0)
        self.serves_tls(target)

    def test_reader_that_never_reads(self):
        """Its replies wait in one buffer and its socket; others go on."""
        target = self.start_x509("--stall-timeout", "1000")
        client = self.open(target).go()
        before = target.rss()
        for number in range(100):
            client.sock.setblocking(True)
            client.request(rawnbd.CMD_READ, 0, MIB, cookie=number)
        other = self.open(target).go()
        for _ in range(20):
            other.read(0, 100000)
        self.assertLess(target.rss() - before, 64 * MIB)
        client.close()
        self.wait_idle(target, 1)

    def test_resets_under_load(self):
        target = self.start_x509(tcp=True)
        descriptors = None
        for number in range(60 if SANITIZED else 200):
            client = self.open(target).go()
            for part in range(8):
                client.request(rawnbd.CMD_READ, part * MIB, MIB)
            client.request(rawnbd.CMD_WRITE, 0, 100000, payload=bytes(50000))
            # the linger must be set on the TLS socket's descriptor, as for a plain one
            client.reset()
            if number == 20:
                self.wait_idle(target)
                descriptors = target.fds()
        self.wait_idle(target)
        self.assertLessEqual(target.fds(), descriptors + 2)
        self.serves_tls(target)

    def test_stopping_with_clients(self):
        target = self.start_x509()
        client = self.open(target).go()
        self.after_ack(target)
        half = self.after_ack(target)
        half.send(b"\x16\x03\x01")
        target.signal(signal.SIGTERM)
        self.assertEqual(target.wait(), 0)
        client.sock.suppress_ragged_eofs = False
        self.assertEqual(client.sock.recv(1), b"")

    def test_backpressure(self):
        """Many WRITEs in one go on few slots: what is kept back is plaintext, and nothing is lost."""
        target = self.start_x509("--max-requests", "4")
        client = self.open(target).go()
        rng = random.Random(5)
        content, sent = bytearray(MIB), b""
        for number in range(400):
            offset, data = rng.randrange(MIB - 9000), rng.randbytes(rng.randrange(1, 9000))
            content[offset:offset + len(data)] = data
            sent += rawnbd.request_bytes(rawnbd.CMD_WRITE, offset, len(data), cookie=number,
                                         payload=data)
            sent += rawnbd.request_bytes(rawnbd.CMD_FLUSH, cookie=number + 1000)
        client.send(sent)
        for _ in range(800):
            _, error, _ = client.reply()
            self.assertEqual(error, 0)
        self.assertEqual(client.read(0, MIB), bytes(content))


# ---- Credentials as objects ----

class Objects(TlsTest):
    def refused(self, target, method, errno, **params):
        with self.assertRaises(rpcclient.RpcError) as caught:
            target.rpc(method, **params)
        self.assertEqual(caught.exception.data["errno"], errno, str(caught.exception))
        return str(caught.exception)

    def test_life(self):
        target = self.start("malloc:8M")
        self.assertEqual(target.rpc("tls_get_credentials"), [])
        self.assertEqual(target.rpc("tls_create", name="web", dir=self.x509_dir()), "web")
        self.refused(target, "tls_create", "EEXIST", name="web", dir=self.x509_dir())
        target.rpc("tls_create", name="psk", psk_file=self.psk())
        told = {each["name"]: each for each in target.rpc("tls_get_credentials")}
        self.assertEqual((told["web"]["type"], told["web"]["subject"]), ("x509", "localhost"))
        self.assertEqual((told["psk"]["type"], told["psk"]["identities"]), ("psk", 1))
        self.assertNotIn(KEY, json.dumps(told))
        self.assertRegex(told["web"]["valid_to"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        uri = f"unix://{self.path('t.sock')}"
        target.rpc("listener_create", uri=uri, tls="on", tls_credentials="web")
        self.refused(target, "tls_delete", "EBUSY", name="web")
        listener, = [each for each in target.rpc("listener_get_listeners") if each["uri"] == uri]
        self.assertEqual((listener["tls"], listener["tls_credentials"]), ("on", "web"))
        target.rpc("listener_delete", uri=uri)
        target.rpc("tls_delete", name="web")
        target.rpc("tls_delete", name="psk")
        self.refused(target, "tls_delete", "ENODEV", name="web")
        self.refused(target, "tls_reload", "ENODEV", name="web")
        self.refused(target, "tls_get_credentials", "ENODEV", name="web")

    def test_listener_parameters(self):
        target = self.start("malloc:8M")
        uri = f"unix://{self.path('t.sock')}"
        self.refused(target, "listener_create", "ENODEV", uri=uri, tls_credentials="none")
        for mode in ("on", "require"):
            self.refused(target, "listener_create", "EINVAL", uri=uri, tls=mode)
        target.rpc("tls_create", name="t", psk_file=self.psk())
        # a listener that can not be made leaves the credentials free
        self.refused(target, "listener_create", "ENOENT", uri="unix:///nonexistent/t.sock",
                     tls_credentials="t")
        target.rpc("tls_delete", name="t")

    def test_wrong_files(self):
        target = self.start("malloc:8M")
        bad = self.x509_dir()
        why = self.refused(target, "tls_create", "ENOENT", name="t", dir=self.path("nowhere"))
        self.assertIn("nowhere", why)
        shutil.copy(PKI.path("renewed-key.pem"), os.path.join(bad, "server-key.pem"))
        why = self.refused(target, "tls_create", "EINVAL", name="t", dir=bad)
        self.assertIn("server-key.pem", why)
        with open(os.path.join(bad, "server-cert.pem"), "w", encoding="ascii") as file:
            file.write("no certificate\n")
        why = self.refused(target, "tls_create", "EINVAL", name="t", dir=bad)
        self.assertIn("server-cert.pem", why)
        for wrong in ({}, {"dir": bad, "psk_file": self.psk()}, {"cert_file": PKI.path("x")},
                      {"psk_file": self.make_file(0, "empty.psk")},
                      {"psk_file": self.make_file(0, "bad.psk", content=b"alice:xyz\n")},
                      {"dir": self.x509_dir(), "allowed_names": ["a"]},
                      {"dir": self.x509_dir(), "priority": "NONSENSE"}):
            with self.subTest(wrong=wrong):
                self.refused(target, "tls_create", "EINVAL", name="t", **wrong)
        self.assertEqual(target.rpc("tls_get_credentials"), [])

    def test_unreadable_key(self):
        directory = self.x509_dir()
        key = os.path.join(directory, "server-key.pem")
        os.chmod(key, 0)
        os.chmod(directory, 0o755)
        wrap = []
        if os.getuid() == 0:  # root reads everything: an ordinary user must ask
            wrap = [need_program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
            os.chmod(self.directory, 0o777)
        program = shutil.copy(harness.POLLUX, self.path("pollux"))
        done = run(*wrap, program, "-r", "none", "-l", f"unix://{self.path('t.sock')}",
                   "--tls-certificates", directory, "malloc:1M", check=False,
                   env=harness.environment(), cwd=self.directory)
        self.assertEqual(done.returncode, 1)
        self.assertIn("server-key.pem cannot be read: Permission denied", done.stderr)

    def test_three_paths(self):
        target = self.start("malloc:8M", listen=False)
        target.rpc("tls_create", name="t", ca_file=PKI.path("ca-cert.pem"),
                   cert_file=PKI.path("server-cert.pem"), key_file=PKI.path("server-key.pem"),
                   verify_peer="require")
        target.rpc("listener_create", uri=f"unix://{target.sock_path}", tls_credentials="t")
        self.serves_tls(target)

    def common_name(self, target):
        client = self.open(target)
        name = dict(field for rdn in client.sock.getpeercert()["subject"] for field in rdn)
        client.go().read(0, 512)
        return client, name["commonName"]

    def test_reload(self):
        directory = self.x509_dir()
        target = self.start_x509(directory=directory)
        old, name = self.common_name(target)
        self.assertEqual(name, "localhost")
        # a wrong file: an error, and nothing changes
        shutil.copy(PKI.path("renewed-key.pem"), os.path.join(directory, "server-key.pem"))
        why = self.refused(target, "tls_reload", "EINVAL", name="default")
        self.assertIn("server-key.pem", why)
        self.logged(target, "stay as they were")
        self.assertEqual(self.common_name(target)[1], "localhost")
        shutil.copy(PKI.path("renewed-cert.pem"), os.path.join(directory, "server-cert.pem"))
        self.assertEqual(target.rpc("tls_reload", name="default"), True)
        self.assertEqual(self.common_name(target)[1], "renewed")
        old.read(0, 4096)  # goes on with what it began
        told, = target.rpc("tls_get_credentials")
        self.assertEqual(told["subject"], "renewed")

    def test_reload_under_load(self):
        path = self.psk()
        target = self.start_x509()
        target.rpc("tls_create", name="psk", psk_file=path)
        kept = self.open(target).go()
        for number in range(20):
            with self.open(target) as client:
                target.rpc("tls_reload", name="default")
                client.go().read(0, 100000)
            psk_file(path, alice=KEY, **{f"user{number}": OTHER_KEY})
            target.rpc("tls_reload", name="psk")
        kept.read(0, 100000)
        told, = target.rpc("tls_get_credentials", name="psk")
        self.assertEqual(told["identities"], 2)

    def test_command_line(self):
        for args, what in ((["--tls", "on"], "--tls needs"), (["--tls", "maybe"], "'maybe'"),
                           (["--tls-verify-peer"], "--tls-verify-peer needs"),
                           (["--tls-kernel"], "--tls-kernel and --tls-priority need"),
                           (["--tls-priority", "NORMAL"], "--tls-kernel and --tls-priority need"),
                           (["--tls-psk", self.psk(), "--tls-priority", "NONSENSE"], "NONSENSE"),
                           (["--tls-certificates", "a", "--tls-psk", "b"], "do not go together"),
                           (["--tls-certificates", "/nowhere"], "/nowhere"),
                           (["--tls-psk", "/nowhere"], "/nowhere")):
            with self.subTest(args=args):
                done = run(harness.POLLUX, "-r", "none", "-l", f"unix://{self.path('t.sock')}",
                           *args, "malloc:1M", check=False, env=harness.environment(),
                           cwd=self.directory)
                self.assertEqual(done.returncode, 1)
                self.assertIn(what, done.stderr)


def kernel_has_tls():
    """As TCP sockets see it: one that is not connected is refused in another way."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        except OSError as error:
            return error.errno == ENOTCONN
    return True


class Kernel(TlsTest):
    """Records by the kernel. What they are like where it has them is seen in test/vm/tls.sh."""

    def check(self, target, asked):
        """Data goes through, and what is told is true."""
        there = asked and kernel_has_tls()
        self.serves_tls(target)
        self.assertEqual("the kernel has no TLS" in target.log(whole=True), asked and not there)
        told, = target.rpc("tls_get_credentials")
        self.assertIs(told["kernel"], there)
        with self.open(target) as client:
            client.go()
            tls, = [told["tls"] for told in target.rpc("connection_get_connections")
                    if told["state"] == "transmission"]
            self.assertIs(tls["kernel"], there)
            self.assertEqual(tls["client"], "client one")
            self.assertRegex(tls["version"], r"^TLS1\.3$")
            client.write(0, bytes(range(256)) * 4096)
            self.assertEqual(client.read(0, MIB), bytes(range(256)) * 4096)

    def test_off_by_default(self):
        self.check(self.start_x509("--tls-verify-peer", tcp=True), False)

    def test_asked_for(self):
        self.check(self.start_x509("--tls-verify-peer", "--tls-kernel", tcp=True), True)

    def test_rpc(self):
        target = self.start("malloc:8M", tcp=True, listen=False)
        for name, kernel in (("with", True), ("without", False)):
            target.rpc("tls_create", name=name, dir=self.x509_dir(), kernel=kernel)
        told = {each["name"]: each["kernel"] for each in target.rpc("tls_get_credentials")}
        self.assertEqual(told, {"with": kernel_has_tls(), "without": False})
        target.rpc("tls_reload", name="with")
        if not kernel_has_tls():
            self.assertEqual(target.log(whole=True).count("the kernel has no TLS"), 2)

    def test_unix_sockets_are_not_for_it(self):
        target = self.start_x509("--tls-kernel")
        with self.open(target) as client:
            client.go()
            tls, = [told["tls"] for told in target.rpc("connection_get_connections")]
            self.assertIs(tls["kernel"], False)
            client.write(0, b"x" * 70000)
            self.assertEqual(client.read(0, 70000), b"x" * 70000)

    def test_priority_of_the_command_line(self):
        target = self.start_x509("--tls-priority", "NORMAL:-CIPHER-ALL:+AES-256-GCM")
        with self.open(target) as client:
            client.go()
            tls, = [told["tls"] for told in target.rpc("connection_get_connections")]
            self.assertEqual(tls["cipher"], "AES-256-GCM")


# ---- Real clients ----

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
            "x509": f"tls-creds-x509,id=t,dir={PKI.dir},endpoint=client",
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
