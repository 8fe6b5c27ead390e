# SPDX-License-Identifier: BSD-3-Clause
"""
Certificates and pre-shared keys for tests, made by certtool and psktool.

A Pki is an authority with its directory, laid out as qemu, libnbd and Pollux expect it: ca-cert.pem,
server-cert.pem, server-key.pem, client-cert.pem, client-key.pem.
"""

import os
import shutil

import harness


def certtool(*args):
    harness.run(harness.need_program("certtool"), *args)


def psk_file(path, **keys):
    """A file of identity:hexkey."""
    with open(path, "w", encoding="ascii") as file:
        for identity, key in keys.items():
            file.write(f"{identity}:{key}\n")
    os.chmod(path, 0o600)
    return path


class Pki:
    """An authority, and what it signs."""

    def __init__(self, directory, name="Pollux test CA"):
        os.makedirs(directory, exist_ok=True)
        self.dir = directory
        self.serial = 1
        self.key("ca-key.pem")
        self.template(cn=name, ca=None, cert_signing_key=None, crl_signing_key=None,
                      expiration_days=3650)
        certtool("--generate-self-signed", "--load-privkey", self.path("ca-key.pem"),
                 "--template", self.path("template"), "--outfile", self.path("ca-cert.pem"))
        self.certificate("server", "localhost", "server")
        self.certificate("client", "client one", "client")

    def path(self, name):
        return os.path.join(self.dir, name)

    def template(self, **fields):
        with open(self.path("template"), "w", encoding="ascii") as file:
            for name, value in fields.items():
                if value is None:
                    file.write(f"{name}\n")
                elif isinstance(value, int):
                    file.write(f"{name} = {value}\n")
                else:
                    file.write(f'{name} = "{value}"\n')

    def key(self, name):
        certtool("--generate-privkey", "--key-type", "ecdsa", "--curve", "secp256r1", "--outfile",
                 self.path(name))

    def certificate(self, stem, name, role, **fields):
        """stem-cert.pem and stem-key.pem."""
        self.serial += 1
        self.key(f"{stem}-key.pem")
        dates = {} if "expiration_date" in fields else {"expiration_days": 365}
        extra = ({"dns_name": "localhost", "ip_address": "127.0.0.1"} if role == "server" else {})
        self.template(cn=name, serial=self.serial, signing_key=None, **{f"tls_www_{role}": None},
                      **extra, **dates, **fields)
        certtool("--generate-certificate", "--load-privkey", self.path(f"{stem}-key.pem"),
                 "--load-ca-certificate", self.path("ca-cert.pem"), "--load-ca-privkey",
                 self.path("ca-key.pem"), "--template", self.path("template"), "--outfile",
                 self.path(f"{stem}-cert.pem"))

    def revoke(self, stem):
        """ca-crl.pem with that certificate."""
        self.template(crl_next_update=365)
        certtool("--generate-crl", "--load-certificate", self.path(f"{stem}-cert.pem"),
                 "--load-ca-certificate", self.path("ca-cert.pem"), "--load-ca-privkey",
                 self.path("ca-key.pem"), "--template", self.path("template"), "--outfile",
                 self.path("ca-crl.pem"))

    def view(self, directory, **files):
        """A directory with the authority's certificate, server's and client's certificates; by
        server="stem" or client="stem" (None: without) others take their places."""
        os.makedirs(directory, exist_ok=True)
        shutil.copy(self.path("ca-cert.pem"), directory)
        for role in ("server", "client"):
            stem = files.get(role, role)
            if stem is None:
                continue
            for part in ("cert", "key"):
                shutil.copy(self.path(f"{stem}-{part}.pem"),
                            os.path.join(directory, f"{role}-{part}.pem"))
        return directory
