"""Signed envelopes and what they carry."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.wire import make
from tests.wire.make_vectors import certificate
from wire.control import Domain, open_certificate, seal, seal_certificate, unseal
from wire.enrolment import Enrolment, EnrolmentRequest
from wire.errors import WireError
from wire.session import Desired, Replay, SessionSpec

NOW = make.START_NS
SECOND = 10**9
HUB = make.HUB_KEY.public


def sealed(domain: Domain = Domain.CONTROL, **changes: Any) -> bytes:
    """A sound request, with changes."""
    options: dict[str, Any] = {
        "agent": "web1",
        "body": {"verb": "ping"},
        "key": make.HUB_KEY,
        "issued_ns": NOW,
        "expires_ns": NOW + 5 * SECOND,
        "nonce": bytes(16),
    }
    return seal(domain, **(options | changes))


def opened(message: bytes, domain: Domain = Domain.CONTROL, **changes: Any) -> Any:
    """It as the agent reads it."""
    options: dict[str, Any] = {"public": HUB, "agent": "web1", "now_ns": NOW}
    return unseal(message, domain, **(options | changes))


def test_an_envelope_comes_back() -> None:
    envelope = opened(sealed())
    assert (envelope.agent, envelope.body, envelope.nonce) == ("web1", {"verb": "ping"}, bytes(16))


@pytest.mark.parametrize("other", [domain for domain in Domain if domain is not Domain.CONTROL])
def test_made_for_one_purpose_it_serves_no_other(other: Domain) -> None:
    with pytest.raises(WireError, match="signature"):
        opened(sealed(), other)
    with pytest.raises(WireError, match="signature"):
        opened(sealed(other))


@pytest.mark.parametrize(
    ("message", "changes", "why"),
    [
        (sealed(), {"agent": "web2"}, "web2"),
        (sealed(), {"public": make.OTHER_KEY.public}, "signature"),
        (sealed(), {"now_ns": NOW + 5 * SECOND}, "expired"),
        (sealed(), {"now_ns": NOW - 301 * SECOND}, "future"),
        (sealed(), {"max_bytes": 100}, "at most"),
        (sealed(nonce=None), {}, "nonce"),
        (sealed(nonce=b"short"), {}, "nonce"),
        (sealed(nonce=bytes(33)), {}, "nonce"),
        (sealed(expires_ns=None), {}, "expiry"),
        (sealed(body=[]), {}, "body"),
        (sealed(issued_ns=-1), {}, "issued_ns"),
        (sealed(issued_ns="now"), {}, "issued_ns"),
        (sealed(body={"x": [[[[[[[1]]]]]]]}), {}, "deeper"),
        (sealed(body={"x": [0] * 40_000}), {}, "items"),
        (sealed(body={"x": 2**64}), {}, "tag"),
        (sealed(body={"x": float("nan")}), {}, "finite"),
    ],
)
def test_what_is_refused(message: bytes, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(WireError, match=why):
        opened(message, **changes)


def test_every_truncation_and_every_flipped_bit_is_refused() -> None:
    message = sealed()
    for length in range(len(message)):
        with pytest.raises(WireError):
            opened(message[:length])
    for position in range(len(message) * 8):
        altered = bytearray(message)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(WireError):
            opened(bytes(altered))
    with pytest.raises(WireError):
        opened(message + b"\0")


def test_an_envelope_too_large_for_any_reader_is_not_made() -> None:
    with pytest.raises(ValueError, match="at most"):
        sealed(body={"x": bytes(300_000)})
    with pytest.raises(WireError):
        sealed(agent="Web 1")


def test_certificates() -> None:
    found = open_certificate(certificate(), hub_public=HUB)
    assert (found.agent, found.signing_public) == ("web1", make.AGENT_KEY.public)
    with pytest.raises(WireError, match="signature"):
        open_certificate(certificate(), hub_public=make.OTHER_KEY.public)
    backwards = seal_certificate(
        "web1", make.AGENT_KEY.public, not_before_ns=9, not_after_ns=9, issued_ns=0, key=make.HUB_KEY
    )
    with pytest.raises(WireError, match="ends before"):
        open_certificate(backwards, hub_public=HUB)


SPEC = SessionSpec(id=make.SESSION, interface="eth0", filter="tcp")


def test_a_session_comes_back() -> None:
    replay = SessionSpec(
        id="b" * 26, source="replay", replay=Replay("x.pcap", 0.0), max_duration_s=1.5, max_bytes=1
    )
    for spec in (SPEC, replay):
        assert SessionSpec.from_map(spec.to_map()) == spec
        assert SessionSpec.from_map(spec.to_map() | {"tomorrow": 1}) == spec
    rules = replace(SPEC, flow_cutoff_bytes=4096, flow_sampling=10)
    assert SessionSpec.from_map(rules.to_map()) == rules


def test_a_session_of_an_older_hub_keeps_every_flow_whole() -> None:
    older = {name: value for name, value in SPEC.to_map().items() if not name.startswith("flow_")}
    assert SessionSpec.from_map(older) == SPEC


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x"},
        {"state": "dancing"},
        {"source": "ebpf"},
        {"source": "replay"},
        {"replay": {"file": "x"}},
        {"interface": ""},
        {"interface": "x" * 129},
        {"interface": None},
        {"filter": "x" * 16385},
        {"filter": None},
        {"filter": "a\0b"},
        {"filter_revision": 0},
        {"snaplen": 0},
        {"snaplen": 262145},
        {"flow_cutoff_bytes": 0},
        {"flow_cutoff_bytes": 2**53 + 1},
        {"flow_sampling": 0},
        {"flow_sampling": 65537},
        {"flow_sampling": "2"},
        {"promiscuous": 1},
        {"overflow": "explode"},
        {"max_duration_s": 0},
        {"max_duration_s": -1.0},
        {"max_bytes": 0},
        {"max_packets": 1.5},
        {"retention_s": -1},
        {"exclude_own_traffic": None},
        {"created_ns": 2**63},
    ],
)
def test_sessions_that_break_a_bound(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=next(iter(changes))):
        SessionSpec.from_map(SPEC.to_map() | changes)


def test_a_filter_over_several_lines_is_one_filter() -> None:
    assert SessionSpec.from_map(SPEC.to_map() | {"filter": "tcp\n\tport 80"}).filter == "tcp  port 80"


def test_desired_declares_a_session_once() -> None:
    desired = Desired(revision=1, sessions=(SPEC,), own_traffic=(("::1", 0),))
    assert Desired.from_map(desired.to_map()) == desired
    broken: tuple[dict[str, Any], ...] = (
        {"sessions": [SPEC.to_map()] * 2},
        {"sessions": [{}] * 65},
        {"sessions": [1]},
        {"own_traffic": [["::1"]]},
        {"own_traffic": [["::1", 65536]]},
        {"own_traffic": {}},
        {"revision": -1},
        {"user_jwt": "x" * 16385},
    )
    for changes in broken:
        with pytest.raises(WireError):
            Desired.from_map(desired.to_map() | changes)


PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def enrolment() -> Enrolment:
    """A sound answer."""
    return Enrolment(
        agent="web1",
        servers=("tls://hub.example:4222",),
        ca_pem=PEM,
        hub_public=HUB,
        user_jwt="ey",
        certificate=certificate(),
    )


def test_enrolments_come_back() -> None:
    asked = EnrolmentRequest(
        agent="web1",
        user_public="U" + "A" * 55,
        signing_public=make.AGENT_KEY.public,
        hostname="web1.example",
    )
    assert EnrolmentRequest.from_json(asked.to_json()) == asked
    assert Enrolment.from_json(enrolment().to_json()) == enrolment()
    with pytest.raises(WireError, match="kind"):
        Enrolment.from_json(asked.to_json())


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "web2"},
        {"servers": []},
        {"servers": "tls://x"},
        {"ca_pem": "x"},
        {"ca_pem": PEM + "-----BEGIN PRIVATE KEY-----"},
        {"hub_public": "AAAA"},
        {"hub_public": "!"},
        {"user_jwt": ""},
        {"certificate": "AAAA"},
        {"kind": 1},
    ],
)
def test_enrolments_that_do_not_hold(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        Enrolment.from_json(json.dumps(json.loads(enrolment().to_json()) | changes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{" * 100_000,
        '{"kind":1,"kind":1}',
        '{"x":NaN}',
        b"\xff\xfe",
        "9" * 5000,
        "x" * 200_000,
    ],
)
def test_what_is_no_enrolment(text: str | bytes) -> None:
    with pytest.raises(WireError):
        Enrolment.from_json(text)
    with pytest.raises(WireError):
        EnrolmentRequest.from_json(text)
