"""Our own small certificate authority, and the certificate that the NATS server and the hub's page share.

The CA signs server certificates only (path length 0) and its key never leaves the state directory. Agents and
viewers are known by their nkeys, so there are no client certificates. Keys are ECDSA P-256: browsers refuse
Ed25519 in certificates.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import socket
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hub.backbone.state import StateDir, StateError, write_private

CA_DAYS = 3650
SERVER_DAYS = 90
SERVER_RENEWAL_DAYS = 60
CLOCK_SKEW = timedelta(minutes=5)
"""How far a client's clock may be behind ours on the day a certificate is made."""
HOST_NAME = re.compile(r"(?=.{1,253}\Z)(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\Z")
MAX_ADDRESSES = 100
"""A host with more (containers) names those that matter itself."""


class PkiError(StateError):
    """A certificate or a name for one can't be used; the message says what to do."""


def check_name(name: str) -> str:
    """Return a host name or an IP address as it goes into a certificate. Raises PkiError."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not HOST_NAME.match(name):
        raise PkiError(f"{name!r} is neither a host name nor an IP address")
    return name.lower()


def host_names(extra: Iterable[str] = ()) -> list[str]:
    """Every name and address this host is reached by: localhost, host name, interface addresses, and extra.
    Sorted.
    """
    found = {"localhost", "127.0.0.1", "::1"}
    name = socket.gethostname().lower()
    if HOST_NAME.match(name):
        found.add(name)
    found.update(_interface_addresses())
    return sorted(found | {check_name(n) for n in extra})


def _interface_addresses() -> set[str]:
    """Every address of every interface. IPv4 from the kernel's routing trie, which also has the secondary ones."""
    addresses: set[str] = set()
    try:
        trie = Path("/proc/net/fib_trie").read_text().splitlines()
    except OSError:
        trie = []
    for above, line in itertools.pairwise(trie):
        if line.strip() == "/32 host LOCAL":  # net/ipv4/fib_trie.c, fib_trie_seq_show
            addresses.add(above.split()[-1])
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
        if not address.is_link_local:  # useless without a zone, and browsers don't take one
            addresses.add(str(address))
    return set(sorted(addresses)[:MAX_ADDRESSES])


def ensure_ca(state: StateDir, now: datetime) -> None:
    """Make the CA unless it is there. A key without its certificate (a crash between the two) gets one again."""
    if state.ca_key.exists():
        key = _load_key(state.ca_key)
    elif state.ca_certificate.exists():
        raise PkiError(
            f"{state.ca_certificate} is there, but its key {state.ca_key} is gone. Restore the key from a "
            "backup; or move the certificate away, and every agent and viewer must be enrolled again."
        )
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(state.ca_key, _key_pem(key))
    if not state.ca_certificate.exists():
        write_private(state.ca_certificate, _pem(_ca_certificate(key, now)))
    elif _load_certificate(state.ca_certificate).public_key() != key.public_key():
        raise PkiError(
            f"{state.ca_certificate} and {state.ca_key} don't belong together. Restore both from one backup."
        )


def ensure_server_certificate(state: StateDir, names: Iterable[str], now: datetime) -> bool:
    """Make or renew the server certificate where it is missing, due, or lacks one of names. True = a new one."""
    wanted = {check_name(name) for name in names}
    if not _is_due(state, wanted, now):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _server_certificate(state, key, sorted(wanted), now)
    # The key goes first: between the two writes the pair doesn't match, which _is_due sees after a crash.
    write_private(state.server_key, _key_pem(key))
    write_private(state.server_certificate, _pem(certificate) + state.ca_certificate.read_bytes())
    return True


def _is_due(state: StateDir, wanted: set[str], now: datetime) -> bool:
    try:
        certificate = _load_certificate(state.server_certificate)
        key = _load_key(state.server_key)
        authority = _load_certificate(state.ca_certificate)
    except (OSError, PkiError):
        return True
    if certificate.public_key() != key.public_key() or certificate.issuer != authority.subject:
        return True
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    present = set(alternatives.get_values_for_type(x509.DNSName))
    present |= {str(address) for address in alternatives.get_values_for_type(x509.IPAddress)}
    renewal = certificate.not_valid_before_utc + CLOCK_SKEW + timedelta(days=SERVER_RENEWAL_DAYS)
    return now >= renewal or now < certificate.not_valid_before_utc or not wanted <= present


def expires(certificate: Path) -> datetime:
    """When a certificate file (its first certificate) ends."""
    return _load_certificate(certificate).not_valid_after_utc


def fingerprint(certificate: Path) -> str:
    """SHA-256 of a certificate as AA:BB:…, the form that browsers and openssl show."""
    return _load_certificate(certificate).fingerprint(hashes.SHA256()).hex(":").upper()


def client_context(ca_certificate: Path | None) -> ssl.SSLContext:
    """TLS 1.3 towards a server of ours: only our CA is trusted (None: the host's trust store), names are
    checked.
    """
    context = ssl.create_default_context(cafile=str(ca_certificate) if ca_certificate else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "wirepool"),
            # A name of its own per CA: browsers keep several apart, a new one isn't taken for the old.
            x509.NameAttribute(NameOID.COMMON_NAME, f"wirepool CA {identifier.digest.hex()[:8]}"),
        ]
    )
    return (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    state: StateDir, key: ec.EllipticCurvePrivateKey, names: list[str], now: datetime
) -> x509.Certificate:
    authority = _load_certificate(state.ca_certificate)
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wirepool server")])
    ca_key = _load_key(state.ca_key)
    return (
        _builder(subject, authority.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    start = now.astimezone(UTC).replace(microsecond=0) - CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + CLOCK_SKEW + timedelta(days=days))
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise PkiError(f"{path} isn't a certificate: {error}") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise PkiError(f"{path} isn't a private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{path} isn't an ECDSA key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
