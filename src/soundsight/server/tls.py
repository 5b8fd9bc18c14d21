"""A certificate that a server makes for itself, for a phone on the same network.

Browsers give a page the microphone only over TLS or on the machine itself. Nobody vouches for such
a certificate: the browser warns, and the fingerprint is what can be compared.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soundsight.core.errors import OutputError

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

_VALID_DAYS = 7


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate and its key as PEM in a private folder, which goes with them.

    ``fingerprint`` is the certificate's SHA-256, as browsers write it.
    """

    folder: tempfile.TemporaryDirectory[str]
    certificate: Path
    key: Path
    fingerprint: str


def self_signed(names: list[str]) -> Certificate:
    """Make a key and a certificate for a server's names and addresses, valid for a week.

    Names that a certificate cannot hold are left out.

    Raises:
        OutputError: when there is no place for temporary files.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "soundsight")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # Phones want it.
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    parts = (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    try:
        folder = tempfile.TemporaryDirectory(prefix="soundsight-tls-")
        paths = Path(folder.name) / "certificate.pem", Path(folder.name) / "key.pem"
        for path, part in zip(paths, parts, strict=True):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(part)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"no place for a certificate among temporary files: {reason}") from None
    print_hex = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return Certificate(folder=folder, certificate=paths[0], key=paths[1], fingerprint=print_hex)


def _alternatives(names: list[str]) -> list[GeneralName]:
    from cryptography import x509

    known: list[GeneralName] = []
    for name in names:
        try:
            known.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            with contextlib.suppress(ValueError):  # a machine may be called anything
                known.append(x509.DNSName(name))
    return known


def lan_address() -> str | None:
    """The address by which others on the network reach this machine; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting a datagram socket only chooses the way out.
            probe.connect(("192.0.2.1", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if address.startswith("127.") else address
