"""What the NATS server itself refuses: the permission table of an agent and of a viewer, subject by subject.

Every refusal is proven twice: the server says so to the client (permissions violation), and the hub, which listens to
everything, sees nothing arrive. A control message shows at the end that the hub was listening all the time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import APIError

from hub.backbone import accounts
from tests.support.nats_backbone import Backbone, backbone, until
from wire import names

SESSION = "a" * 26


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Backbone]:
    async with backbone(tmp_path) as running:
        yield running


AGENT_MUST_NOT_PUBLISH = [
    f"cap.web2.{SESSION}.bulk",
    f"cap.web2.{SESSION}.prio",
    f"cap.web1.{SESSION}.other",
    f"cap.web1.{SESSION}.bulk.more",
    "cap.web1.bulk",
    "hb.web2",
    "rep.web2",
    "hb.web1.more",
    "ctl.web1.ping",
    "ctl.web2.ping",
    "ctl.web2.stop",
    "obs.1",
    "$KV.desired.web1",
    "$KV.desired.web2",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.CAPTURE",
    "$JS.API.STREAM.INFO.KV_desired",
    "$JS.API.STREAM.INFO.PRIORITY",
    "$JS.API.STREAM.PURGE.PRIORITY",
    "$JS.API.STREAM.PURGE.KV_desired",
    "$JS.API.CONSUMER.CREATE.PRIORITY.mine",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.CAPTURE",
    "$JS.API.STREAM.DELETE.CAPTURE",
    "$JS.API.STREAM.PURGE.CAPTURE",
    "$JS.API.STREAM.MSG.GET.CAPTURE",
    "$JS.API.STREAM.MSG.GET.KV_desired",
    "$JS.API.STREAM.MSG.DELETE.CAPTURE",
    "$JS.API.STREAM.SNAPSHOT.CAPTURE",
    "$JS.API.STREAM.RESTORE.CAPTURE",
    "$JS.API.CONSUMER.CREATE.CAPTURE",
    "$JS.API.CONSUMER.CREATE.CAPTURE.mine",
    "$JS.API.CONSUMER.CREATE.KV_desired",
    "$JS.API.CONSUMER.DURABLE.CREATE.CAPTURE.mine",
    "$JS.API.CONSUMER.MSG.NEXT.CAPTURE.ledger-bulk",
    "$JS.API.CONSUMER.LIST.CAPTURE",
    "$JS.API.CONSUMER.DELETE.CAPTURE.ledger-bulk",
    "$JS.API.DIRECT.GET.CAPTURE",
    f"$JS.API.DIRECT.GET.CAPTURE.cap.web1.{SESSION}.bulk",
    "$JS.API.DIRECT.GET.KV_desired",
    "$JS.API.DIRECT.GET.KV_desired.$KV.desired.web2",
    "$JS.ACK.CAPTURE.ledger-bulk.1.1.1.1.1",
    "$JS.FC.CAPTURE.x.y",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.INFO",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.ACCOUNT.PING.CONNZ",
    "$SRV.PING",
    "_INBOX_web2.x",
    "_INBOX_hub.x",
    "_INBOX_web1.x",
    "_INBOX.x",
    "anything",
]
AGENT_MUST_NOT_SUBSCRIBE = [
    ">",
    "*",
    "cap.>",
    "cap.*.*.bulk",
    f"cap.web1.{SESSION}.bulk",
    "cap.web2.>",
    "hb.>",
    "hb.web1",
    "hb.web2",
    "rep.>",
    "rep.web1",
    "rep.web2",
    "ctl.>",
    "ctl.*.ping",
    "ctl.web2.>",
    "ctl.web2.ping",
    "$KV.>",
    "$KV.desired.>",
    "$KV.desired.web1",
    "$KV.desired.web2",
    "$JS.API.>",
    "$JS.EVENT.>",
    "$JS.ACK.>",
    "$SYS.>",
    "$SYS.ACCOUNT.*.CONNECT",
    "_INBOX.>",
    "_INBOX_hub.>",
    "_INBOX_web2.>",
    "_INBOX_web11.>",
    "obs.>",
]
VIEWER_MUST_NOT_SUBSCRIBE = [
    *(subject for subject in AGENT_MUST_NOT_SUBSCRIBE if not subject.startswith("cap.web1")),
    "cap.*.>",
    "cap.web2.*.bulk",
    "cap.web2.*.prio",
    "cap.web10.>",
    "ctl.web1.>",
    "_INBOX_web1.>",
]


class Listener:
    """All that arrives anywhere in the account, as the hub sees it."""

    def __init__(self, hub: Client) -> None:
        self.hub = hub
        self.seen: list[Msg] = []

    async def start(self) -> Listener:
        async def note(message: Msg) -> None:
            self.seen.append(message)

        await self.hub.subscribe(">", cb=note)
        await self.hub.flush()
        return self

    async def subjects(self) -> list[str]:
        """What came so far, up to a marker sent now."""
        marker = f"marker.{len(self.seen)}"
        await self.hub.publish(marker)
        await until(lambda: any(m.subject == marker for m in self.seen))
        return [
            m.subject for m in self.seen if not m.subject.startswith(("marker.", "$JS.EVENT.", "_INBOX_hub."))
        ]


async def refused_publish(bus: Backbone, client: Client, subject: str) -> str | None:
    """None when the server refused the subject; else what was seen instead."""
    bus.errors.clear()
    await client.publish(subject, b"{}")
    await client.flush(timeout=5)
    try:
        await until(lambda: bool(bus.errors), 2)
    except TimeoutError:
        return f"{subject}: no violation reported"
    text = str(bus.errors[0]).lower()
    return (
        None
        if "permissions violation for publish" in text and subject.lower() in text
        else f"{subject}: {text}"
    )


async def refused_subscribe(bus: Backbone, client: Client, subject: str, queue: str = "") -> str | None:
    bus.errors.clear()
    subscription = await client.subscribe(subject, queue=queue)
    await client.flush(timeout=5)
    try:
        await until(lambda: bool(bus.errors), 2)
    except TimeoutError:
        await subscription.unsubscribe()
        return f"{subject}: no violation reported"
    text = str(bus.errors[0]).lower()
    return None if "permissions violation for subscription" in text else f"{subject}: {text}"


async def test_agent_publishes_nothing_but_its_own(bus: Backbone) -> None:
    bus.agent("web2")
    client = await bus.connect_agent(bus.agent("web1"))
    listener = await Listener(await bus.connect_hub()).start()
    wrong = [await refused_publish(bus, client, subject) for subject in AGENT_MUST_NOT_PUBLISH]
    assert [w for w in wrong if w] == []
    assert await listener.subjects() == []
    # The same client, on its own subjects, is heard: the refusals above were not a dead connection.
    allowed = [f"cap.web1.{SESSION}.bulk", f"cap.web1.{SESSION}.prio", "hb.web1", "rep.web1"]
    for subject in allowed:
        await client.publish(subject, b"x")
    await client.flush()
    assert await listener.subjects() == allowed


async def test_agent_requests_are_refused_as_well(bus: Backbone) -> None:
    client = await bus.connect_agent(bus.agent("web1"))
    for subject in ("$JS.API.STREAM.INFO.CAPTURE", "$SYS.REQ.USER.INFO", "ctl.web2.ping"):
        with pytest.raises(NatsTimeout):
            await client.request(subject, b"", timeout=0.2)


async def test_agent_subscribes_nothing_but_its_own(bus: Backbone) -> None:
    client = await bus.connect_agent(bus.agent("web1"))
    wrong = [await refused_subscribe(bus, client, subject) for subject in AGENT_MUST_NOT_SUBSCRIBE]
    wrong += [
        await refused_subscribe(bus, client, subject, "q") for subject in ("cap.>", "ctl.web2.>", "$SYS.>")
    ]
    assert [w for w in wrong if w] == []
    bus.errors.clear()
    await client.subscribe("ctl.web1.>")
    await client.subscribe("_INBOX_web1.>")
    await client.flush()
    assert bus.errors == []


async def test_agent_publishes_to_jetstream_and_reads_its_desired_with_no_other_right(bus: Backbone) -> None:
    web1, web2 = bus.agent("web1"), bus.agent("web2")
    hub = await bus.connect_hub()
    desired = await hub.jetstream().key_value(names.DESIRED_BUCKET)
    await desired.put("web1", b"for web1")
    await desired.put("web2", b"for web2")
    client = await bus.connect_agent(web1)
    acknowledged = await client.jetstream().publish(
        f"cap.web1.{SESSION}.bulk", b"batch", headers={"Nats-Msg-Id": "one"}, timeout=5
    )
    assert (acknowledged.stream, acknowledged.seq) == ("CAPTURE", 1)
    priority = await client.jetstream().publish(f"cap.web1.{SESSION}.prio", b"batch", timeout=5)
    assert priority.stream == "PRIORITY"
    answer = await client.request(names.desired_get_subject("web1"), b"", timeout=5)
    assert answer.data == b"for web1"
    with pytest.raises(NatsTimeout):
        await client.request(names.desired_get_subject("web2"), b"", timeout=0.2)
    # The body of a direct get by subject can't ask for another key.
    sly = await client.request(
        names.desired_get_subject("web1"), b'{"last_by_subj":"$KV.desired.web2"}', timeout=5
    )
    assert b"for web2" not in sly.data
    assert web2.name == "web2"


async def test_agent_answers_a_request_once_and_soon(bus: Backbone) -> None:
    client = await bus.connect_agent(bus.agent("web1"))
    hub = await bus.connect_hub()
    kept: list[Msg] = []

    async def answer(message: Msg) -> None:
        kept.append(message)
        await message.respond(b"pong")

    await client.subscribe("ctl.web1.>", cb=answer)
    await client.flush()
    assert (await hub.request("ctl.web1.ping", b"", timeout=5)).data == b"pong"
    bus.errors.clear()
    await kept[0].respond(b"again")
    await client.flush()
    await until(lambda: bool(bus.errors))
    assert "permissions violation for publish" in str(bus.errors[0]).lower()


async def test_viewer_sees_what_is_granted_and_publishes_nothing(bus: Backbone) -> None:
    web1, web2 = bus.agent("web1"), bus.agent("web2")
    viewer = await bus.connect_viewer("anna", ["web1"])
    listener = await Listener(await bus.connect_hub()).start()
    for subject in (
        *AGENT_MUST_NOT_PUBLISH,
        f"cap.web1.{SESSION}.bulk",
        "hb.web1",
        "_INBOX_v-anna.x",
        names.desired_get_subject("web1"),
    ):
        assert await refused_publish(bus, viewer, subject) is None
    wrong = [await refused_subscribe(bus, viewer, subject) for subject in VIEWER_MUST_NOT_SUBSCRIBE]
    assert [w for w in wrong if w] == []
    assert await listener.subjects() == []

    seen: list[str] = []

    async def note(message: Msg) -> None:
        seen.append(message.subject)

    bus.errors.clear()
    await viewer.subscribe("cap.web1.>", cb=note)
    await viewer.flush()
    for agent in (web2, web1):
        client = await bus.connect_agent(agent)
        await client.publish(f"cap.{agent.name}.{SESSION}.bulk", b"x")
        await client.flush()
    await until(lambda: bool(seen))
    assert seen == [f"cap.web1.{SESSION}.bulk"]
    assert bus.errors == []


async def test_viewer_of_nothing_sees_nothing(bus: Backbone) -> None:
    """An empty allow list means everything to the server: the template never has one."""
    viewer = await bus.connect_viewer("empty", [])
    assert await refused_subscribe(bus, viewer, "cap.web1.>") is None
    assert await refused_subscribe(bus, viewer, ">") is None


async def test_system_user_is_not_of_the_account(bus: Backbone) -> None:
    system = await bus.connect_system()
    hub = await bus.connect_hub()
    heard: list[Msg] = []

    async def note(message: Msg) -> None:
        heard.append(message)

    bus.errors.clear()
    await system.subscribe("cap.>", cb=note)
    await system.flush()
    await until(lambda: bool(bus.errors))
    await hub.publish(f"cap.web1.{SESSION}.bulk", b"x")
    await hub.flush()
    events: list[Msg] = []

    async def event(message: Msg) -> None:
        events.append(message)

    await system.subscribe("$SYS.ACCOUNT.*.CONNECT", cb=event)
    await system.flush()
    await bus.connect_agent(bus.agent("web1"))
    await until(lambda: bool(events))
    assert heard == []


async def test_a_client_can_not_roll_up_expire_or_overfill(bus: Backbone) -> None:
    """Headers that change other messages are refused by the streams; a message above the bound by the server."""
    client = await bus.connect_agent(bus.agent("web1"))
    js = client.jetstream()
    subject = f"cap.web1.{SESSION}.bulk"
    await js.publish(subject, b"first", timeout=5)
    for headers in ({"Nats-Rollup": "all"}, {"Nats-Rollup": "sub"}, {"Nats-TTL": "1s"}):
        with pytest.raises(APIError):
            await js.publish(subject, b"x", headers=headers, timeout=5)
    hub = await bus.connect_hub()
    info = await hub.jetstream().stream_info("CAPTURE")
    assert info.state.messages == 1


def test_the_page_on_security_states_the_templates() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    agent = accounts.agent_permissions("x-agent-x")
    viewer = accounts.viewer_permissions("x-viewer-x", ["x-granted-x"])
    system = accounts.system_permissions()
    subjects = [
        subject
        for permissions in (agent, viewer, system)
        for subject in (*permissions.publish_allow, *permissions.publish_deny, *permissions.subscribe_allow)
    ]
    assert len(subjects) >= 12
    for subject in subjects:
        shown = re.sub(r"x-(\w+)-x", r"<\1>", subject)
        assert f"`{shown}`" in text, shown
    assert agent.responses == 1
    assert f"within {accounts.RESPONSE_TTL_NS // 10**9} s" in text
