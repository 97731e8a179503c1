"""The payload policy as people type it, on the start form and on a session's own."""

from typing import Any

from wire.errors import WireError
from wire.payload import MAX_KEEP_BYTES, POLICIES, PayloadPolicy, parse_ports, ports_text

PAYLOAD_FIELDS = ("payload_policy", "payload_keep_bytes", "payload_ports_without")


def read_payload(policy: str, keep_text: str, ports: str) -> PayloadPolicy:
    """The policy that three fields say. WireError with a sentence for whoever filled them in."""
    if policy not in POLICIES:
        raise WireError("Payload: choose one of the list.")
    if policy != "masked":
        return PayloadPolicy(policy)  # type: ignore[arg-type]
    keep_bytes = None
    if keep_text:
        if not keep_text.isascii() or not keep_text.isdigit() or int(keep_text[:8]) > MAX_KEEP_BYTES:
            raise WireError(f"Bytes of payload to keep: a whole number from 0 to {MAX_KEEP_BYTES}, or empty.")
        keep_bytes = int(keep_text)
    ranges = parse_ports(ports)
    if keep_bytes is None and not ranges:
        raise WireError("Payload: say how many bytes of it to keep, or on which ports to keep none.")
    return PayloadPolicy("masked", keep_bytes, ranges)


def payload_texts(policy: PayloadPolicy) -> dict[str, Any]:
    """The reverse: the fields' values by their names."""
    keep = "" if policy.keep_bytes is None else str(policy.keep_bytes)
    return dict(zip(PAYLOAD_FIELDS, (policy.policy, keep, ports_text(policy.ports_without)), strict=True))
