# SPDX-License-Identifier: BSD-3-Clause
"""
A TLS client by GnuTLS, for what Python's ssl can not be made to do: to negotiate again, to send
alerts, to close one direction, to change keys. Pre-shared keys only.
"""

import ctypes
import ctypes.util
import unittest

CLIENT, CRD_PSK, SHUT_WR, KEY_RAW = 2, 4, 1, 0
E_AGAIN, E_REHANDSHAKE, E_WARNING_ALERT = -28, -37, -16


def library():
    """libgnutls, or SkipTest."""
    name = ctypes.util.find_library("gnutls")
    if not name:
        raise unittest.SkipTest("libgnutls is not installed")
    return ctypes.CDLL(name)


class GnutlsError(OSError):
    """`code` is GnuTLS's, negative."""

    def __init__(self, code):
        super().__init__(f"GnuTLS: {code}")
        self.code = code


class Datum(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_uint)]


class Session:
    """TLS on a connected socket; stands in for it in a rawnbd.Client (sendall, recv, close)."""

    def __init__(self, sock, identity, key, priority):
        self.sock, self.lib = sock, library()
        for name in ("record_send", "record_recv"):
            getattr(self.lib, f"gnutls_{name}").restype = ctypes.c_ssize_t
        self.session, self.credentials = ctypes.c_void_p(), ctypes.c_void_p()
        self.datum = Datum(key, len(key))
        self.check("psk_allocate_client_credentials", ctypes.byref(self.credentials))
        self.check("psk_set_client_credentials", self.credentials, identity.encode(),
                   ctypes.byref(self.datum), KEY_RAW)
        self.check("init", ctypes.byref(self.session), CLIENT)
        self.check("priority_set_direct", self.session, priority.encode(), None)
        self.check("credentials_set", self.session, CRD_PSK, self.credentials)
        sock.settimeout(None)  # GnuTLS wants a blocking socket
        self.lib.gnutls_transport_set_int2(self.session, sock.fileno(), sock.fileno())
        self.lib.gnutls_handshake_set_timeout(self.session, 20000)
        self.lib.gnutls_record_set_timeout(self.session, 20000)

    def call(self, name, *args):
        return getattr(self.lib, "gnutls_" + name)(*args)

    def check(self, name, *args):
        code = self.call(name, *args)
        if code < 0:
            raise GnutlsError(code)
        return code

    def handshake(self):
        """The first one, or another (TLS 1.2)."""
        while True:
            code = self.call("handshake", self.session)
            if code == 0:
                return
            if self.call("error_is_fatal", code):
                raise GnutlsError(code)

    def sendall(self, data):
        data = bytes(data)
        while data:
            sent = self.check("record_send", self.session, data, ctypes.c_size_t(len(data)))
            data = data[sent:]

    def recv(self, count):
        buffer = ctypes.create_string_buffer(count)
        while True:
            got = self.call("record_recv", self.session, buffer, ctypes.c_size_t(count))
            if got not in (E_AGAIN, E_WARNING_ALERT):
                break
        if got < 0:
            raise GnutlsError(got)
        return buffer.raw[:got]

    def recv_into(self, view):
        data = self.recv(len(view))
        view[:len(data)] = data
        return len(data)

    def alert(self, level, number):
        self.check("alert_send", self.session, level, number)

    def update_keys(self):
        self.check("session_key_update", self.session, 1)

    def end_writing(self):
        """close_notify; what the peer still says can be read."""
        self.check("bye", self.session, SHUT_WR)

    def settimeout(self, seconds):
        pass

    def close(self):
        if self.session:
            self.lib.gnutls_deinit(self.session)
            self.lib.gnutls_psk_free_client_credentials(self.credentials)
            self.session = None
        self.sock.close()
