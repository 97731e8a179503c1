"""The server's own door: TLS 1.3 only, nothing before the handshake, and only identities that our account signed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest

from hub.backbone import accounts, enrolment, first_start, pki, revocation, system_account
from hub.backbone.renewal import renew_if_due
from hub.backbone.state import StateDir
from tests.support.nats_backbone import AgentKeys, Backbone, backbone, until
from tests.support.need import need

DAY_S = 86_400
NO_RECONNECT = {"allow_reconnect": False, "connect_timeout": 5}


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Backbone]:
    async with backbone(tmp_path, with_streams=False) as running:
        yield running


def handshake(bus: Backbone, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", bus.port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        return secure.version()


async def test_only_tls_1_3(bus: Backbone) -> None:
    context = pki.client_context(bus.state.ca_certificate)
    assert handshake(bus, context) == "TLSv1.3"
    old = ssl.create_default_context(cafile=str(bus.state.ca_certificate))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(bus, old)


async def test_another_authority_is_not_trusted(bus: Backbone) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(bus, ssl.create_default_context())


async def test_plain_text_is_refused_and_no_word_is_said_before_the_handshake(bus: Backbone) -> None:
    with socket.create_connection(("127.0.0.1", bus.port), timeout=1) as raw:
        with pytest.raises(TimeoutError):
            raw.recv(1)  # a NATS server without handshake_first sends its INFO line at once
        raw.settimeout(10)
        raw.sendall(b'CONNECT {"verbose":true}\r\nPING\r\n')
        answer = b""
        try:
            while chunk := raw.recv(4096):
                answer += chunk
        except ConnectionError:
            pass
    assert b"INFO" not in answer
    assert b"PONG" not in answer


async def refused(bus: Backbone, credentials: bytes) -> bool:
    try:
        await bus.connect(credentials, "web1", **NO_RECONNECT)
    except nats.errors.Error as error:
        return "authorization violation" in str(error).lower()
    return False


def jwt_for(bus: Backbone, agent: AgentKeys, issuer: str, **changes: int) -> bytes:
    now_s = int(time.time())
    times = {"issued_s": now_s, "expires_s": now_s + 100} | changes
    account = first_start.account_public(bus.state)
    token = accounts.user_jwt(
        issuer, account, agent.request.user_public, agent.name, accounts.hub_permissions(), **times
    )
    return accounts.credentials_file(token, agent.user_seed)


async def test_forged_expired_and_stolen_identities(bus: Backbone) -> None:
    web1 = bus.agent("web1")
    now_s = int(time.time())
    signing = first_start.read_seed(bus.state.signing_key)
    assert await refused(bus, jwt_for(bus, web1, accounts.new_seed(accounts.KeyKind.ACCOUNT)))
    assert await refused(bus, jwt_for(bus, web1, signing, issued_s=now_s - 200, expires_s=now_s - 100))
    # Another account's own key signs for our account: the operator never vouched for that.
    assert await refused(bus, jwt_for(bus, web1, first_start.read_seed(bus.state.system_key)))
    # A stolen JWT without its private key.
    other = accounts.new_seed(accounts.KeyKind.USER)
    assert await refused(bus, accounts.credentials_file(web1.enrolment.user_jwt, other))
    # Claims widened, the signature kept.
    head, body, signature = web1.enrolment.user_jwt.split(".")
    _, foreign_body, _ = accounts.parse_credentials(bus.state.hub_credentials.read_bytes())[0].split(".")
    assert await refused(bus, accounts.credentials_file(f"{head}.{foreign_body}.{signature}", web1.user_seed))
    # An account of one's own making, under an operator of one's own.
    operator, account = (
        accounts.new_seed(accounts.KeyKind.OPERATOR),
        accounts.new_seed(accounts.KeyKind.ACCOUNT),
    )
    forged = accounts.user_jwt(
        account,
        accounts.public_of(account),
        web1.request.user_public,
        "web1",
        accounts.hub_permissions(),
        issued_s=now_s,
        expires_s=now_s + 100,
    )
    assert await refused(bus, accounts.credentials_file(forged, web1.user_seed))
    assert operator
    # And the honest one is let in.
    assert (await bus.connect_agent(web1)).is_connected
    assert body


async def test_a_connection_ends_when_its_jwt_does(bus: Backbone) -> None:
    web1 = bus.agent("web1")
    signing = first_start.read_seed(bus.state.signing_key)
    now_s = int(time.time())
    client = await bus.connect(
        jwt_for(bus, web1, signing, issued_s=now_s, expires_s=now_s + 2), "web1", **NO_RECONNECT
    )
    await until(lambda: client.is_closed, 10)


async def test_revoked_while_connected_and_after_a_restart(bus: Backbone) -> None:
    web1, web2 = bus.agent("web1"), bus.agent("web2")
    first = await bus.connect_agent(web1, **NO_RECONNECT)
    second = await bus.connect_agent(web2, **NO_RECONNECT)
    assert await revocation.revoke(bus.state, web1.request.user_public)
    await until(lambda: first.is_closed, 5)
    assert await refused(bus, web1.credentials())
    await second.flush()
    assert second.is_connected
    # A second revocation keeps the first.
    assert await revocation.revoke(bus.state, web2.request.user_public)
    await until(lambda: second.is_closed, 5)
    bus.kill()
    await bus.start()
    assert await refused(bus, web1.credentials())
    assert await refused(bus, web2.credentials())
    assert set(revocation.revoked_users(bus.state)) == {web1.request.user_public, web2.request.user_public}


async def test_revoked_while_no_server_runs(bus: Backbone) -> None:
    web1 = bus.agent("web1")
    bus.stop()
    assert not await revocation.revoke(bus.state, web1.request.user_public)
    await bus.start()
    assert await refused(bus, web1.credentials())


async def test_revocation_survives_another_budget(bus: Backbone) -> None:
    web1 = bus.agent("web1")
    await revocation.revoke(bus.state, web1.request.user_public)
    first_start.prepare(bus.state, budget_bytes=300 << 20)
    assert web1.request.user_public in revocation.revoked_users(bus.state)


async def test_renewed_certificate_is_served_after_a_reload_and_connections_stay(bus: Backbone) -> None:
    client = await bus.connect_hub()
    context = pki.client_context(bus.state.ca_certificate)

    def served() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", bus.port), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""

    before = served()
    now_s = int(time.time())
    assert not renew_if_due(bus.state, now_s + 59 * DAY_S)
    assert served() == before
    # 60 days on; CLOCK_SKEW makes it valid from a moment before "now", so shift by less than the real clock allows.
    certificate = bus.state.server_certificate
    certificate.unlink()
    assert renew_if_due(bus.state, now_s).certificate
    async with system_account.system_connection(bus.state) as system:
        await system_account.reload_server(system)
    await until(lambda: served() != before, 5)
    await client.flush()
    assert client.is_connected
    assert client.stats["reconnects"] == 0


async def test_jwt_renewed_under_load_loses_no_publish(bus: Backbone) -> None:
    """The agent's way: write the new credentials, reconnect; every publish is acknowledged across it."""
    from hub.backbone import streams

    await streams.ensure_streams(await bus.connect_hub(), 256 << 20)
    web1 = bus.agent("web1")
    path = bus.scratch / "web1.creds"
    path.write_bytes(web1.credentials())
    client = await bus.connect(path, "web1")
    js = client.jetstream()
    acknowledged = 0
    subject = f"cap.web1.{'b' * 26}.bulk"

    async def publish_all() -> int:
        count = 0
        for number in range(300):
            for _ in range(20):
                try:
                    await js.publish(subject, b"x", headers={"Nats-Msg-Id": str(number)}, timeout=1)
                except (nats.errors.Error, TimeoutError):
                    continue
                count += 1
                break
        return count

    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publish_all())
        await asyncio.sleep(0.05)
        later = int(time.time()) - 10
        token = accounts.user_jwt(
            first_start.issuer_seed(bus.state),
            first_start.account_public(bus.state),
            web1.request.user_public,
            "web1",
            accounts.agent_permissions("web1"),
            issued_s=later,
            expires_s=later + 1000,
        )
        path.write_bytes(accounts.credentials_file(token, web1.user_seed))
        await client.force_reconnect()
    acknowledged = publishing.result()
    hub = await bus.connect_hub()
    info = await hub.jetstream().stream_info("CAPTURE")
    assert (acknowledged, info.state.messages) == (300, 300)
    assert client.stats["reconnects"] >= 1


