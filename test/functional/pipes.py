# SPDX-License-Identifier: BSD-3-Clause
"""Two pipes with what the raw client uses of a socket: the client's end of --stdio."""

import os
import select


class Pipes:
    """Two pipes with what the raw client uses of a socket."""

    def __init__(self, rx, tx):
        self.rx, self.tx, self.timeout = rx, tx, None
        os.set_blocking(tx, False)

    def settimeout(self, timeout):
        self.timeout = timeout

    def gettimeout(self):
        return self.timeout

    def recv(self, count, flags=0):
        if not select.select([self.rx], [], [], self.timeout)[0]:
            raise TimeoutError("nothing came")
        return os.read(self.rx, count)

    def recv_into(self, view):
        data = self.recv(len(view))
        view[:len(data)] = data
        return len(data)

    def sendall(self, data):
        view = memoryview(data)
        while view:
            if not select.select([], [self.tx], [], self.timeout)[1]:
                raise TimeoutError("nothing was taken")
            try:
                view = view[os.write(self.tx, view):]
            except BlockingIOError:
                pass

    def close_tx(self):
        if self.tx is not None:
            os.close(self.tx)
            self.tx = None

    def close_rx(self):
        if self.rx is not None:
            os.close(self.rx)
            self.rx = None

    def close(self):
        self.close_tx()
        self.close_rx()
