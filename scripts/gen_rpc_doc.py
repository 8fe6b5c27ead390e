#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes doc/rpc.md, the reference of all RPC methods, from the schema that the target itself decodes
requests with (rpc_get_schema): from a running target, or from a file that holds its answer.

The same schema gives the same bytes. Only Python's standard library, 3.9 or later.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import rpc  # noqa: E402  (stands beside this file)

HEAD = """# The RPC methods of pollux

<!-- Generated: do not edit. It comes from the method tables in the *_rpc.c files; after changing one, start
     pollux and run: scripts/gen_rpc_doc.py -o doc/rpc.md     (-s SOCKET where it is not the default one) -->

Pollux is managed by JSON-RPC 2.0 over a unix socket (`--rpc-socket`; `pollux --help` tells where it
is). Requests and answers are JSON values one after the other, without delimiter; batches are
allowed. `pollux-rpc METHOD --help` prints what stands here about a method.

- Parameters go by name (`"params": {"name": "disk0"}`). One that the method does not know, or that has
  the wrong type or range, is refused with code -32602; `error.data.parameter` names it.
- Other errors carry a negative errno as their code (-17: there is one already, -19: there is none,
  -16: in use); `error.data.errno` is its name.
- A request without `id` is a notification: it is carried out, but not answered.
- A value may have up to 4 MiB and 64 levels, a batch up to 1024 requests. What is no JSON is
  answered with code -32700, and ends the connection.

## Types

| type | in JSON | on pollux-rpc's command line |
|---|---|---|
| string, uuid, enum | a string | as it is |
| integer | a whole number | `4096` |
| number | a number | `0.5` |
| size | a number of bytes, or a string with a suffix K, M, G or T (powers of 1024) | `64M` |
| boolean | `true` or `false` | `--flag`, `--flag=false` |
| strings | an array of strings | `a,b`, or the option several times |
| object | an object | its JSON text |
| off | accepted only as `null`, `false`, `0`, `""` or `"disable"`: SPDK's clients send it, Pollux does not have it | left out |
"""

# What example calls give for a required parameter; other names get a value by their type.
EXAMPLES = {
    "name": "disk0",
    "bdev_name": "disk0",
    "base_name": "base0",
    "base_bdev_name": "base0",
    "delay_bdev_name": "delay0",
    "filename": "/srv/disk.img",
    "path": "/srv/disk.img",
    "num_blocks": 262144,
    "block_size": 4096,
    "size": "1G",
    "address": "tcp://127.0.0.1:10809",
    "uri": "tcp://127.0.0.1:10809",
    "url": "tcp://127.0.0.1:10809",
}


def example_value(parameter):
    kind = parameter["type"]
    if kind == "enum":
        return parameter["values"][0]
    if parameter["name"] in EXAMPLES:
        return EXAMPLES[parameter["name"]]
    if kind in ("integer", "number"):
        return max(parameter.get("min", 0), 1)
    return {"boolean": True, "size": "1G", "strings": ["a", "b"], "object": {},
            "uuid": "0b6cf0a6-7a1f-4a53-9d5c-1f0e6b3f5a11"}.get(kind, parameter["name"])


def command_line(method, params):
    words = ["pollux-rpc", method]
    for name, value in params.items():
        option = "--" + rpc.dashed(name)
        if value is True:
            words.append(option)
        elif isinstance(value, str):
            words += [option, value]
        elif isinstance(value, list):
            words += [option, ",".join(value)]
        else:
            words += [option, json.dumps(value)]
    return " ".join(words)


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def code(value):
    return f"`{cell(json.dumps(value))}`"


def parameter_rows(schema):
    yield "| parameter | type | range | unit | default | |"
    yield "|---|---|---|---|---|---|"
    for parameter in schema["params"]:
        default = code(parameter["default"]) if "default" in parameter else ""
        if parameter["required"]:
            default = "**required**"
        yield (f"| `{parameter['name']}` | {parameter['type']} | "
               f"{cell(rpc.describe_range(parameter))} | {cell(parameter.get('unit', ''))} | "
               f"{default} | {cell(parameter.get('description', ''))} |")


def anchor(name):
    return f"[`{name}`](#{name})"


def method_section(schema, aliases):
    name = schema["name"]
    yield f"## {name}"
    yield ""
    yield schema.get("description", "")
    if "alias_of" in schema:
        yield ""
        yield f"An alias of {anchor(schema['alias_of'])}."
    elif aliases:
        yield ""
        yield "Aliases: " + ", ".join(anchor(alias) for alias in aliases) + "."
    yield ""
    if schema["params"]:
        yield from parameter_rows(schema)
    else:
        yield "No parameters."
    yield ""
    if schema.get("result"):
        result = schema["result"]
        yield f"Result: `{result}`" if result[0] + result[-1] in ("[]", "{}") else (
            f"Result: {result}")
        yield ""
    params = {parameter["name"]: example_value(parameter)
              for parameter in schema["params"] if parameter["required"]}
    request = {"jsonrpc": "2.0", "id": 1, "method": name}
    if params:
        request["params"] = params
    yield "```"
    yield f"$ {command_line(name, params)}"
    yield json.dumps(request)
    yield "```"
    yield ""


def document(schemas):
    schemas = sorted(schemas, key=lambda schema: schema["name"])
    aliases = {}
    for schema in schemas:
        if "alias_of" in schema:
            aliases.setdefault(schema["alias_of"], []).append(schema["name"])
    yield from HEAD.splitlines()
    yield ""
    yield "## Methods"
    yield ""
    for schema in schemas:
        note = f" (alias of `{schema['alias_of']}`)" if "alias_of" in schema else ""
        yield f"- {anchor(schema['name'])}: {schema.get('description', '')}{note}"
    yield ""
    for schema in schemas:
        yield from method_section(schema, aliases.get(schema["name"], []))


def load(options):
    """The list of methods from a file (a schema, or the whole answer with one) or from a target."""
    if not options.schema:
        return rpc.Client(options.socket).call("rpc_get_schema")["methods"]
    with (sys.stdin if options.schema == "-" else open(options.schema, encoding="utf-8")) as file:
        value = json.load(file)
    return value.get("result", value)["methods"]


def main():
    parser = argparse.ArgumentParser(description="Writes the reference of the RPC methods.")
    parser.add_argument("schema", nargs="?",
                        help="file with what rpc_get_schema answers, - for standard input; "
                             "without it a running target is asked")
    parser.add_argument("-s", "--socket", default=rpc.default_socket(),
                        help="the target's RPC socket (default: %(default)s)")
    parser.add_argument("-o", "--output", help="file to write (default: standard output)")
    options = parser.parse_args()
    try:
        text = "\n".join(document(load(options)))
    except (rpc.Failure, OSError, ValueError, KeyError) as failure:
        sys.exit(f"gen_rpc_doc.py: {failure}")
    if not options.output:
        sys.stdout.write(text)
        return
    with open(options.output, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
