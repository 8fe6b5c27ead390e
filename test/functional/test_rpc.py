# SPDX-License-Identifier: BSD-3-Clause
"""The RPC methods of a running target: the framework's, the bdevs', and their clients."""

import errno
import json
import os
import subprocess
import sys
import time
import uuid

import harness
import rawnbd
import rpcclient
from harness import MIB
from rawnbd import CMD_READ, CMD_WRITE, EINVAL
from rpcbase import RpcTest
from rpcclient import RpcError

REQUIRED = """rpc_get_methods rpc_get_schema spdk_get_version framework_get_reactors
    framework_get_info framework_get_rings framework_wait_init framework_shutdown
    bdev_malloc_create bdev_malloc_delete bdev_null_create bdev_null_delete
    bdev_file_create bdev_file_delete bdev_uring_create bdev_uring_delete bdev_aio_create bdev_aio_delete bdev_delay_create bdev_delay_delete
    bdev_error_create bdev_error_delete bdev_error_inject_error bdev_get_bdevs bdev_get_iostat
    export_create export_delete export_get_exports listener_create listener_delete
    listener_get_listeners connection_get_connections connection_kick log_set_level
    log_get_level""".split()


class Framework(RpcTest):
    def test_methods_and_schema(self):
        methods = self.rpc("rpc_get_methods")
        everything = set(methods) | {schema["name"]
                                     for schema in self.rpc("rpc_get_schema")["methods"]}
        self.assertEqual([name for name in REQUIRED if name not in everything], [])
        for schema in self.rpc("rpc_get_schema")["methods"]:
            self.assertTrue(schema.get("description"), schema["name"])
            for parameter in schema["params"]:
                self.assertTrue(parameter.get("description"), (schema["name"], parameter))
                self.assertIn("type", parameter)

    def test_every_method_answers(self):
        """Without parameters each one gives a result, or tells which one is missing."""
        for schema in self.rpc("rpc_get_schema")["methods"]:
            if schema["name"] == "framework_shutdown":
                continue
            missing = [parameter["name"] for parameter in schema["params"]
                       if parameter.get("required")]
            with self.subTest(method=schema["name"]):
                if missing:
                    error = self.refused(rpcclient.INVALID_PARAMS, schema["name"])
                    self.assertIn(error.parameter, missing)
                else:
                    try:
                        self.rpc(schema["name"])
                    except RpcError as error:
                        self.assertNotEqual(error.code, rpcclient.METHOD_NOT_FOUND)

    def test_wait_init(self):
        """Asked as early as the socket takes it, it answers when the command line is served."""
        count = 500
        target = self.new_target(*[f"n{number}=null:1M" for number in range(count)])
        target.launch()
        exports = []

        def asked():
            try:
                with rpcclient.Rpc(target.rpc_path) as rpc:
                    exports.append(len(rpc.call("export_get_exports")))
                    self.assertIs(rpc.call("framework_wait_init"), True)
                    exports.append(len(rpc.call("export_get_exports")))
                    listeners = rpc.call("listener_get_listeners")
            except OSError:
                return False
            self.assertEqual(len(listeners), 1)
            return True

        harness.wait_for(asked, harness.START_SECONDS, "the RPC socket")
        self.assertEqual(exports[-1], count, exports)
        self.assertIs(target.rpc("framework_wait_init"), True)  # and again, at once

    def refused_with(self, method, parameter, params):
        """The same as refused(), for parameters of any name."""
        with rpcclient.Rpc(self.target.rpc_path) as rpc:
            rpc.request(method, params)
            error = rpc.receive()["error"]
        self.assertEqual((error["code"], error["data"]["parameter"]),
                         (rpcclient.INVALID_PARAMS, parameter), error)

    def test_unknown_and_mistyped_parameters(self):
        """Each parameter of each method, given what it cannot be, is refused by its name."""
        wrong = {"string": 5, "enum": "no such value", "uuid": "not-a-uuid", "boolean": "maybe",
                 "integer": "many", "number": [], "size": {}, "strings": 3, "object": 7, "off": 1}
        right = {"string": "x", "uuid": str(uuid.uuid4()), "boolean": True, "number": 1.0,
                 "strings": [], "object": {}}

        def fitting(parameter):
            if parameter["type"] == "enum":
                return parameter["values"][0]
            return right.get(parameter["type"], max(parameter.get("min", 0), 1))
        for schema in self.rpc("rpc_get_schema")["methods"]:
            needed = {parameter["name"]: fitting(parameter) for parameter in schema["params"]
                      if parameter["required"]}
            with self.subTest(method=schema["name"]):
                self.refused_with(schema["name"], "bogus", {**needed, "bogus": 1})
                for parameter in schema["params"]:
                    given = {**needed, parameter["name"]: wrong[parameter["type"]]}
                    self.refused_with(schema["name"], parameter["name"], given)

    def test_version_and_info(self):
        version = self.rpc("spdk_get_version")
        self.assertIn("version", version)
        self.assertEqual(set(version["fields"]) & {"major", "minor", "patch"},
                         {"major", "minor", "patch"})
        self.assertTrue(self.rpc("framework_get_info"))

    def test_reactors(self):
        answer = self.rpc("framework_get_reactors")
        self.assertGreater(answer["tick_rate"], 0)
        self.assertEqual(len(answer["reactors"]), len(harness.CPUS))
        before = {reactor["lcore"]: reactor for reactor in answer["reactors"]}
        time.sleep(0.3)
        for reactor in self.rpc("framework_get_reactors")["reactors"]:
            old = before[reactor["lcore"]]
            self.assertGreaterEqual(reactor["busy"] + reactor["idle"], old["busy"] + old["idle"])
        self.assertIsInstance(self.rpc("framework_get_rings"), (list, dict))

    def test_log_level(self):
        old = self.rpc("log_get_level")
        for level in ("ERROR", "DEBUG", "INFO"):
            self.rpc("log_set_level", level=level)
            self.assertIn(level, json.dumps(self.rpc("log_get_level")).upper())
        self.refused(rpcclient.INVALID_PARAMS, "log_set_level", "level", level="SHOUTING")
        self.assertTrue(old)

    def test_shutdown(self):
        self.malloc(name="m")
        self.rpc("export_create", name="e", bdev="m")
        client = self.target.connect("e")
        self.addCleanup(client.close)
        client.write(0, b"x" * 4096)
        try:
            self.rpc("framework_shutdown")
        except ConnectionError:
            self.fail("framework_shutdown must be answered before the end")
        self.assertEqual(self.target.wait(), 0)


