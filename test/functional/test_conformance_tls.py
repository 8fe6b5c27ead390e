# SPDX-License-Identifier: BSD-3-Clause
"""Conformance: STARTTLS, and the three modes a server may be in: NOTLS, SELECTIVETLS, FORCEDTLS."""

import os

import conformance
import rawnbd
from conformance import ALLOCATION, SMALL, client_tls, closes, table, tearDownModule
from matrix import PLAIN, TLS
from rawnbd import (CMD_BLOCK_STATUS, CMD_DISC, EINVAL, INFO_EXPORT, INFO_NAME, OPT_ABORT,
                    OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS, OPT_GO, OPT_INFO, OPT_LIST,
                    OPT_LIST_META_CONTEXT, OPT_PEEK, OPT_SET_META_CONTEXT, OPT_STARTTLS,
                    OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_INVALID, REP_ERR_POLICY,
                    REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_UNSUP, SIMPLE, contexts_data,
                    go_data, option_bytes)

assert tearDownModule

EVERY = {"list": (OPT_LIST, b""), "list_with_data": (OPT_LIST, b"x"),
         "peek": (OPT_PEEK, b""), "info": (OPT_INFO, go_data("disk")),
         "info_unknown": (OPT_INFO, go_data("nobody")), "go": (OPT_GO, go_data("disk")),
         "go_malformed": (OPT_GO, b""), "structured": (OPT_STRUCTURED_REPLY, b""),
         "extended": (OPT_EXTENDED_HEADERS, b""),
         "list_contexts": (OPT_LIST_META_CONTEXT, contexts_data("disk", ALLOCATION)),
         "set_contexts": (OPT_SET_META_CONTEXT, contexts_data("disk", ALLOCATION)),
         "unknown": (4711, b""), "unknown_with_data": (4712, bytes(70000))}


def answer(client, option, data=b""):
    """The final reply's type."""
    try:
        client.ask(option, data)
        return REP_ACK
    except rawnbd.Refused as error:
        return error.reply


class NoTls(conformance.Rules):
    """A server without TLS."""
    OPENS = True

    @table(bare=b"", with_data=b"x", long=bytes(70000))
    def test_starttls(self, data):
        client = self.agreed()
        for _ in range(2):
            self.assertIn(client.refused(OPT_STARTTLS, data),
                          (REP_ERR_POLICY, REP_ERR_UNSUP, REP_ERR_INVALID))
        self.goes_on(client)

    @table(**EVERY)
    def test_never_tls_required(self, option, data):
        self.assertNotEqual(answer(self.greeted(), option, data), REP_ERR_TLS_REQD)

    def test_refused_starttls_keeps_what_was_agreed(self):
        client = self.agreed()
        if self.mode != SIMPLE:
            client.set_contexts("disk")
        client.refused(OPT_STARTTLS)
        client.go("disk")
        if self.mode != SIMPLE:
            self.assertEqual(sum(size for size, _ in client.block_status(0, SMALL)), SMALL)
        self.in_sync(client)
        client.disconnect()


