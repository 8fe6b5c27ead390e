#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The guest of test_network.py: a target that clients outside reach through a network card, and its RPC.
. /vm/guest.sh

pollux --cores 0 -l tcp://0.0.0.0:10809 -r /tmp/rpc.sock "$@" >/tmp/pollux.log 2>&1 &
server=$!
socat TCP-LISTEN:10810,fork,reuseaddr UNIX-CONNECT:/tmp/rpc.sock &
announce 'RPC at'
