"""A certificate that a server makes for itself, for a phone on the same network.

Browsers give a page the microphone only over TLS or on the machine itself. Nobody vouches for such
a certificate: the browser warns, and the fingerprint is what can be compared.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

CERTIFICATE, KEY = "certificate.pem", "key.pem"

_VALID_DAYS = 7


def self_signed(names: list[str], folder: Path) -> str:
    """Write a key and a certificate for a server's names and addresses, valid for a week.

    Names that a certificate cannot hold are left out.

    Args:
        folder: a private one, which gets ``certificate.pem`` and ``key.pem``.

    Returns:
        The certificate's SHA-256, as browsers write it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    alternatives: list[GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            with contextlib.suppress(ValueError):  # a machine may be called anything
                alternatives.append(x509.DNSName(name))
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
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # Phones want it.
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, data in ((CERTIFICATE, certificate.public_bytes(pem)), (KEY, private)):
        (folder / file).touch(mode=0o600, exist_ok=False)
        (folder / file).write_bytes(data)
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


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