class Offered(conformance.Rules):
    """Everything that holds in TLS, and on the way there; "secret" is for TLS only."""
    OPENS = True

    def clear(self):
        """Among options, in the clear; there is an export that this client must not learn of."""
        client = self.open().greeting()
        target = client.target
        if not hasattr(target, "secret"):
            target.secret = "s" + os.urandom(4).hex()
            target.rpc("bdev_null_create", name=target.secret, num_blocks=8, block_size=512)
            target.rpc("export_create", name=target.secret, bdev=target.secret, tls_required=True)
        client.secret = target.secret
        return client

    def inside(self):
        return self.clear().starttls(client_tls())

    # ---- STARTTLS ----

    @table(byte=b"x", long=bytes(70000))
    def test_starttls_with_data(self, data):
        """Refused; and another without data is accepted."""
        client = self.clear()
        self.assertEqual(client.refused(OPT_STARTTLS, data), REP_ERR_INVALID)
        client.list()
        self.goes_on(self.agreed(client.starttls(client_tls())))

    def test_starttls_first(self):
        self.goes_on(self.agreed(self.inside()))

    def test_starttls_after_other_options(self):
        client = self.agreed(self.clear())
        client.list()
        client.refused(4711)
        client.info("disk")
        self.goes_on(self.agreed(client.starttls(client_tls())))

    @table(bare=b"", with_data=b"x")
    def test_starttls_again(self, data):
        client = self.inside()
        for _ in range(2):
            self.assertEqual(client.refused(OPT_STARTTLS, data), REP_ERR_INVALID)
        self.goes_on(self.agreed(client))

    def test_option_in_the_clear_behind_starttls(self):
        """After the ACK there is nothing but TLS: it is not carried out."""
        client = self.clear()
        client.send(option_bytes(OPT_STARTTLS) + option_bytes(OPT_LIST) * 20)
        self.assertEqual(client.option_reply(OPT_STARTTLS), (REP_ACK, b""))
        rest = client.receive_until_closed()
        self.assertNotIn(b"disk", rest)
        self.assertNotIn(b"\x00\x03\xe8\x89\x04\x55\x65\xa9", rest)

    def test_failed_handshake_ends_the_session(self):
        client = self.clear()
        client.ask(OPT_STARTTLS)
        closes(client.send, b"\x16\x03\x01\x00\x05hello" + bytes(100))
        self.assertNotIn(b"disk", client.receive_until_closed())

    # ---- nothing is kept from before ----

    def test_mode_is_forgotten(self):
        """Replies in chunks must be asked for again."""
        client = self.agreed(self.clear())
        client.starttls(client_tls())
        client.mode = SIMPLE
        self.assertEqual(client.refused(OPT_LIST_META_CONTEXT, contexts_data("disk", ())),
                         REP_ERR_INVALID)
        client.go("disk")
        self.assertFalse(client.flags & rawnbd.SEND_DF)
        self.assertEqual(client.read(0, 512), bytes(512))
        client.disconnect()

    def test_extended_headers_are_forgotten(self):
        """EXPORT_NAME is allowed again, and STRUCTURED_REPLY is."""
        client = self.clear().extended()
        client.starttls(client_tls()).structured()
        self.assertEqual(client.export_name("disk").read(0, 512), bytes(512))
        client.disconnect()

    def test_contexts_are_forgotten(self):
        if self.mode == SIMPLE:
            return
        client = self.agreed(self.clear())
        client.set_contexts("disk")
        client.starttls(client_tls())
        client.contexts = {}
        self.agreed(client)
        client.go("disk")
        self.answer(client, EINVAL, CMD_BLOCK_STATUS, 0, 4096)
        client.disconnect()

    def test_client_flags_are_kept(self):
        """The client's flags are no option: NO_ZEROES still counts."""
        client = self.inside()
        self.assertEqual(client.export_name("disk").read(0, 512), bytes(512))
        client.disconnect()

    # ---- in the clear ----

    def test_clear_list(self):
        client = self.clear()
        self.assertNotIn(client.secret, [name for name, _ in client.list()])
        self.goes_on(self.agreed(client))

    @table(info=OPT_INFO, go=OPT_GO)
    def test_clear_secret(self, option):
        client = self.clear()
        for infos in ((), (INFO_NAME,), (1, 2, 3)):
            client.option(option, go_data(client.secret, infos))
            self.assertEqual(client.option_reply(option)[0], REP_ERR_TLS_REQD)
        self.goes_on(self.agreed(client))

    @table(info=OPT_INFO, go=OPT_GO)
    def test_clear_unknown(self, option):
        """Not to be told from a secret one."""
        client = self.clear()
        self.assertIn(client.refused(option, go_data("nobody")),
                      (REP_ERR_TLS_REQD, REP_ERR_UNKNOWN))
        self.goes_on(self.agreed(client))

    def test_clear_secret_export_name(self):
        client = self.clear()
        closes(client.option, OPT_EXPORT_NAME, client.secret.encode())
        self.assertEqual(client.receive_until_closed(), b"")

    def test_clear_secret_contexts(self):
        """TLS_REQD answers nothing but INFO and GO here."""
        client = self.agreed(self.clear())
        if self.mode != SIMPLE:
            for option in (OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT):
                reply = client.refused(option, contexts_data(client.secret, ALLOCATION))
                self.assertEqual(reply, REP_ERR_UNKNOWN)
        self.goes_on(client)

    @table(**EVERY)
    def test_clear_other_option(self, option, data):
        """Nothing that concerns other exports needs TLS."""
        reply = answer(self.clear(), option, data)
        if not data.endswith(b"nobody\0\0"):
            self.assertNotEqual(reply, REP_ERR_TLS_REQD)

    def test_clear_other_export(self):
        client = self.connect("disk", client=self.clear())
        self.assertEqual(client.read(0, 4096), bytes(4096))
        client.disconnect()

    # ---- in TLS ----

    def test_inside_list(self):
        client = self.inside()
        self.assertIn(client.secret, [name for name, _ in client.list()])

    def test_inside_secret(self):
        client = self.agreed(self.inside())
        self.assertEqual(client.info(client.secret)[INFO_EXPORT][0], 4096)
        self.assertEqual(client.go(client.secret).read(0, 4096), bytes(4096))
        client.disconnect()

    def test_inside_secret_export_name(self):
        client = self.inside()
        self.assertEqual(client.export_name(client.secret).read(0, 4096), bytes(4096))
        client.disconnect()

    @table(info=OPT_INFO, go=OPT_GO)
    def test_inside_unknown(self, option):
        client = self.inside()
        self.assertEqual(client.refused(option, go_data("nobody")), REP_ERR_UNKNOWN)
        self.goes_on(self.agreed(client))

    @table(**EVERY)
    def test_inside_never_tls_required(self, option, data):
        self.assertNotEqual(answer(self.inside(), option, data), REP_ERR_TLS_REQD)

    def test_inside_abort(self):
        client = self.inside()
        self.assertEqual(client.ask(OPT_ABORT), [])
        self.assertEqual(client.receive_until_closed(), b"")

    def test_inside_disc(self):
        """The session of TLS is shut down before the connection is."""
        client = self.agreed(self.inside()).go("disk")
        client.sock.suppress_ragged_eofs = False
        client.send(self.raw(client, CMD_DISC))
        self.assertEqual(client.sock.recv(1), b"", "an end without close_notify would raise")

    @table(list=OPT_LIST, starttls=OPT_STARTTLS, info=OPT_INFO)
    def test_not_fixed(self, option):
        """Without fixed newstyle there is no TLS: an end, or an error that is not TLS_REQD."""
        client = self.open().greeting(0)
        try:
            reply = answer(client, option, go_data("disk") if option == OPT_INFO else b"")
            self.assertNotIn(reply, (REP_ERR_TLS_REQD,))
            if option == OPT_STARTTLS:
                self.assertNotEqual(reply, REP_ACK)
        except rawnbd.Closed:
            pass


