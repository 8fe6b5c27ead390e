# SPDX-License-Identifier: BSD-3-Clause
"""The tree itself: the direction of #include, the head of each file, the generated documents."""

import difflib
import importlib
import itertools
import os
import re
import subprocess
import sys
import unittest

import harness
import matrix

SOURCE = os.environ.get("POLLUX_SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))
LAYERS = ["lib", "reactor", "bdev", "app"]  # each may include itself and what stands before it
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def sources(*folders, endings=(".c", ".h")):
    """(path below the root, text) of each file."""
    for folder in folders:
        for base, _, names in os.walk(os.path.join(SOURCE, folder)):
            for name in sorted(names):
                if name.endswith(endings):
                    path = os.path.join(base, name)
                    with open(path, encoding="utf-8") as file:
                        yield os.path.relpath(path, SOURCE), file.read()


class Tree(unittest.TestCase):
    def test_include_direction(self):
        wrong, seen = [], 0
        for path, text in sources(*LAYERS):
            rank = LAYERS.index(path.split("/")[0])
            for included in INCLUDE.findall(text):
                seen += 1
                if ".." in included.split("/"):
                    wrong.append(f"{path} climbs: {included}")
                folder = included.split("/")[0]
                if folder == "test" or folder in LAYERS and LAYERS.index(folder) > rank:
                    wrong.append(f"{path} includes {included}")
        self.assertGreater(seen, 50, "the sources were not found")
        self.assertEqual(wrong, [])

    def test_life_of_a_read(self):
        """Every function that the README leads through stands in a file that it names."""
        with open(os.path.join(SOURCE, "README.md"), encoding="utf-8") as file:
            part = file.read().split("## Life of a READ")[1].split("\n## ")[0]
        words = set(re.findall(r"`([^`]+)`", part))
        paths = {word for word in words if re.fullmatch(r"(?:lib|reactor|bdev|app)/[\w/]+\.[ch]", word)}
        text = ""
        for path in paths:
            with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
                text += file.read()
        names = {word for word in words - paths if re.fullmatch(r"[a-z]+(?:_[a-z]+)*", word)}
        self.assertGreater(len(names), 30)
        self.assertEqual([name for name in sorted(names) if not re.search(rf"\b{name}\(", text)], [])

    def test_modules_names(self):
        """Python modules of the tests lie in one path: of two with a name only one would ever run."""
        names = [os.path.basename(path) for path, _ in sources("test", "scripts", endings=(".py",))]
        self.assertGreater(len(names), 50)
        self.assertEqual({name for name in names if names.count(name) > 1}, set())

    def test_licence_line(self):
        bare = [path for path, text in sources(*LAYERS, "test", "scripts",
                                               endings=(".c", ".h", ".py", ".sh"))
                if "SPDX-License-Identifier: BSD-3-Clause" not in text[:200]]
        self.assertEqual(bare, [])


class Matrix(unittest.TestCase):
    """The default run's rows bring together any two choices of different dimensions."""

    def check(self, dimensions):
        dimensions = (*dimensions, matrix.BUILDS)
        everything = list(itertools.product(*dimensions))
        rows = matrix.cover(dimensions)
        self.assertEqual(set().union(*map(matrix.pairs, rows)),
                         set().union(*map(matrix.pairs, everything)))
        self.assertEqual(len(set(rows)), len(rows))
        self.assertLessEqual(set(rows), set(everything))
        return len(rows)

    def test_cover(self):
        self.assertEqual(matrix.DIMENSIONS._fields,
                         ("mode", "security", "transport", "backend", "arrangement"))
        self.assertLessEqual(self.check(matrix.DIMENSIONS), 16)
        for name, choices in matrix.DIMENSIONS._asdict().items():
            for number in range(1, len(choices)):
                self.check(matrix.DIMENSIONS._replace(**{name: choices[:number]}))


class Rules(unittest.TestCase):
    """doc/protocol.md: the tests that it names are there."""

    CASE = re.compile(r"`([a-z_]+)\.([A-Z]\w*)\.(test_\w+)`")
    FUNCTION = re.compile(r"`(test/unit/\S+\.c):(\w+)`")

    def setUp(self):
        with open(os.path.join(SOURCE, "doc", "protocol.md"), encoding="utf-8") as file:
            self.text = file.read()
        self.here = os.path.dirname(os.path.abspath(__file__))

    def module(self, name):
        """test_conformance_NAME, or test_NAME; tests_tls is the test_tls beside conformance's."""
        for full in (f"test_conformance_{name}", f"test_{name}", name.replace("tests_", "test_")):
            if os.path.exists(os.path.join(self.here, full + ".py")):
                return importlib.import_module(full)
        raise AssertionError(f"no module {name}")

    def has(self, module, family, case):
        """The class itself, or made from it for a row; the case itself, or made from a table."""
        classes = [cls for key, cls in vars(module).items()
                   if isinstance(cls, type) and key.split("_")[0] == family]
        return any(case in (name, getattr(getattr(cls, name), "made_from", None))
                   for cls in classes for name in dir(cls))

    def test_cases_exist(self):
        named = set(self.CASE.findall(self.text))
        self.assertGreater(len(named), 100)
        missing = [".".join(entry) for entry in sorted(named)
                   if not self.has(self.module(entry[0]), *entry[1:])]
        self.assertEqual(missing, [])

    def test_functions_exist(self):
        named = set(self.FUNCTION.findall(self.text))
        self.assertGreater(len(named), 5)
        for path, function in sorted(named):
            with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
                self.assertRegex(file.read(), rf"\b{function}\b", path)

    def test_every_rule_has_a_test(self):
        """Or a reason in its place: a dash, or "no" for what is not done."""
        rows = [line for line in self.text.splitlines() if re.match(r"\| (MUST|SHOULD|MAY)", line)]
        self.assertGreater(len(rows), 200)
        bare = [row for row in rows if not self.CASE.search(row) and not self.FUNCTION.search(row)
                and not re.search(r"\| (–|no \|)", row)]
        self.assertEqual(bare, [])


class Documents(harness.TargetTest):
    def test_rpc_reference(self):
        """doc/rpc.md is what the running target's schema gives."""
        script = os.path.join(SOURCE, "scripts", "gen_rpc_doc.py")
        document = os.path.join(SOURCE, "doc", "rpc.md")
        target = self.start()
        made = subprocess.run([sys.executable, script, "-s", target.rpc_path], check=False,
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(made.returncode, 0, made.stderr)
        with open(document, encoding="utf-8") as file:
            committed = file.read()
        diff = "\n".join(difflib.unified_diff(committed.splitlines(), made.stdout.splitlines(),
                                              "doc/rpc.md", "the schema", lineterm="", n=1))
        self.assertEqual(diff, "", "doc/rpc.md is out of date: run scripts/gen_rpc_doc.py")
