"""enroll, viewer and revoke: what they write, what they refuse, and that the server agrees at once."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from hub import cli
from hub.backbone import accounts
from hub.registry import Registry
from tests.support.nats_backbone import Backbone, backbone, until
from wire.enrolment import Enrolment


class Hub:
    """The verbs against a running server."""

    def __init__(self, bus: Backbone, capsys: pytest.CaptureFixture[str], directory: Path) -> None:
        self.bus = bus
        self.capsys = capsys
        self.directory = directory

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """(status, standard output, standard error) of a verb. In a thread: it has an event loop of its own."""
        self.capsys.readouterr()
        status = await asyncio.to_thread(cli.main, [*arguments, "--state", str(self.bus.state.root)])
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def request(self, name: str) -> tuple[Path, str]:
        """A request file with fresh keys, and the user's seed."""
        seed, _, request = self.bus.new_request(name)
        path = self.directory / f"{name}-{seed[-6:]}.json"
        path.write_text(request.to_json())
        return path, seed

    async def enrol(self, name: str, *options: str) -> tuple[Enrolment, str]:
        path, seed = self.request(name)
        status, out, err = await self.run("enroll", str(path), *options)
        assert status == 0, err
        return Enrolment.from_json(out), seed

    async def let_in(self, enrolment: Enrolment, seed: str) -> bool:
        credentials = accounts.credentials_file(enrolment.user_jwt, seed)
        try:
            await self.bus.connect(credentials, enrolment.agent, allow_reconnect=False)
        except NatsError:
            return False
        return True


@pytest.fixture
async def hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Hub]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with backbone(tmp_path, with_streams=False) as bus:
        yield Hub(bus, capsys, tmp_path)


async def test_enroll_admits_and_registers(hub: Hub) -> None:
    enrolment, seed = await hub.enrol("web1", "--label", "Web server one")
    assert await hub.let_in(enrolment, seed)
    assert enrolment.servers == (hub.bus.url,)
    assert enrolment.open_certificate().agent == "web1"
    registry = Registry(hub.bus.state.database)
    record = registry.agents.require("web1")
    key = registry.agents.keys("web1")[0]
    registry.close()
    assert record.label == "Web server one"
    assert record.user_jwt == enrolment.user_jwt
    assert key.certificate == enrolment.certificate
    status, out, _ = await hub.run("enroll", "--list")
    assert status == 0
    assert "web1" in out


async def test_enroll_again_with_the_same_keys_is_the_same_agent(hub: Hub) -> None:
    path, seed = hub.request("web1")
    for _ in range(2):
        status, out, err = await hub.run("enroll", str(path))
        assert status == 0, err
        assert await hub.let_in(Enrolment.from_json(out), seed)


async def test_other_keys_need_replace_which_revokes_the_old(hub: Hub) -> None:
    first, first_seed = await hub.enrol("web1")
    path, second_seed = hub.request("web1")
    status, out, err = await hub.run("enroll", str(path))
    assert status == 1
    assert "--replace" in err
    assert out == ""
    status, out, err = await hub.run("enroll", str(path), "--replace")
    assert status == 0, err
    assert await hub.let_in(Enrolment.from_json(out), second_seed)
    assert not await hub.let_in(first, first_seed)


async def test_revoked_keys_never_come_back(hub: Hub) -> None:
    path, seed = hub.request("web1")
    status, out, _ = await hub.run("enroll", str(path))
    enrolment = Enrolment.from_json(out)
    credentials = accounts.credentials_file(enrolment.user_jwt, seed)
    connection = await hub.bus.connect(credentials, "web1", allow_reconnect=False)
    status, out, err = await hub.run("revoke", "web1", "--reason", "stolen")
    assert status == 0, err
    await until(lambda: connection.is_closed, 5)
    assert not await hub.let_in(enrolment, seed)
    registry = Registry(hub.bus.state.database)
    record = registry.agents.require("web1")
    registry.close()
    assert (record.enabled, record.disabled_reason) == (False, "stolen")
    status, _, err = await hub.run("enroll", str(path))
    assert status == 1
    assert "revoked, for ever" in err
    # The host comes back with new keys.
    renewed, new_seed = await hub.enrol("web1", "--replace")
    assert await hub.let_in(renewed, new_seed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"{}", "kind"),
        (b"\xff\xfe", "not text"),
        (b"[" * 100_000, "not JSON"),
        (b" " * 300_000, "larger than"),
    ],
)
async def test_a_hostile_request_is_a_clear_error(hub: Hub, content: bytes, words: str) -> None:
    path = hub.directory / "request.json"
    path.write_bytes(content)
    status, out, err = await hub.run("enroll", str(path))
    assert (status, out) == (1, "")
    assert words in err
    assert str(path) in err, "which file it is about"
    assert "Traceback" not in err


async def test_a_request_with_another_kind_of_key_is_refused(hub: Hub) -> None:
    path, _ = hub.request("web1")
    document = json.loads(path.read_text())
    document["user_public"] = document["user_public"][:-1] + (
        "A" if document["user_public"][-1] != "A" else "B"
    )
    path.write_text(json.dumps(document))
    status, _, err = await hub.run("enroll", str(path))
    assert status == 1
    assert "checksum" in err
    status, _, err = await hub.run("enroll", str(hub.directory / "nowhere.json"))
    assert status == 1
    assert "No such file" in err


