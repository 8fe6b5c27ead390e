# SPDX-License-Identifier: BSD-3-Clause
"""TLS: who gets in and who does not, with certificates and with pre-shared keys; that refusing one
harms no other."""

import os
import random
import shutil
import signal
import socket
import ssl
import struct
import time

import rawnbd
import tlstest
from harness import MIB, SANITIZED, need_program, run, wait_for
from rawnbd import (CMD_DISC, Closed, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_STARTTLS,
                    OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_INVALID, REP_ERR_POLICY,
                    REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, go_data, option_bytes)
from tlstest import KEY, OTHER_KEY, TlsTest, context

setUpModule, tearDownModule = tlstest.set_up, tlstest.tear_down


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
        self.logged(target, "at nbd+unix://")

    def test_on_serves_both(self):
        target = self.start_x509("--tls", "on")
        target.connect().read(0, 512)
        self.serves_tls(target)
        client = self.open(target)
        self.assertEqual(client.refused(OPT_STARTTLS), REP_ERR_INVALID)
        client.go().read(0, 512)
        self.logged(target, "at nbd+unix://")

    def test_require_serves_only_tls(self):
        target = self.start_x509()
        self.logged(target, "at nbds+unix://")
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
        tls = self.told(target)
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
        done = run("nbdinfo", self.x509_uri(target, tlstest.PKI.other.dir), check=False, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.logged(target, "the client broke off in the handshake")
        # OpenSSL says why, though in the clear
        self.refused_tls(target, context(None, ca=tlstest.PKI.other),
                         'the alert "CA is unknown": it does not trust our certificate')
        self.serves_tls(target)

    def test_qemu_does_not_trust_us(self):
        """It finishes the handshake and leaves."""
        need_program("qemu-img")
        target = self.start_x509(tcp=True)
        done = run("qemu-img", "info", "--object",
                   f"tls-creds-x509,id=t,dir={tlstest.PKI.other.dir},endpoint=client",
                   "--image-opts",
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
        self.refused_tls(target, context(pki=tlstest.PKI.other), "failed: the client")
        self.logged(target, "TLS with unix pid")
        self.serves_tls(target)

    def test_client_certificate_expired(self):
        target = self.start_x509("--tls-verify-peer")
        self.refused_tls(target, context("expired"), "expired")
        self.serves_tls(target)

    def test_client_certificate_revoked(self):
        directory = self.x509_dir()
        shutil.copy(tlstest.PKI.path("ca-crl.pem"), directory)
        target = self.start_x509("--tls-verify-peer", directory=directory)
        self.refused_tls(target, context("second"), "revoked")
        self.serves_tls(target)

    def test_requested_certificate_may_be_missing_but_not_wrong(self):
        target = self.start("malloc:8M", listen=False)
        target.rpc("tls_create", name="t", dir=self.x509_dir(), verify_peer="request")
        target.rpc("listener_create", uri=f"unix://{target.sock_path}", tls_credentials="t")
        self.refused_tls(target, context(pki=tlstest.PKI.other), "failed: the client")
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
        self.logged(target, "expired")
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
            tls = self.told(target)
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
        wait_for(lambda: target.fds() <= descriptors + 2, 10, "descriptors to be given back")
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


del TlsTest
