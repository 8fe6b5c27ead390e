# SPDX-License-Identifier: BSD-3-Clause
"""pollux-perf --verify: what it finds wrong, and what it does not."""

import os
import time

import rawnbd
from harness import KIB, MIB, wait_for
from perftool import Perf, PerfTest, good_reply, perf, store

BLOCK = 4 * KIB


class Verify(PerfTest):
    SIZE = MIB

    def setUp(self):
        super().setUp()
        self.target = self.start("malloc:4M")
        self.state = self.path("state")

    def verify(self, *args, status=0, size=SIZE):
        return perf(self.target.uri(), "--verify", "--size", size, "--json", *args,
                    status=status).json

    def write_all(self, *args):
        """Each block once, and what was written."""
        count = self.SIZE // BLOCK
        told = self.verify("--rw", "write", "--requests", count, "--seed", 7, *args)
        self.assertEqual(told["verify"]["good"], count)
        with self.target.connect() as client:
            return client.read(0, self.SIZE)

    def check(self, *args, status=3):
        return self.verify("--rw", "read", "--requests", self.SIZE // BLOCK, *args, status=status)

    def plant(self, offset, data):
        with self.target.connect() as client:
            client.write(offset, data)

    def found(self, told, kind, offset, *words):
        """Exactly that finding."""
        self.assertEqual(told["verify"]["wrong"], 1, told["verify"])
        finding, = told["verify"]["findings"]
        self.assertEqual((finding["kind"], finding["offset"]), (kind, offset), finding)
        for word in words:
            self.assertIn(word, finding["detail"])
        self.assertEqual(told["verify"][kind], 1)

    def test_good(self):
        """Nothing is found where nothing is wrong: every kind of load, mode and connections."""
        for kind in ("write", "randwrite", "rw", "randrw"):
            for args in ([], ["--structured", "--connections", 3], ["--extended", "--bs", "64k"],
                         ["--bs", "512", "--iodepth", 128, "--connections", 2]):
                with self.subTest(kind=kind, args=args):
                    told = self.verify("--rw", kind, "--requests", 4000, *args, size=4 * MIB)
                    self.assertEqual(told["verify"]["wrong"], 0)
                    self.assertGreater(told["verify"]["good"], 0)
                    self.assertTrue(told["verify"]["read_back"])

    def test_holes_in_structured_reads(self):
        """Zeroes that come as holes are judged like zeroes."""
        self.write_all()
        with self.target.connect() as client:
            client.trim(64 * KIB, 4 * BLOCK)
        told = self.check("--structured", "--seed", 7, status=0)
        self.assertEqual((told["verify"]["unwritten"], told["verify"]["good"]), (4, 252))

    def test_flipped_byte(self):
        data = self.write_all()
        at = 30 * BLOCK + 1234
        self.plant(at, bytes([data[at] ^ 0x40]))
        told = self.check("--seed", 7)
        self.found(told, "corrupt", 30 * BLOCK, "byte 1234 is",
                   f"0x{data[at] ^ 0x40:02x} instead of 0x{data[at]:02x}")
        text = perf(self.target.uri(), "--verify", "--size", self.SIZE, "--rw", "read",
                    "--requests", self.SIZE // BLOCK, status=3).out
        self.assertIn(f"verify: corrupt at {30 * BLOCK}: byte 1234", text)

    def test_swapped_blocks(self):
        data = self.write_all()
        one, two = 3 * BLOCK, 200 * BLOCK
        self.plant(one, data[two:two + BLOCK])
        self.plant(two, data[one:one + BLOCK])
        told = self.check("--seed", 7)
        self.assertEqual(told["verify"]["misplaced"], 2)
        self.assertEqual({(finding["offset"], finding["detail"].split(" (")[0])
                          for finding in told["verify"]["findings"]},
                         {(one, f"it was written to offset {two}"),
                          (two, f"it was written to offset {one}")})

    def test_old_block(self):
        """A block as it was one pass ago: found by the state that runs leave behind."""
        old = self.write_all("--verify-state", self.state)
        new = self.write_all("--verify-state", self.state)
        self.assertNotEqual(old, new)
        self.assertEqual(self.check("--verify-state", self.state, status=0)["verify"]["good"], 256)
        self.plant(77 * BLOCK, old[77 * BLOCK:78 * BLOCK])
        self.found(self.check("--verify-state", self.state), "stale", 77 * BLOCK,
                   "generation 1 instead of 2")

    def test_block_of_another_run(self):
        old = self.write_all()
        self.verify("--rw", "write", "--requests", 256, "--seed", 8)
        self.plant(5 * BLOCK, old[5 * BLOCK:6 * BLOCK])
        self.found(self.check("--seed", 8), "stale", 5 * BLOCK, "another run (seed 7)")

    def test_lost_writes_of_the_same_seed(self):
        """A run's stamps are its own: what an earlier one has left is not taken for them."""
        lost, count = set(), self.SIZE // BLOCK
        server = self.fake(store(bytearray(self.SIZE), writes=lambda at: at not in lost))
        args = [server.uri(), "--verify", "--rw", "write", "--requests", count, "--seed", 7,
                "--json"]
        self.assertEqual(perf(*args).json["verify"]["good"], count)
        lost.add(20 * BLOCK)
        self.found(perf(*args, status=3).json, "stale", 20 * BLOCK, "another run (of the same")
        # to who only reads they are both of that seed
        told = perf(server.uri(), "--verify", "--rw", "read", "--requests", count, "--seed", 7,
                    "--json").json
        self.assertEqual(told["verify"]["good"], count)

    def test_writes_to_another_export(self):
        """Two exports that are one behind their names: each block was written to the other."""
        data = bytearray(self.SIZE)
        one, two = self.fake(store(data)), self.fake(store(data))
        done = perf(one.uri(), two.uri(), "--verify", "--rw", "write", "--requests", 64, "--size",
                    "128k", "--json", status=3)
        self.assertGreater(done.json["verify"]["misplaced"], 0)
        self.assertRegex(done.json["verify"]["findings"][0]["detail"], "to the export of URI [12]")

    def test_servers_that_lie(self):
        """Each kind of lie is found by the run itself, and called by its name."""
        place = 5 * BLOCK

        def writes(sock, data, cookie, offset, payload, lie):
            if offset == place:
                offset, payload = lie(offset, payload)
            data[offset:offset + len(payload)] = payload
            sock.sendall(good_reply(cookie))

        half = BLOCK // 2
        lies = {"stale": lambda at, data: (at, b""),
                "torn": lambda at, data: (at, data[:half]),
                "misplaced": lambda at, data: (at - BLOCK, data),
                "corrupt": lambda at, data: (at, data[:100] + b"!" + data[101:])}
        for kind, lie in lies.items():
            data = bytearray(self.SIZE)

            def answer(sock, command, cookie, offset, length, payload, lie=lie, data=data):
                if command == rawnbd.CMD_WRITE:
                    writes(sock, data, cookie, offset, payload, lie)
                else:
                    sock.sendall(good_reply(cookie, data[offset:offset + length]))

            # one at a time, in order
            told = perf(self.fake(answer).uri(), "--verify", "--rw", "write", "--iodepth", 1,
                        "--requests", 32, "--json", status=3).json
            found = {(one["kind"], one["offset"]) for one in told["verify"]["findings"]}
            self.assertEqual(found, {(kind, place)} if kind != "misplaced" else
                             {("misplaced", place - BLOCK), ("stale", place)})

    def test_reads_of_elsewhere_and_of_old(self):
        """A READ of another block, or of one as it was, is found while the load runs."""
        for kind in ("misplaced", "stale"):
            data, first = bytearray(self.SIZE), {}

            def answer(sock, command, cookie, offset, length, payload, kind=kind, data=data,
                       first=first):
                if command == rawnbd.CMD_WRITE:
                    first.setdefault(offset, payload)
                    data[offset:offset + length] = payload
                    sock.sendall(good_reply(cookie))
                elif kind == "stale":
                    sock.sendall(good_reply(cookie, first.get(offset, bytes(length))))
                else:
                    at = offset + BLOCK if offset < 4 * BLOCK else 0
                    sock.sendall(good_reply(cookie, data[at:at + length]))

            told = perf(self.fake(answer).uri(), "--verify", "--rw", "randrw", "--iodepth", 2,
                        "--size", 5 * BLOCK, "--requests", 200, "--json", status=3).json
            self.assertGreater(told["verify"][kind], 20)
            self.assertEqual(told["verify"]["corrupt"] + told["verify"]["torn"], 0)
            self.assertGreater(sum(sample["errors"] for sample in told["series"]), 20)

    def test_same_uri_twice(self):
        target = self.start("malloc:1M", "b=malloc:1M", tcp=True)
        link = self.path("link")
        os.symlink(self.target.sock_path, link)
        host = target.uri().split("//")[1]
        port = host.split(":")[1].rstrip("/")
        for one, two in ((self.target.uri(), f"nbd+unix:///?socket={link}"),
                         (target.uri(), f"nbd://127.0.0.1:{port}"),
                         (target.uri("b"), f"nbd://127.1:{port}/%62")):
            done = perf(one, two, "--verify", "--rw", "write", "--requests", 64, status=1)
            self.assertIn(f"{two}: it is the export of {one}", done.err)
        perf(target.uri(), target.uri("b"), self.target.uri(), "--verify", "--rw", "write",
             "--requests", 96)
        perf(target.uri(), target.uri(), "--requests", 64)

    def test_read_back_is_no_load(self):
        """The series ends with the load, however long the reading takes."""
        keep = store(bytearray(MIB))

        def answer(sock, command, *args):
            if command == rawnbd.CMD_READ:
                time.sleep(0.02)
            keep(sock, command, *args)

        server = self.fake(answer)
        told = perf(server.uri(), "--verify", "--rw", "write", "--requests", 60, "--json").json
        self.assertLess(told["series"][-1]["at_seconds"] - told["seconds"], 0.6)
        self.assertEqual(sum(sample["writes"] for sample in told["series"]), 60)
        self.assertEqual(sum(sample["reads"] for sample in told["series"]), 0)

    def test_killed_run(self):
        """Nobody knows what a run wrote that was killed: its state file says so."""
        run = Perf(self.target.uri(), "--verify-state", self.state, "--rw", "randwrite", "--time",
                   60)
        wait_for(lambda: self.target.rpc("export_get_iostat")["exports"][0]["write"]["ops"] > 200,
                 20, "writes")
        run.process.kill()
        run.process.communicate()
        for kind in ("read", "write"):
            done = perf(self.target.uri(), "--verify-state", self.state, "--rw", kind, status=1)
            self.assertIn("was killed", done.err)

    def test_reads_in_flight_at_the_end(self):
        """A run that ends in the middle of its read-back makes no block uncertain."""
        count, silent = self.SIZE // BLOCK, []
        keep = store(bytearray(self.SIZE))

        def answer(sock, command, *args):
            if command == rawnbd.CMD_READ and silent:
                return
            keep(sock, command, *args)

        server = self.fake(answer)
        args = [server.uri(), "--verify-state", self.state, "--rw", "write", "--requests", count]
        silent.append(True)
        self.assertIn("no reply", perf(*args, "--timeout", 1, status=2).err)
        silent.clear()
        told = perf(server.uri(), "--verify-state", self.state, "--rw", "read", "--requests", count,
                    "--json").json
        self.assertEqual(told["verify"]["good"], count)

    def test_lost_write(self):
        self.write_all("--verify-state", self.state)
        with self.target.connect() as client:
            client.write_zeroes(9 * BLOCK, BLOCK)
        self.found(self.check("--verify-state", self.state), "stale", 9 * BLOCK, "all zeroes")

    def test_torn_block(self):
        old = self.write_all("--verify-state", self.state)
        self.write_all("--verify-state", self.state)
        self.plant(8 * BLOCK + 2048, old[8 * BLOCK + 2048:9 * BLOCK])
        self.found(self.check("--verify-state", self.state), "torn", 8 * BLOCK,
                   "generation 2 up to byte 2047, then generation 1")

    def test_planted_while_it_runs(self):
        """What another client writes into the region is found by the run itself."""
        run = Perf(self.target.uri(), "--verify", "--size", self.SIZE, "--rw", "randrw", "--time",
                   2, "--rate", 500, "--json", "--seed", 7)
        wait_for(lambda: self.target.rpc("export_get_iostat")["exports"][0]["write"]["ops"] > 200,
                 20, "writes")
        # where something was written; bytes that no write of blocks can mend before it is seen
        with self.target.connect() as client:
            for _ in range(50):
                for at in range(0, self.SIZE, BLOCK):
                    client.write(at + 4000, b"planted")
        done = run.wait()
        self.assertEqual(done.status, 3, done)
        self.assertGreater(done.json["verify"]["corrupt"], 0)

    def test_nothing_of_ours(self):
        told = self.check(status=0)
        self.assertEqual(told["verify"]["unwritten"], 256)
        self.plant(0, b"x" * BLOCK)
        self.found(self.check(), "corrupt", 0, "no part of it is a stamped block")

    def test_state_of_another_region(self):
        self.write_all("--verify-state", self.state)
        done = perf(self.target.uri(), "--verify-state", self.state, "--size", "2M", status=1)
        self.assertIn("use the same --bs, --offset and --size", done.err)
        done = perf(self.target.uri(), "--verify-state", self.path("none"), "--rw", "read",
                    status=1)
        self.assertIn("No such file", done.err)

    def test_failed_writes_are_not_held_against_it(self):
        rpc = self.target.rpc
        rpc("bdev_malloc_create", name="d", num_blocks=2048, block_size=512)
        rpc("bdev_error_create", base_name="d")
        rpc("export_create", name="e", bdev="EE_d")
        rpc("bdev_error_inject_error", name="EE_d", io_type="write", error_type="failure", num=20)
        told = perf(self.target.uri("e"), "--rw", "write", "--verify", "--requests", 256, "--json",
                    status=2).json
        self.assertEqual((told["errors"], told["verify"]["wrong"], told["verify"]["good"]),
                         (20, 0, 236))


del PerfTest
