# SPDX-License-Identifier: BSD-3-Clause
"""The tests' own runner: what run.py prints of a case and what results.py makes of it."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))

CASES = '''
import os
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class Cases(unittest.TestCase):
    def runs(self):
        """How often this case was run before."""
        path = os.path.join(HERE, "count-" + self._testMethodName)
        with open(path, "a+", encoding="ascii") as file:
            file.write("x")
            return file.tell() - 1

    def test_good(self):
        self.assertEqual(self.runs(), 0)

    def test_bad(self):
        self.runs()
        self.fail("always {number}")

    def test_unsteady(self):
        self.assertEqual(self.runs(), 1, "once")

    def test_skipped(self):
        self.skipTest("no reason")

    def test_parts(self):
        runs = self.runs()
        for part in range(3):
            with self.subTest(part=part):
                self.assertTrue(runs or part != 1)


class Broken(unittest.TestCase):
    def is_final(self, error):
        return "crashed" in str(error)

    def test_crash(self):
        self.fail("crashed")
'''


class Runner(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="pollux-")  # pylint: disable=R1732
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        with open(os.path.join(self.directory, "sample.py"), "w", encoding="ascii") as file:
            file.write(CASES)

    def run_cases(self, pattern, retries):
        env = {**os.environ, "PYTHONPATH": self.directory, "POLLUX_TEST_RETRIES": str(retries)}
        return subprocess.run([sys.executable, os.path.join(HERE, "run.py"), "sample", pattern],
                              env=env, capture_output=True, text=True, timeout=60, check=False)

    def sum_up(self, done):
        logs = os.path.join(self.directory, "meson-logs")
        os.makedirs(logs, exist_ok=True)
        with open(os.path.join(logs, "testlog.json"), "w", encoding="ascii") as file:
            json.dump({"name": "pollux / sample", "result": "OK" if not done.returncode else "FAIL",
                       "returncode": done.returncode, "stdout": done.stdout}, file)
        return subprocess.run([sys.executable, os.path.join(HERE, "results.py"), self.directory],
                              capture_output=True, text=True, timeout=60, check=False)

    def test_without_a_second_try(self):
        done = self.run_cases("", 0)
        self.assertEqual(done.returncode, 1)
        self.assertNotIn("unsteady:", done.stdout)
        told = self.sum_up(done)
        self.assertEqual(told.returncode, 1)
        self.assertEqual(told.stdout.splitlines()[-1], "1 passed, 4 failed, 1 skipped")

    def test_with_a_second_try(self):
        done = self.run_cases("", 1)
        self.assertEqual(done.returncode, 1)
        told = self.sum_up(done)
        where = f"{os.path.basename(self.directory)}: sample"
        self.assertIn(f"unsteady: {where}: Cases.test_unsteady: AssertionError: 0 != 1 : once",
                      told.stdout)
        self.assertIn(f"unsteady: {where}: Cases.test_parts: AssertionError", told.stdout)
        self.assertEqual(told.stdout.count(f"unsteady: {where}"), 3)  # the bad one's first as well
        self.assertRegex(told.stdout, r"FAILED: .*test_bad \(0.0 s\): AssertionError: always")
        self.assertRegex(told.stdout, r"FAILED: .*test_crash .*: AssertionError: crashed")
        self.assertEqual(told.stdout.splitlines()[-1], "3 passed, 2 failed, 1 skipped")

    def test_all_well(self):
        for pattern in ("test_good", "test_unsteady"):
            done = self.run_cases(pattern, 1)
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(self.sum_up(done).stdout.splitlines()[-1], "1 passed, 0 failed")


if __name__ == "__main__":
    unittest.main()
