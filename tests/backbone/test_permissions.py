"""What the NATS server itself refuses: the permission table of an agent and of a viewer, subject by subject."""

from pathlib import Path

from tests.support.nats_backbone import backbone


async def test_backbone(tmp_path: Path) -> None:
    async with backbone(tmp_path) as bus:
        web1 = bus.agent("web1")
        nc = await bus.connect_agent(web1)
        js = nc.jetstream()
        ack = await js.publish("cap.web1.aaaaaaaaaaaaaaaaaaaaaaaaaa.bulk", b"x", timeout=2)
        assert ack.stream == "CAPTURE"
