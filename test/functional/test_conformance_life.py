# SPDX-License-Identifier: BSD-3-Clause
"""Conformance: exports that grow and shrink, several connections to one, ends of exports and of the
server: what each client is told of it."""

import signal
import threading

import conformance
import harness
import rawnbd
from conformance import ALLOCATION, SMALL, table, tearDownModule
from harness import MIB
from matrix import MALLOC, NULL, STDIO
from rawnbd import (CMD_BLOCK_STATUS, CMD_CACHE, CMD_FLAG_DF, CMD_FLAG_FUA, CMD_FLUSH, CMD_READ,
                    CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, Closed, EINVAL, ENOSPC, ESHUTDOWN,
                    INFO_EXPORT, INFO_NAME, OPT_ABORT, OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS,
                    OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT,
                    OPT_STRUCTURED_REPLY, REP_ERR_SHUTDOWN, REP_ERR_UNKNOWN, SIMPLE, contexts_data,
                    go_data)

assert tearDownModule


class Sizes(conformance.Rules):
    """A client is bounded by what it was told; who negotiates again is told the new size."""

    OLD = 4 * MIB

    def exported(self):
        """A fresh export and a client of it."""
        target = self.client.target
        name = self.add_export(target, self.add_bdev(target, self.OLD))
        return name, self.again(name)

    def again(self, name):
        return self.connect(name, client=self.beside(self.client))

    def resize(self, name, size):
        kind = self.row.backend if self.row.backend in (MALLOC, NULL) else "file"
        self.client.target.rpc(f"bdev_{kind}_resize", name=name,
                               new_size=size // MIB if kind == NULL else size)

    def refused(self, client, offset, length):
        """By every command, with the error of what lies beyond the end."""
        for command, error in ((CMD_READ, EINVAL), (CMD_WRITE, ENOSPC), (CMD_TRIM, EINVAL),
                               (CMD_WRITE_ZEROES, ENOSPC), (CMD_CACHE, EINVAL),
                               (CMD_BLOCK_STATUS, EINVAL)):
            payload = b"x" * length if command == CMD_WRITE else b""
            self.answer(client, error, command, offset, length, 0, payload)

    def test_grown(self):
        name, old = self.exported()
        old.write(self.OLD - 512, b"o" * 512)
        self.resize(name, 2 * self.OLD)
        self.refused(old, self.OLD, 512)
        self.refused(old, self.OLD - 512, 1024)
        old.write(0, b"still works")
        new = self.again(name)
        self.assertEqual(new.size, 2 * self.OLD)
        self.holds(new, self.OLD - 512, b"o" * 512 + bytes(512))
        new.write(2 * self.OLD - 512, b"n" * 512)
        self.holds(new, 2 * self.OLD - 512, b"n" * 512)
        self.refused(new, 2 * self.OLD, 512)
        self.in_sync(old)

    def test_grown_among_options(self):
        """Each INFO tells the size of its moment, and so does a GO that asks for something else."""
        name, _ = self.exported()
        client = self.agreed(self.beside(self.client))
        self.assertEqual(client.info(name)[INFO_EXPORT][0], self.OLD)
        self.resize(name, self.OLD + MIB)
        self.assertEqual(client.info(name)[INFO_EXPORT][0], self.OLD + MIB)
        self.resize(name, self.OLD + 2 * MIB)
        client.go(name, [INFO_NAME])
        self.assertEqual(client.size, self.OLD + 2 * MIB)
        client.write(client.size - 5, b"found")
        self.refused(client, client.size - 5, 6)

    @table(grown=5 * MIB, shrunk=MIB)
    def test_resized_between_info_and_go(self, size):
        """GO tells what INFO told; the client is bounded by that, and by what is there."""
        name, _ = self.exported()
        client = self.agreed(self.beside(self.client))
        told = client.info(name)
        self.resize(name, size)
        self.assertEqual(client.info(name, (), OPT_GO), told)
        self.refused(client, self.OLD - 512, 1024)
        if size < self.OLD:
            self.refused(client, size - 512, 1024)
        last = min(size, self.OLD) - 512
        client.write(last, b"l" * 512)
        self.holds(client, last, b"l" * 512)
        self.assertEqual(self.again(name).size, size)

    def test_resized_between_info_and_go_with_an_option(self):
        """Then all may differ: the size of the moment is told."""
        name, _ = self.exported()
        client = self.agreed(self.beside(self.client))
        client.info(name)
        self.resize(name, self.OLD + MIB)
        client.list()
        client.go(name)
        self.assertEqual(client.size, self.OLD + MIB)

    def test_shrunk(self):
        """What was cut off is refused cleanly; the rest is served."""
        name, old = self.exported()
        old.write(MIB - 512, b"s" * 512)
        self.resize(name, MIB)
        self.refused(old, MIB, 512)
        self.refused(old, MIB - 512, 1024)
        self.holds(old, MIB - 512, b"s" * 512)
        new = self.again(name)
        self.assertEqual(new.size, MIB)
        self.refused(new, MIB, 512)
        self.in_sync(old)

    def test_shrunk_and_grown(self):
        """What comes back reads as zeroes; the old client is bounded as before."""
        name, old = self.exported()
        old.write(0, b"g" * self.OLD)
        self.resize(name, MIB)
        self.resize(name, 3 * self.OLD)
        self.holds(old, MIB - 4, b"gggg" + bytes(4))
        self.assertEqual(old.read(self.OLD - 4, 4), bytes(4))
        self.refused(old, self.OLD, 512)
        self.assertEqual(self.again(name).size, 3 * self.OLD)

    def test_export_name_tells_the_new_size(self):
        name, _ = self.exported()
        self.resize(name, self.OLD + MIB)
        client = self.beside(self.client).export_name(name)
        self.assertEqual(client.size, self.OLD + MIB)
        self.assertEqual(client.read(self.OLD, MIB), bytes(MIB))


class Sharing(conformance.Rules):
    """Several connections to one export: CAN_MULTI_CONN."""

    def several(self, count):
        client = self.cleared()
        return [client] + [self.connect(client=self.beside(client)) for _ in range(count)]

    def test_each_sees_the_others(self):
        clients = self.several(4)
        for number, writer in enumerate(clients):
            data = bytes([number + 1]) * 5000
            writer.write(number * 5000, data, CMD_FLAG_FUA)
            for reader in clients:
                self.assertEqual(reader.read(number * 5000, 5000),
                                 data if self.keeps else bytes(5000))

    def test_own_modes(self):
        """What one has agreed on concerns no other."""
        client = self.cleared()
        client.write(0, b"m" * 4096)
        wanted = b"m" * 4096 if self.keeps else bytes(4096)
        for mode in (SIMPLE, rawnbd.STRUCTURED, rawnbd.EXTENDED):
            other = self.connect(client=self.beside(client), mode=mode)
            self.assertEqual(other.read(0, 4096), wanted)
            self.assertEqual(client.read(0, 4096), wanted)
            other.disconnect()

    def test_one_ends_badly(self):
        """In the middle of a WRITE: the others do not notice, and nothing torn is told as done."""
        clients = self.several(3)
        for number, client in enumerate(clients[1:]):
            length = 65536
            flags = rawnbd.CMD_FLAG_PAYLOAD_LEN if self.mode == rawnbd.EXTENDED else 0
            client.send(self.raw(client, CMD_WRITE, MIB, length, flags, b"t" * (1 + number * 30000)))
            client.close()
        self.assertEqual(clients[0].read(0, 4096), bytes(4096))

    def test_concurrent_writes(self):
        """Beside each other, each on its own part: nothing is lost or mixed."""
        clients = self.several(3)
        for round_number in range(4):
            for number, client in enumerate(clients):
                for part in range(16):
                    client.request(CMD_WRITE, (part * 4 + number) * 10007, 10007,
                                   payload=bytes([round_number * 4 + number + 1]) * 10007)
            for client in clients:
                for _ in range(16):
                    self.assertEqual(client.reply()[1], 0)
            for number in range(64):
                fill = round_number * 4 + number % 4 + 1 if self.keeps else 0
                self.assertEqual(clients[number % 3].read(number * 10007, 10007),
                                 bytes([fill]) * 10007)


class Draining(conformance.Rules):
    """An export that is deleted: what was begun is answered, what comes then is refused."""

    def slow(self):
        """A client of an export whose READs take a moment."""
        target = self.client.target
        base = self.add_bdev(target, SMALL)
        name = "d" + base
        target.rpc("bdev_delay_create", base_bdev_name=base, name=name, avg_read_latency=400000,
                   p99_read_latency=400000, avg_write_latency=0, p99_write_latency=0)
        self.add_export(target, name)
        return name, self.connect(name, client=self.beside(self.client))

    def deleted(self, name):
        """Asks for it; the answer comes when its clients have gone."""
        thread = threading.Thread(target=self.client.target.rpc, args=("export_delete",),
                                  kwargs={"name": name})
        thread.start()
        self.addCleanup(thread.join)
        harness.wait_for(lambda: name not in [n for n, _ in self.beside(self.client).list()], 10,
                         "the export to leave the table")

    def test_in_flight_and_new(self):
        name, client = self.slow()
        first = client.request(CMD_READ, 0, 4096)
        self.in_flight(name)
        self.deleted(name)
        answers = {}
        while ESHUTDOWN not in answers.values():  # the client's core hears of it a moment later
            client.request(CMD_FLUSH)
            self.take(client, answers, 1)
        later = [client.request(CMD_READ, 0, 512),
                 client.request(CMD_WRITE, 0, 512, payload=b"x" * 512), client.request(CMD_FLUSH),
                 client.request(CMD_TRIM, 0, 512), client.request(CMD_WRITE_ZEROES, 0, 512)]
        self.take(client, answers, 5 + (first not in answers))
        self.assertEqual(answers[first], 0)
        self.assertEqual({answers[cookie] for cookie in later}, {ESHUTDOWN})
        self.assertEqual(client.receive_until_closed(), b"")

    @staticmethod
    def take(client, answers, count):
        for _ in range(count):
            cookie, error, _ = client.reply()
            answers[cookie] = error

    def in_flight(self, name):
        """Until the request has reached the bdev."""
        stats = self.client.target.rpc
        harness.wait_for(lambda: any(export["name"] == name and export["inflight"]
                                     for export in stats("export_get_iostat")["exports"]), 10,
                         "the READ to be under way")

    def test_idle_client_is_let_go(self):
        name, client = self.slow()
        self.deleted(name)
        self.assertEqual(client.receive_until_closed(), b"")

    def test_name_is_free(self):
        """The name is unknown at once, and may be used again."""
        name, _ = self.slow()
        self.deleted(name)
        other = self.agreed(self.beside(self.client))
        self.assertEqual(other.refused(OPT_GO, go_data(name)), REP_ERR_UNKNOWN)
        other.go("disk")
        other.disconnect()


class Shutdown(conformance.Rules):
    """The server ends; each on a target of its own."""
    OPENS = True

    def ending(self):
        """A target of its own, and a client among options."""
        target = conformance.start_target(self.row, self.path(f"own{len(self.targets)}"))
        self.targets.append(target)
        if self.row.transport == STDIO:
            client = rawnbd.Client(("open", target.ours))
        else:
            client = rawnbd.Client(target.address)
        target.clients.append(client)
        client.target = target
        return self.secured(client.greeting())

    def end(self, target):
        """SIGTERM, and until the cores know of it."""
        target.signal(signal.SIGTERM)

        def gone():
            try:
                rawnbd.Client(target.address).close()
                return False
            except OSError:
                return True
        harness.wait_for(gone, 10, "the listener to close")

    OPTIONS = ((OPT_LIST, b""), (OPT_INFO, go_data("disk")), (OPT_GO, go_data("disk")),
               (OPT_STRUCTURED_REPLY, b""), (OPT_EXTENDED_HEADERS, b""), (4711, b"x"),
               (OPT_LIST_META_CONTEXT, contexts_data("disk", ())),
               (OPT_SET_META_CONTEXT, contexts_data("disk", ALLOCATION)))

    def told(self):
        """A client among options that has just been told that the server ends. It is not told for
        long, so on a busy machine it may take another try."""
        for _ in range(5):
            client = self.agreed(self.ending())
            try:
                self.end(client.target)
                while True:
                    client.option(OPT_LIST)
                    kind = rawnbd.REP_SERVER
                    while kind == rawnbd.REP_SERVER:
                        kind, _ = client.option_reply(OPT_LIST)
                    if kind == REP_ERR_SHUTDOWN:
                        return client
            except Closed:
                self.ended(client)
        self.fail("nobody was told")

    def ended(self, client):
        client.close()
        self.assertEqual(client.target.wait(), 0)
        client.target.check_log()
        client.target.checked = True

    def test_options(self):
        """Every one is answered ERR_SHUTDOWN, but ABORT, which ends the session."""
        client = self.told()
        client.send(b"".join(rawnbd.option_bytes(*option) for option in self.OPTIONS)
                    + rawnbd.option_bytes(OPT_ABORT))
        for option, _ in self.OPTIONS:
            self.assertEqual(client.option_reply(option)[0], REP_ERR_SHUTDOWN)
        self.assertEqual(client.option_reply(OPT_ABORT), (rawnbd.REP_ACK, b""))
        self.assertEqual(client.receive_until_closed(), b"")
        self.ended(client)

    def test_export_name(self):
        client = self.told()
        conformance.closes(client.option, OPT_EXPORT_NAME, b"disk")
        self.assertEqual(client.receive_until_closed(), b"")
        self.ended(client)

    def test_writes_that_were_answered(self):
        """Are there after the end, without a FLUSH; the client is let go in an orderly way."""
        client = self.agreed(self.ending()).go()
        spec = client.target.specs[0]
        for number in range(32):
            client.request(CMD_WRITE, number * 4096, 4096, payload=bytes([number + 1]) * 4096)
        self.assertEqual(client.reply()[1], 0)
        client.target.signal(signal.SIGTERM)
        answers = [0]
        try:
            answers += [client.reply()[1] for _ in range(31)]
        except Closed:
            pass
        self.assertLessEqual(set(answers), {0, ESHUTDOWN})
        self.assertEqual(client.receive_until_closed(), b"")
        self.ended(client)
        if spec.startswith("file:"):
            with open(spec[5:], "rb") as file:
                written = sum(file.read(4096) == bytes([n + 1]) * 4096 for n in range(32))
            self.assertGreaterEqual(written, answers.count(0))


conformance.across(globals(), Sizes, Sharing, Draining, Shutdown)
