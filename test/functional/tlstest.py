# SPDX-License-Identifier: BSD-3-Clause
"""TLS for tests: the certificates of a module's run, clients' contexts, targets with TLS."""

import os
import random
import shutil
import ssl
import tempfile

import harness
import rawnbd
from harness import need_program, wait_for
from pki import Pki, psk_file
from rawnbd import CMD_DISC, Closed

KEY, OTHER_KEY = "0123456789abcdef" * 4, "fedcba9876543210" * 4
PKI = None
BASE = None


def set_up():
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


def tear_down():
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

    @staticmethod
    def told(target):
        """What connection_get_connections tells of the TLS of the only client; the one that start()
        has tried the target with may not be gone yet."""
        tls, = [told["tls"] for told in target.rpc("connection_get_connections")
                if told["state"] == "transmission"]
        return tls

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

    def refused_tls(self, target, ssl_context, log):
        """A raw client that TLS turns away, with a line in the log."""
        client = target.client().greeting()
        with self.assertRaises((ssl.SSLError, OSError, Closed, rawnbd.ProtocolError)):
            client.starttls(ssl_context)
            client.go()  # in TLS 1.3 a client learns only by reading that it was refused
        self.logged(target, log)
        client.close()
