#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pollux-rpc and gen_rpc_doc.py as programs, against a server of lib/rpc with test methods.

usage: test_rpc_py.py SERVER SCRIPTS-DIRECTORY
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

SERVER = SCRIPTS = None
ECHO_DEFAULTS = {"text": None, "count": 5, "offset": -1, "flag": True, "ratio": 0.5,
                 "size": 67108864, "colour": "red", "uuid": None, "names": None, "options": None,
                 "count_given": False}


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.path = os.path.join(cls.directory.name, "rpc.sock")
        cls.server = subprocess.Popen([SERVER, cls.path], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
        assert cls.server.stdout.readline() == b"ready\n"

    @classmethod
    def tearDownClass(cls):
        cls.server.stdin.close()
        cls.server.stdout.close()
        status = cls.server.wait(10)
        cls.directory.cleanup()
        assert status == 0, f"the server ended with {status}"

    def run_program(self, arguments, stdin="", name="rpc.py", env=None):
        return subprocess.run([sys.executable, os.path.join(SCRIPTS, name)] + arguments,
                              input=stdin, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "COLUMNS": "100", **(env or {})})

    def rpc(self, *arguments, stdin=""):
        return self.run_program(["-s", self.path] + list(arguments), stdin)

    def good(self, *arguments, stdin=""):
        done = self.rpc(*arguments, stdin=stdin)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def bad(self, *arguments, told, stdin=""):
        """Exit status 1, nothing on stdout, and a message that holds each of `told`."""
        done = self.rpc(*arguments, stdin=stdin)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        for text in told:
            self.assertIn(text, done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def echo(self, *arguments):
        return json.loads(self.good("echo", *arguments))

    def test_results(self):
        self.assertEqual(self.echo(), ECHO_DEFAULTS)
        self.assertEqual(self.good("nothing"), "true\n")
        methods = json.loads(self.good("rpc_get_methods"))
        self.assertIn("echo", methods)
        self.assertNotIn("old_echo", methods)
        self.assertIn("old_echo", json.loads(self.good("rpc-get-methods", "--include-aliases")))

    def test_every_type(self):
        result = self.echo("--text", "-a b", "--count=9", "--offset", "-5", "--flag=false",
                           "--ratio", "0.25", "--size", "2G", "--colour", "blue",
                           "--names", "a,b", "--names=c", "--options", '{"x": [1, "y"]}',
                           "--md_size", "0")
        self.assertEqual(result, {**ECHO_DEFAULTS, "text": "-a b", "count": 9, "offset": -5,
                                  "flag": False, "ratio": 0.25, "size": 2 << 30,
                                  "colour": "blue", "names": ["a", "b", "c"],
                                  "options": {"x": [1, "y"]}, "count_given": True})
        for flag, expected in ((["--flag"], True), (["--flag=true"], True),
                               (["--flag", "false"], False), (["--flag", "--count", "2"], True),
                               (["--flag=off"], False)):
            self.assertEqual(self.echo(*flag)["flag"], expected, flag)
        self.assertEqual(self.echo("--size", "4096")["size"], 4096)
        self.assertEqual(self.echo("--text", "12")["text"], "12")
        self.assertEqual(self.echo("--count", "0x10")["count"], 16)
        self.assertEqual(self.echo("--names", '["a,b"]')["names"], ["a,b"])

    def test_refused_values(self):
        for option, value, told in (
                ("--count", "0", "from 1 to 1000, got 0"), ("--count", "x", 'got "x"'),
                ("--count", "1.5", 'got "1.5"'), ("--size", "1X", 'got "1X"'),
                ("--colour", "pink", "red, green, blue"), ("--flag", "maybe", "true or false"),
                ("--options", "{", "an object"), ("--ratio", "much", "a number"),
                ("--uuid", "1", "a UUID"), ("--md-size", "8", "does not have it")):
            name = option[2:].replace("-", "_")
            arguments = (f"{option}={value}",)
            self.bad("echo", *arguments, told=(told, f"parameter {name}", "EINVAL", "-32602"))

    def test_errors(self):
        self.bad("fail_busy", told=("disk7 is in use", "parameter name", "EBUSY", "-16"))
        self.bad("hold", told=("missing parameter 'text'",))
        self.bad("ecko", told=("no method ecko", "did you mean echo?"))
        self.bad("echo", "--cuont", "1", told=("no parameter --cuont", "did you mean --count?"))
        self.bad("echo", "--count", told=("--count needs a value",))
        self.bad("echo", "--count", "1", "--count", "2", told=("given twice",))
        self.bad("echo", "stray", told=("not 'stray'",))
        self.bad("-x", told=("-x",))
        self.bad("-t", "0", "nothing", told=("above 0",))
        self.bad("-", "nothing", told=("may follow",))

    def test_no_answer(self):
        self.bad("-t", "0.3", "hold", "--text", "x", told=("hold", "within 0.3 s"))

    def test_no_target(self):
        missing = os.path.join(self.directory.name, "missing")
        self.bad("-s", missing, "nothing", told=(missing, "is pollux running"))
        stale = os.path.join(self.directory.name, "stale")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(stale)
        self.bad("-s", stale, "nothing", told=(stale, "nobody listens"))
        self.bad("-s", "/" + "x" * 200, "nothing", told=("cannot connect", "too long"))
        if os.geteuid() != 0:
            os.chmod(stale, 0)
            self.bad("-s", stale, "nothing", told=("permission denied",))

    def test_target_that_goes_away(self):
        path = os.path.join(self.directory.name, "rude")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()

            def take_and_leave():
                sock, _ = listener.accept()
                sock.recv(10)
                sock.close()
            thread = threading.Thread(target=take_and_leave)
            thread.start()
            done = self.run_program(["-s", path, "nothing"])
            thread.join()
        self.assertEqual(done.returncode, 1)
        self.assertNotIn("Traceback", done.stderr)
        self.assertRegex(done.stderr, "closed the connection|connection lost")

    def test_default_socket(self):
        if os.geteuid() == 0:
            self.skipTest("root's is in /run")
        directory = self.directory.name
        done = self.run_program(["nothing"], env={"XDG_RUNTIME_DIR": directory})
        self.assertIn(os.path.join(directory, "pollux.sock"), done.stderr)
        done = self.run_program(["nothing"], env={"XDG_RUNTIME_DIR": ""})
        self.assertIn(f"/tmp/pollux-{os.geteuid()}/pollux.sock", done.stderr)

    def test_help(self):
        general = self.good("--help")
        for text in ("usage: pollux-rpc", "--socket", "Gives its parameters back.", "old_echo"):
            self.assertIn(text, general)
        method = self.good("echo", "--help")
        for text in ("--text STRING", "1 to 8 bytes", "How many (1 to 1000; in blocks; default 5)",
                     "one of red, green, blue", "at least 512", "--md-size"):
            self.assertIn(text, method)
        self.assertIn("required", self.good("hold", "-h"))
        # without a target there is still the usage, and how to get the rest
        done = self.run_program(["-s", "/nonexistent", "--help"])
        self.assertEqual(done.returncode, 0)
        self.assertIn("usage: pollux-rpc", done.stdout)
        self.assertIn("come from a running pollux", done.stdout)

    def test_scripts(self):
        script = ("# two commands\n\n"
                  "echo --text 'a b'  # quoted\n"
                  '  nothing\n')
        for arguments in ((), ("-",)):
            output = self.good(*arguments, stdin=script)
            self.assertTrue(output.endswith("}\ntrue\n"))
            self.assertIn('"text": "a b"', output)
        self.assertEqual(self.good(stdin=""), "")

    def test_script_errors(self):
        script = "nothing\n# comment\nfail_busy\nnothing\necho --text 'unclosed\nnothing\n"
        done = self.rpc(stdin=script)
        self.assertEqual((done.returncode, done.stdout), (1, "true\n"))
        self.assertIn("line 3: fail_busy: disk7 is in use", done.stderr)
        self.assertNotIn("line 5", done.stderr)
        done = self.rpc("--keep-going", stdin=script)
        self.assertEqual((done.returncode, done.stdout), (1, "true\ntrue\ntrue\n"))
        self.assertIn("line 3: ", done.stderr)
        self.assertIn("line 5: ", done.stderr)
        # a target that cannot be reached any more ends the script in any case
        done = self.rpc("-k", "-t", "0.3", stdin="hold --text x\nnothing\n")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("line 1: ", done.stderr)

    def test_verbose(self):
        done = self.rpc("-v", "nothing")
        self.assertEqual((done.returncode, done.stdout), (0, "true\n"))
        self.assertIn('-> {"jsonrpc": "2.0"', done.stderr)
        self.assertIn('"result": true', done.stderr)

    def test_foreign_bytes(self):
        done = subprocess.run([sys.executable.encode(), os.path.join(SCRIPTS, "rpc.py").encode(),
                               b"-s", self.path.encode(), b"echo", b"--text", b"\xff"],
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"parse error", done.stderr)
        self.assertEqual(self.echo("--text", "\u00e9\u4e16")["text"], "\u00e9\u4e16")

    def test_closed_output(self):
        command = (f'"{sys.executable}" "{SCRIPTS}/rpc.py" -s "{self.path}" rpc_get_schema '
                   "| head -c 1")
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.stdout, done.stderr), ("{", ""))

    def test_reference(self):
        schema = os.path.join(self.directory.name, "schema.json")
        with open(schema, "w", encoding="utf-8") as file:
            file.write(self.good("rpc_get_schema"))
        from_file = self.run_program([schema], name="gen_rpc_doc.py")
        from_target = self.run_program(["-s", self.path], name="gen_rpc_doc.py")
        self.assertEqual((from_file.returncode, from_file.stderr), (0, ""))
        self.assertEqual(from_file.stdout, from_target.stdout)
        for text in ("## echo", "Aliases: [`old_echo`](#old_echo).", "| `count` | integer | 1 to "
                     "1000 | blocks | `5` | How many |", "**required**",
                     "$ pollux-rpc hold --text text"):
            self.assertIn(text, from_file.stdout)
        output = os.path.join(self.directory.name, "rpc.md")
        self.run_program([schema, "-o", output], name="gen_rpc_doc.py")
        with open(output, encoding="utf-8") as file:
            self.assertEqual(file.read(), from_file.stdout)
        lost = self.run_program(["/nonexistent"], name="gen_rpc_doc.py")
        self.assertEqual(lost.returncode, 1)


if __name__ == "__main__":
    SERVER, SCRIPTS = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main()
