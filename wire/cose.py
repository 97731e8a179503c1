"""COSE_Sign1 (RFC 9052, section 4.2) with EdDSA over exact bytes.

Only one shape exists: tag 18, protected header {1: -8} (alg: EdDSA), empty unprotected header, payload and signature
embedded. So a message is these bytes, and a reader compares instead of parsing:

    D2            tag 18
    84            array of 4
    43 A1 01 27   protected: bstr of {1: -8}
    A0            unprotected: {}
    bstr          payload, never re-encoded
    58 40 + 64    signature

What is signed is the Sig_structure ["Signature1", protected, external_aad, payload]. The external_aad is the
*domain*, a text such as "wirepool/1/batch": a signature made for one purpose can't be shown for another.
"""

from wire.errors import WireError
from wire.keys import SIGNATURE_BYTES, SigningKey, verify
from wire.strict_cbor import MAJOR_BYTES, encode_head, read_head

PREFIX = bytes.fromhex("d28443a10127a0")
_SIGNATURE_HEAD = encode_head(MAJOR_BYTES, SIGNATURE_BYTES)
_SIG_STRUCTURE = b"\x84\x6aSignature1\x43\xa1\x01\x27"


def sign1(payload: bytes, *, domain: str, key: SigningKey) -> bytes:
    """Sign `payload` for `domain`: a whole COSE_Sign1 message."""
    signature = key.sign(_to_be_signed(payload, domain))
    return b"".join((PREFIX, encode_head(MAJOR_BYTES, len(payload)), payload, _SIGNATURE_HEAD, signature))


def span1(message: bytes | memoryview, offset: int, end: int) -> tuple[int, int, int]:
    """Find the parts of the COSE_Sign1 at `offset`: (payload begins, payload ends = signature head begins, end).

    WireError when it is another shape or cut off. Nothing is copied or verified.
    """
    if bytes(message[offset : min(end, offset + len(PREFIX))]) != PREFIX:
        raise WireError(f"no COSE_Sign1 with EdDSA at byte {offset}")
    major, length, begin = read_head(message, offset + len(PREFIX), end)
    if major != MAJOR_BYTES:
        raise WireError(f"COSE_Sign1 at byte {offset}: the payload isn't a byte string")
    behind = begin + length + len(_SIGNATURE_HEAD) + SIGNATURE_BYTES
    if behind > end:
        raise WireError(f"COSE_Sign1 at byte {offset}: cut off")
    signature_head = begin + length
    if bytes(message[signature_head : signature_head + len(_SIGNATURE_HEAD)]) != _SIGNATURE_HEAD:
        raise WireError(f"COSE_Sign1 at byte {offset}: no 64-byte signature")
    return begin, signature_head, behind


def payload_of(message: bytes) -> bytes:
    """The payload, parsed but NOT verified. WireError when `message` isn't exactly one COSE_Sign1."""
    begin, end, behind = span1(message, 0, len(message))
    if behind != len(message):
        raise WireError(f"{len(message) - behind} bytes left over behind the COSE_Sign1")
    return bytes(message[begin:end])


def open1(message: bytes, *, domain: str, public: bytes) -> bytes:
    """The payload, when `public` signed it for `domain`. WireError otherwise."""
    payload = payload_of(message)
    check_signature(payload, bytes(message[-SIGNATURE_BYTES:]), domain=domain, public=public)
    return payload


def check_signature(payload: bytes, signature: bytes, *, domain: str, public: bytes) -> None:
    """WireError unless `signature` is `public`'s over `payload` for `domain`."""
    if not verify(public, _to_be_signed(payload, domain), signature):
        raise WireError(
            f"the signature for {domain} is wrong: another key, another purpose, or altered bytes"
        )


def _to_be_signed(payload: bytes, domain: str) -> bytes:
    aad = domain.encode("ascii")
    return b"".join(
        (
            _SIG_STRUCTURE,
            encode_head(MAJOR_BYTES, len(aad)),
            aad,
            encode_head(MAJOR_BYTES, len(payload)),
            payload,
        )
    )
