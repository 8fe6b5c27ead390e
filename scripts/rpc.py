#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""pollux-rpc: calls the methods of a running pollux over its JSON-RPC socket.

What methods there are, their parameters and their help come from the target itself
(rpc_get_schema): this program knows none of them by name. Values that do not fit are sent as they
were typed, so that there is one judge of them, the target, and one wording.
Only Python's standard library, 3.9 or later.
"""

import difflib
import getopt
import json
import os
import shlex
import shutil
import socket
import sys
import textwrap
import time

DEFAULT_TIMEOUT_S = 60.0
RECEIVE_BYTES = 1 << 16
MAX_INTEGER = 2**63 - 1

USAGE = """usage: pollux-rpc [options] METHOD [--parameter value ...]
       pollux-rpc [options] - < SCRIPT

Calls a method of a running pollux and prints its result as JSON.

options:
  -s, --socket SOCKET    the target's RPC socket (default: {socket})
  -t, --timeout SECONDS  how long to wait for an answer (default: {timeout:g})
  -v, --verbose          show requests and answers on standard error
  -k, --keep-going       in a script: go on after an error (the exit status is still 1)
  -h, --help             show this help; after METHOD: its parameters

SCRIPT holds a command a line, quoted as for a shell; # begins a comment. It is also read when
there is no METHOD and standard input is no terminal."""


class Failure(Exception):
    """What ends a command; the text is for the user."""


class Unreachable(Failure):
    """The target cannot be reached, or not any more: further commands are pointless."""


class RpcError(Failure):
    """The target's error answer."""

    def __init__(self, method, error):
        self.code = error.get("code")
        data = error.get("data")
        data = data if isinstance(data, dict) else {}
        details = [f"{key} {data[key]}" for key in ("parameter", "errno") if key in data]
        details.append(f"code {self.code}")
        super().__init__(f"{method}: {error.get('message')} ({', '.join(details)})")


def default_socket():
    """Where pollux puts its socket unless told otherwise."""
    if os.geteuid() == 0:
        return "/run/pollux.sock"
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    if not directory.startswith("/"):
        directory = f"/tmp/pollux-{os.geteuid()}"
    return os.path.join(directory, "pollux.sock")


class Client:
    """One connection to a target; calls go one after the other."""

    def __init__(self, path, timeout_s=DEFAULT_TIMEOUT_S, verbose=False):
        self.path = path
        self.timeout_s = timeout_s
        self.verbose = verbose
        self.last_id = 0
        self.received = b""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        try:
            self.sock.connect(path)
        except OSError as error:
            self.sock.close()
            raise Unreachable(self.explain(error)) from error

    def explain(self, error):
        if isinstance(error, FileNotFoundError):
            return f"there is no socket {self.path}: is pollux running? (-s SOCKET names another)"
        if isinstance(error, ConnectionRefusedError):
            return f"nobody listens on {self.path}: pollux is not running any more"
        if isinstance(error, PermissionError):
            return f"permission denied on {self.path}: it belongs to the user who runs pollux"
        if isinstance(error, socket.timeout):
            return f"{self.path} took no connection within {self.timeout_s:g} s"
        return f"cannot connect to {self.path}: {error.strerror or error}"

    def close(self):
        self.sock.close()

    def trace(self, direction, value):
        if self.verbose:
            print(direction, json.dumps(value), file=sys.stderr)

    def call(self, method, params=None):
        """Returns the result; raises RpcError or Unreachable."""
        self.last_id += 1
        request = {"jsonrpc": "2.0", "id": self.last_id, "method": method}
        if params:
            request["params"] = params
        self.trace("->", request)
        deadline = time.monotonic() + self.timeout_s
        try:
            self.sock.settimeout(self.timeout_s)
            self.sock.sendall(json.dumps(request).encode() + b"\n")
            answer = self.receive(method, deadline)
        except socket.timeout as error:
            raise Unreachable(
                f"{method}: the target did not answer within {self.timeout_s:g} s") from error
        except OSError as error:
            raise Unreachable(f"{method}: connection lost: {error.strerror or error}") from error
        self.trace("<-", answer)
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer.get("result")

    def receive(self, method, deadline):
        """The answer to the last request; one to a request that could not be read has no id."""
        while True:
            value = self.take_value()
            if isinstance(value, dict) and value.get("id") in (self.last_id, None):
                return value
            if value is not None:
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise socket.timeout()
            self.sock.settimeout(left_s)
            piece = self.sock.recv(RECEIVE_BYTES)
            if not piece:
                raise Unreachable(f"{method}: the target closed the connection without an answer")
            self.received += piece

    def take_value(self):
        """The next whole JSON value that was received, or None."""
        text = self.received.lstrip()
        # a value ends with its bracket: no use in parsing what ends otherwise
        if not text.rstrip().endswith((b"}", b"]")):
            return None
        try:
            decoded = text.decode()
            value, end = json.JSONDecoder().raw_decode(decoded)
        except ValueError:
            return None
        self.received = decoded[end:].encode()
        return value


