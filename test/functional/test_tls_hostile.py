# SPDX-License-Identifier: BSD-3-Clause
"""
TLS clients that do what is rare: stand still at each byte of the handshake, negotiate again, send
alerts in the middle, close one direction, change keys without end.
"""

import os
import shutil
import ssl
import tempfile
import time

import gnutls
import harness
from harness import MIB, SANITIZED
from pki import Pki, psk_file
from rawnbd import CMD_READ, CMD_WRITE, Closed, OPT_STARTTLS, request_bytes

KEY = "0123456789abcdef" * 4
TLS_1_2 = "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
TLS_1_3 = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+PSK"
WARNING, FATAL = 1, 2
CLOSE_NOTIFY, UNEXPECTED_MESSAGE, USER_CANCELED, NO_RENEGOTIATION = 0, 10, 90, 100
PKI = None
BASE = None


def setUpModule():
    global PKI, BASE
    BASE = tempfile.mkdtemp(prefix="pollux-")
    PKI = Pki(os.path.join(BASE, "pki"))


def tearDownModule():
    shutil.rmtree(BASE, ignore_errors=True)


class InMidSession(harness.TargetTest):
    def setUp(self):
        super().setUp()
        self.target = self.start("malloc:8M", args=["--tls-psk",
                                                    psk_file(self.path("keys.psk"), alice=KEY)])

    def open(self, priority=TLS_1_3, go=True):
        client = self.target.client().greeting()
        client.ask(OPT_STARTTLS)
        client.sock = gnutls.Session(client.sock, "alice", bytes.fromhex(KEY), priority)
        client.sock.handshake()
        return client.go() if go else client

    def works(self, client):
        client.write(4096, b"tls" * 1000)
        self.assertEqual(client.read(4096, 3000), b"tls" * 1000)

    def others(self):
        """Somebody else is served, and all that went wrong is gone."""
        with self.open() as other:
            self.works(other)
        self.wait_idle(self.target)
        self.assertTrue(self.target.alive(), self.target.log())

    def test_both_versions(self):
        for priority in (TLS_1_2, TLS_1_3):
            with self.open(priority) as client:
                self.works(client)
        self.others()

    def test_negotiates_again(self):
        """Renegotiation in TLS 1.2: refused or carried out, but never a way to harm."""
        for pending in (0, 8 * MIB):
            client = self.open(TLS_1_2)
            if pending:
                client.request(CMD_READ, 0, pending)
            for _ in range(20):
                try:
                    client.sock.handshake()
                except (gnutls.GnutlsError, OSError):
                    break
            client.close()
        self.others()

    def test_alerts(self):
        """Each kind, while replies are under way."""
        for priority in (TLS_1_2, TLS_1_3):
            for level, number in ((WARNING, USER_CANCELED), (WARNING, NO_RENEGOTIATION),
                                  (WARNING, 200), (WARNING, CLOSE_NOTIFY),
                                  (FATAL, UNEXPECTED_MESSAGE), (FATAL, 250)):
                with self.subTest(priority=priority, level=level, number=number):
                    client = self.open(priority)
                    for _ in range(4):
                        client.request(CMD_READ, 0, MIB)
                    client.sock.alert(level, number)
                    try:
                        client.request(CMD_READ, 0, 4096)
                        for _ in range(5):
                            client.reply()
                    except (gnutls.GnutlsError, Closed, OSError):
                        pass
                    client.close()
        self.others()

    def test_alerts_in_the_handshake(self):
        for level in (WARNING, FATAL):
            client = self.open(go=False)
            client.sock.alert(level, USER_CANCELED)
            try:
                client.go()
            except (gnutls.GnutlsError, Closed, OSError):
                pass
            client.close()
        self.others()

    def test_alerts_without_end(self):
        """A client of warnings alone does not hold up another."""
        client = self.open(TLS_1_2)
        with self.open() as working:
            try:
                for number in range(20000):
                    client.sock.alert(WARNING, USER_CANCELED)
                    if number % 2000 == 0:
                        self.works(working)
            except (gnutls.GnutlsError, OSError):
                pass
            self.works(working)
        client.close()
        self.others()

    def test_half_closed(self):
        """After the client's close_notify what it has asked for is still answered."""
        for priority in (TLS_1_2, TLS_1_3):
            client = self.open(priority)
            client.write(0, b"h" * MIB)
            cookies = {client.request(CMD_READ, 0, MIB) for _ in range(4)}
            client.sock.end_writing()
            for _ in range(4):
                cookie, error, data = client.reply()
                cookies.remove(cookie)
                self.assertEqual((error, data), (0, b"h" * MIB))
            self.assertEqual(client.sock.recv(1), b"")
            client.close()
        self.others()

    def test_half_closed_inside_a_write(self):
        client = self.open()
        client.send(request_bytes(CMD_WRITE, 0, MIB, cookie=1, payload=bytes(1000)))
        client.sock.end_writing()
        self.assertEqual(client.sock.recv(1), b"")
        client.close()
        self.others()

    def test_new_keys_without_end(self):
        """New keys now and then are fine; without end they are refused (GnuTLS bounds them)."""
        client = self.open(TLS_1_3)
        for _ in range(4):
            client.sock.update_keys()
            self.works(client)
        try:
            for _ in range(2000):
                client.sock.update_keys()
                client.sock.sendall(request_bytes(CMD_READ, 0, 512))
            while client.sock.recv(MIB):
                pass
        except (gnutls.GnutlsError, OSError):
            pass
        self.wait_idle(self.target)  # it was the target that has ended it
        client.close()
        self.others()


class EachStep(harness.TargetTest):
    """The client's part of the handshake, cut off at many places, and then silence."""

    MILLISECONDS = 1500

    def exchange(self, client, session, incoming, outgoing, left):
        """Hands over `left` bytes of what the client has to say. True if it had more to say."""
        while True:
            try:
                session.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            data = outgoing.read()
            client.send(data[:left])
            left -= len(data)
            if left <= 0 or done:
                return left < 0
            data = client.sock.recv(1 << 16)
            if not data:
                return False
            incoming.write(data)

    def context(self, version):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(PKI.path("ca-cert.pem"))
        made.load_cert_chain(PKI.path("client-cert.pem"), PKI.path("client-key.pem"))
        made.minimum_version = made.maximum_version = version
        return made

    def test_stalled_at_each_step(self):
        target = self.start("malloc:8M", args=[
            "--tls-certificates", PKI.dir, "--tls-verify-peer", "--handshake-timeout",
            str(self.MILLISECONDS)])
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            stalled, more, cut = [], True, 0
            while more:
                client = target.client().greeting()
                client.ask(OPT_STARTTLS)
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                session = self.context(version).wrap_bio(incoming, outgoing,
                                                         server_hostname="localhost")
                more = self.exchange(client, session, incoming, outgoing, cut)
                stalled.append(client)
                cut += 1 if cut < 12 else 53
            self.assertGreater(len(stalled), 20)
            client = target.client().greeting().starttls(self.context(version)).go()
            client.write(0, b"s" * 4096)
            self.assertEqual(client.read(0, 4096), b"s" * 4096)
            began = time.monotonic()
            for each in stalled:
                each.receive_until_closed()
            self.assertLess(time.monotonic() - began, 20 if SANITIZED else 10)
            client.read(0, 4096)
            target.close_clients()
            self.wait_idle(target)