class Bdevs(RpcTest):
    def test_malloc(self):
        ident = str(uuid.uuid4())
        self.assertEqual(self.rpc("bdev_malloc_create", num_blocks=256, block_size=4096, name="m",
                                  uuid=ident), "m")
        bdev = self.bdev("m")
        self.assertEqual((bdev["name"], bdev["block_size"], bdev["num_blocks"], bdev["uuid"]),
                         ("m", 4096, 256, ident))
        self.assertFalse(bdev["claimed"])
        self.assertEqual(self.bdev(ident)["name"], "m")
        other = self.malloc()
        self.assertNotEqual(other, "m")
        self.assertEqual({bdev["name"] for bdev in self.rpc("bdev_get_bdevs")}, {"m", other})
        self.refused(-errno.EEXIST, "bdev_malloc_create", num_blocks=8, block_size=512, name="m")
        self.assertIs(self.rpc("bdev_malloc_delete", name="m"), True)
        self.refused(-errno.ENODEV, "bdev_get_bdevs", "name", name="m")
        self.refused(-errno.ENODEV, "bdev_malloc_delete", "name", name="m")
        self.assertIs(self.rpc("bdev_malloc_delete", name=other), True)
        self.assertEqual(self.rpc("bdev_get_bdevs"), [])

    def test_bad_geometry(self):
        for method in ("bdev_malloc_create", "bdev_null_create"):
            for blocks, size in ((0, 512), (8, 0), (8, 100), (8, 513), (8, 1 << 20), (-1, 512),
                                 (1 << 62, 4096), (2.5, 512)):
                with self.subTest(method=method, num_blocks=blocks, block_size=size):
                    with self.assertRaises(RpcError):
                        self.rpc(method, num_blocks=blocks, block_size=size, name="bad")
        self.assertEqual(self.rpc("bdev_get_bdevs"), [])

    def test_null(self):
        self.assertEqual(self.rpc("bdev_null_create", num_blocks=1 << 40, block_size=512, name="n"),
                         "n")
        self.rpc("export_create", name="n", bdev="n")
        with self.target.connect("n") as client:
            self.assertEqual(client.size, 1 << 49)
            client.write(1 << 48, b"gone" * 1024)
            client.read((1 << 49) - 4096, 4096)
            client.disconnect()
        self.refused(-errno.ENODEV, "bdev_malloc_delete", "name", name="n")
        self.rpc("export_delete", name="n")
        self.rpc("bdev_null_delete", name="n")

    def test_file_and_its_aliases(self):
        for kind in ("file", "uring", "aio"):
            path = self.make_file(MIB, kind, directory=harness.disk_directory())
            name = f"disk-{kind}"
            self.assertEqual(self.rpc(f"bdev_{kind}_create", filename=path, name=name), name)
            self.assertEqual(self.bdev(name)["num_blocks"] * self.bdev(name)["block_size"], MIB)
            self.rpc("export_create", name=kind, bdev=name)
            with self.target.connect(kind) as client:
                client.write(4096, kind.encode() * 100)
                client.flush()
                client.disconnect()
            self.rpc("export_delete", name=kind)
            self.assertIs(self.rpc(f"bdev_{kind}_delete", name=name), True)
            with open(path, "rb") as file:
                self.assertEqual(file.read()[4096:4096 + 300], (kind.encode() * 100)[:300].ljust(
                    300, b"\0"))

    def test_file_that_cannot_be(self):
        self.refused(-errno.ENOENT, "bdev_file_create", filename=self.path("nothing"), name="f")
        self.refused(-errno.EISDIR, "bdev_file_create", filename=self.directory, name="f")
        empty = self.make_file(0, "empty")
        self.refused(-errno.EINVAL, "bdev_file_create", filename=empty, name="f")
        with self.assertRaises(RpcError):
            self.rpc("bdev_file_create", filename="/dev/null", name="f")
        with self.assertRaises(RpcError):
            self.rpc("bdev_file_create", filename="", name="f")
        with self.assertRaises(RpcError):
            self.rpc("bdev_file_create", filename="/" + "x" * 5000, name="f")
        self.assertEqual(self.rpc("bdev_get_bdevs"), [])

    def test_resize(self):
        path = self.make_file(MIB, directory=harness.disk_directory())
        self.malloc(name="m")
        self.rpc("bdev_file_create", filename=path, name="f")
        for kind, name in (("malloc", "m"), ("file", "f")):
            self.rpc("export_create", name=name, bdev=name)
            with self.target.connect(name) as old:
                old.write(MIB - 512, b"o" * 512)
                self.rpc(f"bdev_{kind}_resize", name=name, new_size=2 * MIB)
                self.assertEqual(self.bdev(name)["num_blocks"] * self.bdev(name)["block_size"],
                                 2 * MIB)
                # the old client keeps to what it was told, a new one sees the new size
                self.assertEqual(old.call(CMD_READ, MIB, 512)[0], EINVAL)
                with self.target.connect(name) as new:
                    self.assertEqual(new.size, 2 * MIB)
                    self.assertEqual(new.read(MIB - 512, 1024), b"o" * 512 + bytes(512))
                    new.write(2 * MIB - 512, b"n" * 512)
                    self.rpc(f"bdev_{kind}_resize", name=name, new_size=MIB // 2)
                    # beyond the new end there is nothing for anybody, and nobody dies of it
                    self.assertNotEqual(new.call(CMD_READ, MIB, 512)[0], 0)
                    self.assertNotEqual(new.call(CMD_WRITE, MIB, 512, payload=bytes(512))[0], 0)
                    self.assertEqual(new.call(CMD_READ, 0, 512)[0], 0)
            with self.target.connect(name) as client:
                self.assertEqual(client.size, MIB // 2)
            self.refused(-errno.ENODEV, f"bdev_{kind}_resize", "name", name="nobody", new_size=MIB)
        self.assertEqual(os.stat(path).st_size, MIB // 2)

    def test_in_use(self):
        self.malloc(name="m")
        self.rpc("export_create", name="e", bdev="m")
        self.assertTrue(self.bdev("m")["claimed"])
        error = self.refused(-errno.EBUSY, "bdev_malloc_delete", "name", name="m")
        self.assertIn("e", error.message)
        self.refused(-errno.EBUSY, "export_create", name="second", bdev="m")
        self.assertEqual(self.export_names(), ["e"])
        self.rpc("export_delete", name="e")
        self.assertFalse(self.bdev("m")["claimed"])
        self.rpc("bdev_malloc_delete", name="m")

    def test_iostat(self):
        self.malloc(name="m")
        path = self.make_file(MIB, directory=harness.disk_directory())
        self.rpc("bdev_file_create", filename=path, name="f")
        for name in ("m", "f"):
            self.rpc("export_create", name=name, bdev=name)
            with self.target.connect(name) as client:
                for number in range(10):
                    client.write(number * 4096, b"s" * 4096)
                for number in range(7):
                    client.read(number * 8192, 8192)
                for _ in range(3):
                    client.flush()
                client.write_zeroes(0, 65536)
                client.trim(65536, 4096)
                client.call(CMD_READ, MIB, 4096)  # refused before it reaches the bdev
                client.disconnect()
            self.wait_idle(self.target)
            answer = self.rpc("bdev_get_iostat", name=name, per_channel=True)
            self.assertGreater(answer["tick_rate"], 0)
            stat, = answer["bdevs"]
            self.assertEqual((stat["num_write_ops"], stat["bytes_written"]), (10, 40960), name)
            self.assertEqual((stat["num_read_ops"], stat["bytes_read"]), (7, 57344), name)
            self.assertEqual(stat["num_unmap_ops"], 1)
            self.assertEqual(stat["bytes_unmapped"], 4096)
            self.assertEqual(stat.get("num_flush_ops"), 3)
            self.assertGreater(stat["read_latency_ticks"], -1)
            self.assertLess(stat["max_read_latency_ticks"], 60 * answer["tick_rate"])
            self.assertEqual(stat["in_flight"], 0)
            self.assertEqual(sum(channel["num_write_ops"] for channel in stat["channels"]), 10)
        self.rpc("bdev_get_iostat", name="m", reset_mode="all")
        stat, = self.rpc("bdev_get_iostat", name="m")["bdevs"]
        self.assertEqual((stat["num_write_ops"], stat["bytes_read"]), (0, 0))
        self.assertEqual(len(self.rpc("bdev_get_iostat")["bdevs"]), 2)

    def test_durability_counters(self):
        """FLUSH and FUA are an fsync or a durable write each, counted when it has completed."""
        path = self.make_file(MIB, directory=harness.disk_directory())
        self.rpc("bdev_file_create", filename=path, name="f")
        self.rpc("export_create", name="f", bdev="f")

        def counters():
            stat, = self.rpc("bdev_get_iostat", name="f")["bdevs"]
            return stat["durability"]
        with self.target.connect("f") as client:
            client.write(0, b"d" * 4096)
            first = counters()
            self.assertTrue(first, "no durability counters")
            client.flush()
            second = counters()
            client.write(4096, b"d" * 4096, rawnbd.CMD_FLAG_FUA)
            third = counters()
            client.write_zeroes(0, 4096, rawnbd.CMD_FLAG_FUA)
            fourth = counters()
            for before, after in ((first, second), (second, third), (third, fourth)):
                self.assertGreater(sum(after.values()), sum(before.values()))


class Nvme(RpcTest):
    """What can be asked without a device; test/vm has devices."""

    def asked(self, method, **params):
        """The errno of the answer, of parameters that may be called as those of rpc() are."""
        with rpcclient.Rpc(self.target.rpc_path) as rpc:
            rpc.request(method, params)
            answer = rpc.receive()
        return answer["error"]["code"] if "error" in answer else answer["result"]

    def test_as_spdk_asks(self):
        """SPDK's client gives its switches whether they are wanted or not."""
        self.assertEqual(self.asked(
            "bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr="ffff:1f:1f.7",
            prchk_reftag=False, prchk_guard=False, hdgst=False, ddgst=False,
            allow_unrecognized_csi=False, disable_sq_flow_control=False), -errno.ENODEV)
        self.assertIs(self.asked(
            "bdev_nvme_set_options", action_on_timeout="abort", timeout_us=30000000,
            delay_cmd_submit=True, disable_auto_failback=False, generate_uuids=False,
            nvme_error_stat=False, io_path_stat=False, allow_accel_sequence=False,
            enable_flush=False), True)
        self.assertEqual(self.asked("bdev_nvme_detach_controller", name="Nvme0", trtype="PCIe",
                                    traddr="ffff:1f:1f.7"), -errno.ENODEV)
        for method in ("detach_controller", "reset_controller", "get_controllers",
                       "get_controller_health_info"):
            self.assertEqual(self.asked("bdev_nvme_" + method, name="Nvme0"), -errno.ENODEV)

    def test_what_pollux_has_not(self):
        for parameter, value in (("num_io_queues", 2), ("hdgst", True), ("multipath", "failover"),
                                 ("psk", "key"), ("allow_unrecognized_csi", True)):
            with self.subTest(parameter=parameter):
                self.assertEqual(self.asked(
                    "bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe",
                    traddr="ffff:1f:1f.7", **{parameter: value}), rpcclient.INVALID_PARAMS)


class RpcPy(RpcTest):
    def run_py(self, *args, **kw):
        return rpcclient.rpc_py(self.target.rpc_path, *args, **kw)

    def test_commands(self):
        made = self.run_py("bdev_malloc_create", "--num-blocks", "2048", "--block-size", "512",
                           "--name", "m")
        self.assertEqual((made.returncode, made.stdout.strip()), (0, "m"), made.stderr)
        listed = self.run_py("bdev_get_bdevs")
        self.assertEqual(json.loads(listed.stdout)[0]["name"], "m")
        wrong = self.run_py("bdev_malloc_delete", "--name", "nobody")
        self.assertEqual((wrong.returncode, wrong.stdout), (1, ""))
        self.assertIn("nobody", wrong.stderr)
        unknown = self.run_py("no_such_method")
        self.assertEqual(unknown.returncode, 1)
        self.assertEqual(self.run_py("bdev_malloc_create", "--help").returncode, 0)
        self.assertIn("bdev_malloc_create", self.run_py("--help").stdout)

    def test_script(self):
        script = ("# a disk and its export\n"
                  "bdev_malloc_create --num-blocks 2048 --block-size 512 --name m\n"
                  "export_create --name 'my disk' --bdev m\n\n"
                  "export_get_exports\n")
        done = self.run_py(stdin=script)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.export_names(), ["my disk"])
        self.assertEqual(self.run_py(stdin="bdev_get_bdevs --name nobody\n").returncode, 1)

    def test_no_target(self):
        done = rpcclient.rpc_py(self.path("nothing.sock"), "rpc_get_methods")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing.sock", done.stderr)


class Spdk(RpcTest):
    """SPDK's own client, from a checkout of its repository."""

    def spdk(self, *args):
        script = os.path.join(os.environ.get("SPDK_DIR", ""), "scripts", "rpc.py")
        return subprocess.run([sys.executable, script, "-s", self.target.rpc_path, *args],
                              capture_output=True, text=True, timeout=60, check=False)

    def setUp(self):
        if not os.path.exists(os.path.join(os.environ.get("SPDK_DIR", ""), "scripts", "rpc.py")):
            self.skipTest("SPDK_DIR names no checkout of SPDK")
        super().setUp()

    def good(self, *args):
        done = self.spdk(*args)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout.strip()

    def bad(self, code, *args):
        done = self.spdk(*args)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertIn(f"{code}", done.stdout + done.stderr)

    def test_spdk_client(self):
        self.assertIn("bdev_malloc_create", self.good("rpc_get_methods"))
        self.assertIn("version", self.good("spdk_get_version"))
        self.assertEqual(self.good("bdev_malloc_create", "16", "512", "-b", "Malloc7"), "Malloc7")
        self.assertEqual(self.good("bdev_null_create", "Null1", "64", "4096"), "Null1")
        self.bad(-17, "bdev_malloc_create", "16", "512", "-b", "Malloc7")
        bdevs = {bdev["name"]: bdev for bdev in self.good("bdev_get_bdevs")}
        self.assertEqual(bdevs["Malloc7"]["num_blocks"] * 512, 16 * MIB)
        self.assertEqual(bdevs["Null1"]["block_size"], 4096)
        self.assertEqual(self.good("bdev_get_bdevs", "-b", "Malloc7")[0]["name"], "Malloc7")
        self.assertEqual(len(self.good("bdev_get_iostat")["bdevs"]), 2)
        stat, = self.good("bdev_get_iostat", "--names", "Null1")["bdevs"]
        self.assertEqual(stat["name"], "Null1")
        self.good("bdev_malloc_delete", "Malloc7")
        self.good("bdev_null_delete", "Null1")
        self.bad(-19, "bdev_malloc_delete", "Malloc7")
        self.bad(-19, "bdev_get_bdevs", "-b", "Malloc7")
        self.bad(-19, "bdev_nvme_attach_controller", "-b", "N", "-t", "PCIe", "-a", "ffff:1f:1f.7")
        self.bad(-19, "bdev_nvme_detach_controller", "N", "-t", "PCIe", "-a", "ffff:1f:1f.7")
        self.good("bdev_nvme_set_options", "--timeout-us", "30000000")
        self.assertTrue(self.good("framework_get_reactors")["reactors"])