# ---- Arguments ----


def normal(name):
    return name.replace("-", "_")


def dashed(name):
    return name.replace("_", "-")


def as_boolean(text):
    return {"true": True, "yes": True, "on": True, "1": True,
            "false": False, "no": False, "off": False, "0": False}.get(text.lower(), text)


def as_integer(text):
    for base in (10, 0):
        try:
            return int(text, base)
        except ValueError:
            pass
    return text


def as_number(text):
    try:
        return float(text)
    except ValueError:
        return text


def as_json(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_strings(text):
    return as_json(text) if text.lstrip().startswith("[") else text.split(",")


def as_size(text):
    return int(text) if text.isdecimal() else text


CONVERTERS = {"boolean": as_boolean, "integer": as_integer, "number": as_number, "size": as_size,
              "strings": as_strings, "object": as_json, "off": as_json}


def convert(parameter, text):
    return CONVERTERS.get(parameter["type"], str)(text)


def find_parameter(schema, option):
    for parameter in schema["params"]:
        if parameter["name"] == normal(option):
            return parameter
    names = [dashed(parameter["name"]) for parameter in schema["params"]]
    near = difflib.get_close_matches(dashed(option), names, 1)
    hint = f": did you mean --{near[0]}?" if near else f" ({schema['name']} --help lists them)"
    raise Failure(f"{schema['name']} has no parameter --{dashed(option)}{hint}")


def parse_parameters(schema, arguments):
    """The parameters of one command line: --name value, --name=value, --flag."""
    params = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise Failure(f"{schema['name']}: parameters go as --name value, not '{argument}'")
        option, equals, text = argument[2:].partition("=")
        parameter = find_parameter(schema, option)
        name = parameter["name"]
        if not equals:
            if parameter["type"] == "boolean" and not (
                    rest and isinstance(as_boolean(rest[0]), bool)):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise Failure(f"{schema['name']}: --{dashed(name)} needs a value")
        value = convert(parameter, text)
        if parameter["type"] == "strings" and isinstance(value, list) and name in params:
            params[name] += value
        elif name in params:
            raise Failure(f"{schema['name']}: --{dashed(name)} is given twice")
        else:
            params[name] = value
    return params


# ---- Help ----


def describe_range(parameter):
    """ "1 to 255 bytes", "at least 1", or nothing. """
    if parameter["type"] == "enum":
        return "one of " + ", ".join(parameter["values"])
    least, most = parameter.get("min", 0), parameter.get("max", MAX_INTEGER)
    counted = {"string": " bytes", "strings": " entries"}.get(parameter["type"], "")
    if most != MAX_INTEGER:
        return f"{least} to {most}{counted}"
    return f"at least {least}{counted}" if least else ""


def describe_values(parameter):
    """The second column's end: range, default, unit."""
    notes = [describe_range(parameter)] if describe_range(parameter) else []
    if "unit" in parameter:
        notes.append(f"in {parameter['unit']}")
    if "default" in parameter:
        notes.append(f"default {json.dumps(parameter['default'])}")
    if parameter["required"]:
        notes.append("required")
    if parameter["type"] == "off":
        notes.append("taken from SPDK's clients, only as off")
    return "; ".join(notes)


def show(label, text, indent):
    width = max(shutil.get_terminal_size((100, 24)).columns, 60)
    gap = " " * indent
    body = textwrap.wrap(text, width - indent) or [""]
    if len(label) + 4 > indent:
        print("  " + label)
    else:
        body[0] = f"  {label}".ljust(indent) + body[0]
    for number, line in enumerate(body):
        print(line if number == 0 and len(label) + 4 <= indent else gap + line)


def show_method_help(schema):
    name = schema["name"]
    print(f"usage: pollux-rpc {name} [--parameter value ...]\n")
    print(textwrap.fill(schema.get("description", ""), 100))
    if "alias_of" in schema:
        print(f"An alias of {schema['alias_of']}.")
    if schema["params"]:
        print("\nparameters:")
    for parameter in schema["params"]:
        metavar = "" if parameter["type"] == "boolean" else f" {parameter['type'].upper()}"
        notes = describe_values(parameter)
        text = " ".join(filter(None, [parameter.get("description"), notes and f"({notes})"]))
        show(f"--{dashed(parameter['name'])}{metavar}", text, 36)
    if "result" in schema:
        print("\nresult:")
        print(textwrap.fill(schema["result"], 100, initial_indent="  ", subsequent_indent="  "))


def show_methods(client):
    methods = client.call("rpc_get_schema")["methods"]
    print("\nmethods (pollux-rpc METHOD --help tells more):")
    for schema in methods:
        text = schema.get("description", "")
        if "alias_of" in schema:
            text += f" (Alias of {schema['alias_of']}.)"
        show(schema["name"], text, 36)


def show_general_help(options):
    print(USAGE.format(socket=default_socket(), timeout=DEFAULT_TIMEOUT_S))
    try:
        client = Client(options.socket, options.timeout, options.verbose)
        show_methods(client)
        client.close()
    except Failure as failure:
        print(f"\nThe methods and their help come from a running pollux: {failure}")


# ---- Commands ----


def method_schema(client, method):
    try:
        return client.call("rpc_get_schema", {"method": method})["methods"][0]
    except RpcError as error:
        names = client.call("rpc_get_methods", {"include_aliases": True})
        if method in names:
            raise
        near = difflib.get_close_matches(method, names, 1)
        hint = f": did you mean {near[0]}?" if near else " (--help lists them)"
        raise Failure(f"there is no method {method}{hint}") from error


def show_result(result):
    print(result if isinstance(result, str) else json.dumps(result, indent=2))


def run_command(client, words):
    """One command line, without the program's name."""
    method = normal(words[0])
    schema = method_schema(client, method)
    if "--help" in words[1:] or "-h" in words[1:]:
        show_method_help(schema)
        return
    show_result(client.call(method, parse_parameters(schema, words[1:])))


def run_script(client, lines, keep_going):
    """A command a line. Returns the exit status."""
    status = 0
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
            if words:
                run_command(client, words)
                sys.stdout.flush()
        except (Failure, ValueError) as failure:
            sys.stdout.flush()
            print(f"pollux-rpc: line {number}: {failure}", file=sys.stderr)
            status = 1
            if isinstance(failure, Unreachable) or not keep_going:
                break
    return status


class Options:
    def __init__(self):
        self.socket = default_socket()
        self.timeout = DEFAULT_TIMEOUT_S
        self.verbose = self.keep_going = self.help = False


def parse_seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise Failure(f"-t takes a number of seconds above 0, not '{text}'")
    return value


def parse_options(arguments):
    """The options before METHOD, and the rest."""
    options = Options()
    try:
        pairs, rest = getopt.getopt(arguments, "s:t:vkh",
                                    ["socket=", "timeout=", "verbose", "keep-going", "help"])
    except getopt.GetoptError as error:
        raise Failure(f"{error} (--help lists the options)") from error
    for option, value in pairs:
        if option in ("-s", "--socket"):
            options.socket = value
        elif option in ("-t", "--timeout"):
            options.timeout = parse_seconds(value)
        elif option in ("-v", "--verbose"):
            options.verbose = True
        elif option in ("-k", "--keep-going"):
            options.keep_going = True
        else:
            options.help = True
    return options, rest


def main(arguments):
    options, words = parse_options(arguments)
    if options.help or (not words and sys.stdin.isatty()):
        show_general_help(options)
        return 0 if options.help else 1
    if words[:1] == ["-"]:
        if len(words) > 1:
            raise Failure(f"nothing may follow '-', not '{words[1]}'")
        words = []
    client = Client(options.socket, options.timeout, options.verbose)
    if not words:
        return run_script(client, sys.stdin, options.keep_going)
    run_command(client, words)
    return 0


def run():
    try:
        sys.stdout.reconfigure(errors="backslashreplace")
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except Failure as failure:
        print(f"pollux-rpc: {failure}", file=sys.stderr)
        status = 1
    except BrokenPipeError:
        # the reader has enough; keep the interpreter's own flush at exit quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    return status


if __name__ == "__main__":
    sys.exit(run())
