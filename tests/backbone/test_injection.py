"""What the server's permissions do not stop, and what does: signatures, checked against the subject.

The server judges the subject of a message and never its reply subject, to which it then publishes itself. So an agent
can make the server write a PubAck anywhere. It also remembers message ids per stream, not per sender. These tests show
both on the real server, then that the receivers refuse what comes of it.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import APIError

from hub.ledger.booking import Booking, Incoming
from hub.registry import Registry
from tests.support.nats_backbone import AgentKeys, Backbone, backbone, until
from wire import names
from wire.batch import NO_HASH, Body, Kind, open_batch, seal_batch
from wire.body import Columns, encode_body
from wire.books import Books
from wire.clock import Clock
from wire.control import Domain, seal, unseal
from wire.errors import WireError
from wire.keys import SigningKey

SESSION = "b" * 26
SUBJECT_OF_2 = f"cap.web2.{SESSION}.bulk"
OWN_SUBJECT = f"cap.web1.{SESSION}.bulk"


def batch(agent: str, key: SigningKey, boot: bytes, sequence: int = 0) -> bytes:
    """One signed batch of one packet of 60 bytes."""
    now_ns = time.time_ns()
    columns = Columns(
        struct.pack("<Q", now_ns),
        struct.pack("<I", 60),
        struct.pack("<I", 60),
        struct.pack("<H", 0),
        bytes(60),
    )
    fields = {
        "kind": Kind.PACKETS,
        "agent": agent,
        "session": SESSION,
        "lane": names.Lane.BULK,
        "boot": boot,
        "sequence": sequence,
        "previous": NO_HASH,
        "first_timestamp_ns": now_ns,
        "last_timestamp_ns": now_ns,
        "packets": 1,
        "captured_bytes": 60,
        "original_bytes": 60,
        "link_type": 1,
        "interface": "eth0",
        "filter_revision": 1,
        "snaplen": 262144,
        "clock": Clock(),
        "books": Books(),
    }
    return seal_batch(fields, Body.of(encode_body(columns)), key)[0]


class Scene:
    """Two enrolled agents, of which web1 is hostile, the hub, and the hub's booking on a real registry."""

    def __init__(
        self, bus: Backbone, web1: AgentKeys, web2: AgentKeys, clients: list[Client], registry: Registry
    ) -> None:
        self.bus, self.web1, self.web2, self.registry = bus, web1, web2, registry
        self.hub, self.client1, self.client2 = clients
        self.booking = Booking(registry)

    async def stored(self, stream: str = "CAPTURE") -> list[Incoming]:
        """All that a stream holds."""
        js = self.hub.jetstream()
        state = (await js.stream_info(stream)).state
        found = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await js.get_msg(stream, sequence)
            found.append(
                Incoming(message.subject or "", message.data or b"", stream, sequence, 1, time.time_ns())
            )
        return found

    def quarantined(self) -> list[tuple[str, str]]:
        rows = self.registry.connection.execute("SELECT subject, reason FROM quarantine ORDER BY id")
        return [(row["subject"], row["reason"]) for row in rows]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with backbone(tmp_path) as bus:
        web1, web2 = bus.agent("web1"), bus.agent("web2")
        registry = Registry(bus.state.database)
        for agent in (web1, web2):
            registry.agents.add(
                agent.name, user_public=agent.request.user_public, signing_public=agent.request.signing_public
            )
        clients = [await bus.connect_hub(), await bus.connect_agent(web1), await bus.connect_agent(web2)]
        try:
            yield Scene(bus, web1, web2, clients, registry)
        finally:
            registry.close()


async def test_reply_into_anothers_captures_is_stored_by_the_server_and_refused_by_the_ledger(
    scene: Scene,
) -> None:
    boot = os.urandom(16)
    honest = batch("web1", scene.web1.signing, boot)
    await scene.client1.publish(OWN_SUBJECT, honest, reply=SUBJECT_OF_2)
    await scene.client1.flush()

    async def both() -> bool:
        return (await scene.hub.jetstream().stream_info("CAPTURE")).state.messages == 2

    await until(both)
    stored = await scene.stored()
    # The server's own acknowledgement now stands in the archive as if web2 had captured it.
    assert [one.subject for one in stored] == [OWN_SUBJECT, SUBJECT_OF_2]
    assert json.loads(stored[1].data)["stream"] == "CAPTURE"
    verdicts, booked = scene.booking.book(stored)
    assert verdicts == ["ack", "term"]
    assert [agent for agent, _ in booked] == ["web1"]
    assert [subject for subject, _ in scene.quarantined()] == [SUBJECT_OF_2]


