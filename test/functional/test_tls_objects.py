# SPDX-License-Identifier: BSD-3-Clause
"""TLS credentials as objects: made, reloaded and deleted while clients use them; records
by the kernel."""

import json
import os
import shutil
import socket
from errno import ENOTCONN

import harness
import rpcclient
import tlstest
from harness import MIB, need_program, run
from pki import psk_file
from tlstest import KEY, OTHER_KEY, TlsTest

TCP_ULP = 31
setUpModule, tearDownModule = tlstest.set_up, tlstest.tear_down


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
        shutil.copy(tlstest.PKI.path("renewed-key.pem"), os.path.join(bad, "server-key.pem"))
        why = self.refused(target, "tls_create", "EINVAL", name="t", dir=bad)
        self.assertIn("server-key.pem", why)
        with open(os.path.join(bad, "server-cert.pem"), "w", encoding="ascii") as file:
            file.write("no certificate\n")
        why = self.refused(target, "tls_create", "EINVAL", name="t", dir=bad)
        self.assertIn("server-cert.pem", why)
        for wrong in ({}, {"dir": bad, "psk_file": self.psk()},
                      {"cert_file": tlstest.PKI.path("x")},
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
        target.rpc("tls_create", name="t", ca_file=tlstest.PKI.path("ca-cert.pem"),
                   cert_file=tlstest.PKI.path("server-cert.pem"),
                   key_file=tlstest.PKI.path("server-key.pem"),
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
        shutil.copy(tlstest.PKI.path("renewed-key.pem"), os.path.join(directory, "server-key.pem"))
        why = self.refused(target, "tls_reload", "EINVAL", name="default")
        self.assertIn("server-key.pem", why)
        self.logged(target, "stay as they were")
        self.assertEqual(self.common_name(target)[1], "localhost")
        shutil.copy(tlstest.PKI.path("renewed-cert.pem"),
                    os.path.join(directory, "server-cert.pem"))
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
            tls = self.told(target)
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
            tls = self.told(target)
            self.assertIs(tls["kernel"], False)
            client.write(0, b"x" * 70000)
            self.assertEqual(client.read(0, 70000), b"x" * 70000)

    def test_priority_of_the_command_line(self):
        target = self.start_x509("--tls-priority", "NORMAL:-CIPHER-ALL:+AES-256-GCM")
        with self.open(target) as client:
            client.go()
            tls = self.told(target)
            self.assertEqual(tls["cipher"], "AES-256-GCM")


del TlsTest