async def test_server_option_and_output_file(hub: Hub) -> None:
    path, _ = hub.request("web1")
    target = hub.directory / "answer.json"
    for text, url in (
        ("hub.example.org", f"tls://hub.example.org:{hub.bus.port}"),
        ("192.0.2.1:99", "tls://192.0.2.1:99"),
        ("tls://[2001:db8::1]:99", "tls://[2001:db8::1]:99"),
        ("2001:db8::1", f"tls://[2001:db8::1]:{hub.bus.port}"),
    ):
        status, out, err = await hub.run("enroll", str(path), "-o", str(target), "--server", text)
        assert (status, out) == (0, ""), err
        assert Enrolment.from_json(target.read_text()).servers == (url,)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600


async def test_viewer_files_and_grants(hub: Hub) -> None:
    for name in ("web1", "web2"):
        await hub.enrol(name)
    status, out, err = await hub.run("viewer", "anna", "--agents", "web1,web2")
    assert status == 0, err
    credentials = hub.bus.state.viewer_credentials("anna")
    context = hub.directory / "config/nats/context/wirepool-anna.json"
    for path in (credentials, context):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(context.read_text())
    assert document["url"] == hub.bus.url
    assert document["tls_first"] is True
    assert document["inbox_prefix"] == "_INBOX_v-anna"
    assert re.search(r"--translate '\S*wirepool decode'\n", out)
    assert re.search(r"--raw \| \S*wirepool decode --pcapng - \| tshark -r -\n", out)
    before = credentials.read_bytes()
    viewer = await hub.bus.connect(credentials, "v-anna", allow_reconnect=False)
    await viewer.subscribe("cap.web2.>")
    await viewer.flush()
    # Fewer rights hold at once: who is connected with the old ones is dropped, and they don't work again.
    status, _, err = await hub.run("viewer", "anna", "--agents", "web1")
    assert status == 0, err
    await until(lambda: viewer.is_closed, 5)
    with pytest.raises(NatsError):
        await hub.bus.connect(before, "v-anna", allow_reconnect=False)
    viewer = await hub.bus.connect(credentials, "v-anna", allow_reconnect=False)
    hub.bus.errors.clear()
    await viewer.subscribe("cap.web2.>")
    await viewer.flush()
    await until(lambda: bool(hub.bus.errors))
    status, out, _ = await hub.run("viewer", "--list")
    assert (status, out.split()) == (0, ["anna", "web1"])


async def test_viewer_revoked(hub: Hub) -> None:
    await hub.enrol("web1")
    assert (await hub.run("viewer", "anna", "--agents", "web1"))[0] == 0
    connection = await hub.bus.connect(
        hub.bus.state.viewer_credentials("anna"), "v-anna", allow_reconnect=False
    )
    assert (await hub.run("revoke", "--viewer", "anna"))[0] == 0
    await until(lambda: connection.is_closed, 5)
    status, _, err = await hub.run("revoke", "--viewer", "bob")
    assert status == 1
    assert "known: anna" in err
    # The name can be given again: with a new key.
    assert (await hub.run("viewer", "anna", "--agents", "web1"))[0] == 0
    await hub.bus.connect(hub.bus.state.viewer_credentials("anna"), "v-anna", allow_reconnect=False)


@pytest.mark.parametrize("name", ["Anna", "../evil", "a b", "a" * 49, "a" * 47, ""])
async def test_hostile_viewer_names(hub: Hub, name: str) -> None:
    await hub.enrol("web1")
    status, _, err = await hub.run("viewer", name, "--agents", "web1")
    assert status in (1, 2)
    assert err
    assert "Traceback" not in err
    assert list(hub.bus.state.viewers.iterdir()) == []


async def test_verbs_without_a_hub_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["enroll", "x"],
        ["viewer", "a", "--agents", "b"],
        ["revoke", "a"],
        ["import", "x", "--as", "y"],
    ):
        assert await asyncio.to_thread(cli.main, [*arguments, "--state", str(tmp_path / "none")]) == 1
        assert "wirepool up" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", ["up", "init", "enroll", "viewer", "revoke", "import"])
def test_help_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"wirepool {verb}" in text


async def test_init_twice_and_the_password_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def init(*options: str) -> tuple[int, str, str]:
        status = cli.main(["init", "--state", str(tmp_path / "state"), *options])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    status, out, _ = init("--budget", "300M", "--reachable-as", "hub.example.org")
    assert status == 0
    assert "one-time password" in out
    assert "300.0 MiB" in out
    assert "hub key                SHA256:" in out, "what `verify` shows can be compared"
    status, out, err = init()
    assert status == 0
    assert "one-time password" not in out
    assert "nothing was replaced" in err
    assert "one-time password" in init("--reset-password")[1]
    for options in (
        ["--reachable-as", "no good"],
        ["--nats-url", "nats://x"],
        ["--nats-creds", "/none"],
        ["--nats-account", "A1"],
    ):
        status, _, err = init(*options)
        assert status == 1, options
        assert err.startswith("wirepool: ")