async def test_anothers_batch_under_ones_own_subject_is_refused(scene: Scene) -> None:
    stolen = batch("web2", scene.web2.signing, os.urandom(16))
    forged = batch("web2", scene.web1.signing, os.urandom(16))
    js = scene.client1.jetstream()
    for message in (stolen, forged):
        await js.publish(OWN_SUBJECT, message, timeout=5)
    verdicts, booked = scene.booking.book(await scene.stored())
    assert (verdicts, booked) == (["term", "term"], [])
    # Seen by a reader that trusts the signature alone the first would pass: it's web2's own. The subject tells.
    assert open_batch(stolen, public=scene.web2.signing.public).header.agent == "web2"
    with pytest.raises(WireError):
        open_batch(forged, public=scene.web2.signing.public)


async def test_reply_to_anothers_control_subject_arrives_and_is_no_order(scene: Scene) -> None:
    heard: list[Msg] = []

    async def note(message: Msg) -> None:
        heard.append(message)

    await scene.client2.subscribe("ctl.web2.>", cb=note)
    await scene.client2.flush()
    await scene.client1.publish(OWN_SUBJECT, b"x", reply="ctl.web2.stop")
    await until(lambda: bool(heard))
    hub_public = scene.web2.enrolment.hub_public
    with pytest.raises(WireError):
        unseal(heard[0].data, Domain.CONTROL, public=hub_public, agent="web2", now_ns=time.time_ns())
    # Nor is a real order of the hub to web1, repeated towards web2, or one signed by web1.
    order = seal(
        Domain.CONTROL,
        agent="web1",
        body={},
        key=scene.web1.signing,
        issued_ns=time.time_ns(),
        nonce=bytes(16),
    )
    with pytest.raises(WireError):
        unseal(order, Domain.CONTROL, public=hub_public, agent="web2", now_ns=time.time_ns())


async def test_reply_into_anothers_desired_state_is_stored_and_not_believed(scene: Scene) -> None:
    desired = await scene.hub.jetstream().key_value(names.DESIRED_BUCKET)
    await desired.put("web2", b"signed by the hub")
    await scene.client1.publish(OWN_SUBJECT, b"x", reply="$KV.desired.web2")
    await scene.client1.flush()

    async def overwritten() -> bool:
        return (
            await scene.client2.request(names.desired_get_subject("web2"), b"", timeout=5)
        ).data != b"signed by the hub"

    await until(overwritten)
    answer = await scene.client2.request(names.desired_get_subject("web2"), b"", timeout=5)
    with pytest.raises(WireError):
        unseal(
            answer.data,
            Domain.DESIRED,
            public=scene.web2.enrolment.hub_public,
            agent="web2",
            now_ns=time.time_ns(),
        )


async def test_a_rollup_header_wipes_nothing(scene: Scene) -> None:
    desired = await scene.hub.jetstream().key_value(names.DESIRED_BUCKET)
    for agent in ("web1", "web2"):
        await desired.put(agent, b"kept")
    # On its own captures the stream refuses the header; by reply injection the header doesn't travel.
    with pytest.raises(APIError):
        await scene.client1.jetstream().publish(OWN_SUBJECT, b"x", headers={"Nats-Rollup": "all"}, timeout=5)
    await scene.client1.publish(OWN_SUBJECT, b"x", reply="$KV.desired.web1", headers={"Nats-Rollup": "all"})
    await scene.client1.flush()
    await scene.hub.flush()
    entry = await desired.get("web2")
    assert entry.value == b"kept"