async def test_the_stock_nats_cli_with_a_viewers_context(
    bus: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("nats")
    from hub.commands.viewer import write_context

    bus.agent("web2")
    credentials = enrolment.viewer_credentials(bus.state, "anna", ["web1"], int(time.time()))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bus.scratch / "config"))
    path = write_context(bus.state, "anna", ["web1"], credentials)
    assert path == bus.scratch / "config/nats/context/wirepool-anna.json"
    assert path.stat().st_mode & 0o777 == 0o600
    own = f"cap.web1.{'c' * 26}.bulk"
    process = await asyncio.create_subprocess_exec(
        *("nats", "--context", "wirepool-anna", "sub", "cap.web1.>", "--raw", "--count", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    sender = await bus.connect_agent(bus.agent("web1"))

    async def send_until_done() -> tuple[bytes, bytes]:
        async with asyncio.TaskGroup() as group:
            done = group.create_task(process.communicate())
            while not done.done():
                await sender.publish(own, b"hello")
                await asyncio.sleep(0.05)
        return done.result()

    async with asyncio.timeout(20):
        output, errors = await send_until_done()
    assert output == b"hello\nhello\n", errors

    for arguments in (
        ["sub", "cap.web2.>"],
        ["sub", ">"],
        ["pub", own, "x"],
        ["stream", "ls"],
        ["req", "ctl.web1.ping", ""],
    ):
        process = await asyncio.create_subprocess_exec(
            *("nats", "--context", "wirepool-anna", "--timeout", "1s", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        text = b""
        try:
            async with asyncio.timeout(5):
                while b"violation" not in text.lower() and (chunk := await process.stdout.read(4096)):
                    text += chunk
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        assert b"permissions violation" in text.lower(), (arguments, text)


async def test_the_log_names_nobodys_secret(bus: Backbone, tmp_path: Path) -> None:
    await bus.connect_agent(bus.agent("web1"))
    bus.stop()
    state = StateDir(tmp_path / "state")
    for path in (state.signing_key, state.operator_key, state.account_key):
        assert path.read_text().strip() not in bus.log()
