"""The configuration of our nats-server, generated from the state directory at each start.

Every value is a quoted and escaped string, a number or one of our own words, so that no path or name can
become configuration. Reference: docs.nats.io, "NATS Server Configuration"; options read in nats-
server/server/opts.go.
"""

from __future__ import annotations

from hub.backbone.accounts import MAX_PAYLOAD_BYTES
from hub.backbone.first_start import MEBIBYTE, account_key_public
from hub.backbone.state import Settings, StateDir, StateError, write_private

MAX_CONNECTIONS = 20_000
MAX_SUBSCRIPTIONS = 1_000
MAX_PENDING_BYTES = 32 * MEBIBYTE
"""What the server holds for one slow client before it drops that client."""
LOG_BYTES = 16 * MEBIBYTE
LOG_FILES = 4


def quoted(text: str) -> str:
    r"""A double-quoted string of the configuration language. Raises StateError for what it can't carry.

    Its lexer knows the escapes \t \n \r \" \\ and \xHH only, and takes bytes as they are.
    """
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
        raise StateError(f"{text!r} holds control characters, which no path or name of wirepool may have")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StateError(
            f"{text!r} isn't valid UTF-8: rename that directory, or choose another one"
        ) from error
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render(state: StateDir, settings: Settings, *, server_name: str = "wirepool") -> str:
    """The text of nats-server.conf."""
    host = f"[{settings.nats_bind}]" if ":" in settings.nats_bind else settings.nats_bind
    if not 0 < settings.nats_port < 65536:
        raise StateError(f"{settings.nats_port} isn't a port")
    return f"""# Written by wirepool at each start: edits are lost. What can be chosen is in ../settings.json.
server_name: {quoted(server_name)}
listen: {quoted(f"{host}:{settings.nats_port}")}
pid_file: {quoted(str(state.nats / "nats-server.pid"))}

# Who is who: JWTs signed by our operator; the resolver's directory holds the accounts.
operator: {quoted(str(state.operator_jwt))}
resolver: {{
  type: full,
  dir: {quoted(str(state.resolver))},
  allow_delete: false,
  interval: "2m",
  timeout: "2s",
}}

# TLS 1.3 only, and the handshake before a single word of the protocol.
tls: {{
  cert_file: {quoted(str(state.server_certificate))},
  key_file: {quoted(str(state.server_key))},
  min_version: "1.3",
  handshake_first: true,
  timeout: 5,
}}

# An acknowledged message is on the disk: each write is synced.
jetstream: {{
  store_dir: {quoted(str(state.jetstream))},
  max_file_store: {settings.budget_bytes},
  max_memory_store: {16 * MEBIBYTE},
  sync_interval: always,
}}

# Bounds for every client.
max_payload: {MAX_PAYLOAD_BYTES}
max_control_line: 4096
max_connections: {MAX_CONNECTIONS}
max_subscriptions: {MAX_SUBSCRIPTIONS}
max_pending: {MAX_PENDING_BYTES}
max_traced_msg_len: 64
write_deadline: "10s"
ping_interval: "10s"
ping_max: 2
disable_sublist_cache: false
connect_error_reports: 3600
reconnect_error_reports: 600

# On a stop, clients are told and spread over this time; agents spool meanwhile.
lame_duck_grace_period: "1s"
lame_duck_duration: "30s"

log_file: {quoted(str(state.logs / "nats-server.log"))}
logfile_size_limit: {LOG_BYTES}
logfile_max_num: {LOG_FILES}
logtime_utc: true
debug: false
trace: false
"""


def write(state: StateDir, settings: Settings | None = None) -> None:
    """Write nats-server.conf for the present settings."""
    settings = settings or state.settings()
    if settings.budget_bytes <= 0:
        raise StateError(f"{state.root} isn't complete. Run `wirepool init` first.")
    account_key_public(state)
    write_private(state.nats_config, render(state, settings).encode())