async def test_replies_into_the_jetstream_api_and_acknowledgements_change_nothing(scene: Scene) -> None:
    js = scene.hub.jetstream()
    await js.publish(SUBJECT_OF_2, b"kept")
    consumer = await js.pull_subscribe("cap.*.*.bulk", durable="ledger-bulk", stream="CAPTURE")
    before = (await js.stream_info("CAPTURE")).state.messages
    targets = [
        "$JS.API.STREAM.PURGE.CAPTURE",
        "$JS.API.STREAM.DELETE.CAPTURE",
        "$JS.API.STREAM.DELETE.KV_desired",
        "$JS.API.STREAM.UPDATE.CAPTURE",
        "$JS.API.CONSUMER.DELETE.CAPTURE.ledger-bulk",
        "$SYS.REQ.CLAIMS.UPDATE",
    ]
    for target in targets:
        await scene.client1.publish(OWN_SUBJECT, b"x", reply=target)
    await scene.client1.flush()

    async def arrived() -> bool:
        return (await js.stream_info("CAPTURE")).state.messages == before + len(targets)

    await until(arrived)
    # An acknowledgement as reply is the one thing the server refuses by itself.
    scene.bus.errors.clear()
    await scene.client1.publish(OWN_SUBJECT, b"x", reply="$JS.ACK.CAPTURE.ledger-bulk.1.1.1.1.0")
    await scene.client1.flush()
    await until(lambda: "violation for publish with reply" in "".join(map(str, scene.bus.errors)).lower())
    info = await consumer.consumer_info()
    assert info.ack_floor is not None
    assert (info.ack_floor.stream_seq, info.num_pending) == (0, before + len(targets))
    assert (await js.stream_info("KV_desired")).config.name == "KV_desired"


async def test_a_used_message_id_swallows_anothers_batch_and_the_duplicate_flag_gives_it_away(
    scene: Scene,
) -> None:
    boot = os.urandom(16)
    ids = {"Nats-Msg-Id": names.message_id(boot, SESSION, names.Lane.BULK, 0)}
    await scene.client1.jetstream().publish(OWN_SUBJECT, b"poison", headers=ids, timeout=5)
    honest = batch("web2", scene.web2.signing, boot)
    answer = await scene.client2.jetstream().publish(SUBJECT_OF_2, honest, headers=ids, timeout=5)
    # "Acknowledged", yet it isn't there: a first attempt that is called a duplicate is an alarm.
    assert answer.duplicate
    assert SUBJECT_OF_2 not in [one.subject for one in await scene.stored()]
    again = {"Nats-Msg-Id": names.message_id(boot, SESSION, names.Lane.BULK, 0, attempt=1)}
    answer = await scene.client2.jetstream().publish(SUBJECT_OF_2, honest, headers=again, timeout=5)
    assert not answer.duplicate
    verdicts, booked = scene.booking.book(await scene.stored())
    assert (verdicts, [agent for agent, _ in booked]) == (["term", "ack"], ["web2"])


async def test_a_request_to_an_agent_lets_it_answer_its_own_requester_only(scene: Scene) -> None:
    """allow_responses opens the reply subject of a request it received: what web1 chooses as reply isn't received by
    it.
    """
    heard: list[Msg] = []

    async def note(message: Msg) -> None:
        heard.append(message)

    await scene.client1.subscribe("ctl.web1.>", cb=note)
    await scene.client1.flush()
    with pytest.raises(NatsTimeout):
        await scene.hub.request("ctl.web1.ping", b"", timeout=0.2)
    scene.bus.errors.clear()
    await scene.client1.publish("_INBOX_hub.guess", b"x")
    await scene.client1.flush()
    await until(lambda: bool(scene.bus.errors))
    assert len(heard) == 1


async def test_a_full_stream_refuses_and_keeps_what_it_has(scene: Scene) -> None:
    """The archive full: every publish is refused with the server's own reason, and nothing that was stored is lost."""
    js = scene.hub.jetstream()
    config = (await js.stream_info("PRIORITY")).config
    subject = f"cap.web1.{SESSION}.prio"
    stored = 0
    with pytest.raises(APIError) as refusal:  # noqa: PT012 - one of many is refused
        for _ in range(200):
            await scene.client1.jetstream().publish(subject, bytes(900_000), timeout=5)
            stored += 1
    assert refusal.value.code == 503
    assert refusal.value.err_code in (10077, 10023)
    state = (await js.stream_info("PRIORITY")).state
    assert state.messages == stored > 0
    assert config.max_bytes is not None
    assert state.bytes <= config.max_bytes
    # The bulk lane has a budget of its own.
    await scene.client1.jetstream().publish(OWN_SUBJECT, b"x", timeout=5)
