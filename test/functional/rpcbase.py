# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of RPC methods share: calls on a target, and calls that must be refused."""

import errno

import harness
from harness import MIB
from rpcclient import RpcError


class RpcTest(harness.TargetTest):
    def setUp(self):
        super().setUp()
        self.target = self.start(*self.specs())
        self.rpc = self.target.rpc

    def specs(self):
        return []

    def refused(self, code, method, parameter=None, **params):
        """The call must fail with that code (and name that parameter)."""
        with self.assertRaises(RpcError) as caught:
            self.rpc(method, **params)
        error = caught.exception
        self.assertEqual(error.code, code, error)
        self.assertTrue(error.message, error)
        if parameter:
            self.assertEqual(error.parameter, parameter, error)
        if code > -1000:
            self.assertEqual(error.errno, errno.errorcode[-code], error)
        return error

    def malloc(self, size=MIB, **params):
        return self.rpc("bdev_malloc_create", num_blocks=size // 512, block_size=512, **params)

    def bdev(self, name):
        return self.rpc("bdev_get_bdevs", name=name)[0]

    def export_names(self):
        return sorted(export["name"] for export in self.rpc("export_get_exports"))