class Forced(conformance.Rules):
    """A server that requires TLS."""
    OPENS = True
    EXTRA = ("--tls", "require")

    def clear(self):
        return self.open().greeting()

    @table(**EVERY)
    def test_clear(self, option, data):
        client = self.clear()
        for _ in range(2):
            self.assertEqual(client.refused(option, data), REP_ERR_TLS_REQD)
        client.starttls(client_tls())
        self.goes_on(self.agreed(client))

    @table(known=b"disk", default=b"", unknown=b"nobody")
    def test_clear_export_name(self, name):
        client = self.clear()
        closes(client.option, OPT_EXPORT_NAME, name)
        self.assertEqual(client.receive_until_closed(), b"")

    def test_clear_abort(self):
        client = self.clear()
        self.assertEqual(client.ask(OPT_ABORT, b"data"), [])
        self.assertEqual(client.receive_until_closed(), b"")

    def test_clear_starttls_with_data(self):
        client = self.clear()
        self.assertEqual(client.refused(OPT_STARTTLS, b"x"), REP_ERR_INVALID)
        self.goes_on(self.agreed(client.starttls(client_tls())))

    def test_clear_not_fixed(self):
        """NOTLS towards a client without fixed newstyle: but then nothing is served."""
        client = self.open().greeting(0)
        closes(client.option, OPT_EXPORT_NAME, b"disk")
        self.assertEqual(client.receive_until_closed(), b"")

    def test_inside_starttls_again(self):
        client = self.greeted()
        self.assertEqual(client.refused(OPT_STARTTLS), REP_ERR_INVALID)
        self.goes_on(self.agreed(client))

    @table(**EVERY)
    def test_inside(self, option, data):
        self.assertNotEqual(answer(self.greeted(), option, data), REP_ERR_TLS_REQD)

    def test_inside_export_name(self):
        self.assertEqual(self.greeted().export_name("disk").read(0, 512), bytes(512))

    def test_inside_everything(self):
        client = self.connect("disk")
        self.assertEqual(client.read(0, SMALL), bytes(SMALL))
        client.disconnect()


conformance.across(globals(), NoTls, security=(PLAIN,))
conformance.across(globals(), Offered, Forced, security=(TLS,))
