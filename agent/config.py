"""Reads agent.yaml by the table in `agent.settings`; every complaint names file, line, key, expectation and remedy."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml

from agent.settings import SECTIONS, SETTINGS, Config, Kind, Setting, type_text
from wire.errors import WireError
from wire.names import check_agent_id, check_session_id
from wire.payload import parse_ports

MAX_FILE_BYTES = 1 << 20
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([A-Za-z]*)", re.ASCII)
_UNITS = {"": 1, "b": 1} | {
    unit: factor**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, factor in ((letter, 1024), (f"{letter}b", 1000), (f"{letter}ib", 1024))
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file. `line` 0: the file as a whole."""

    path: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(Exception):
    """Everything that is wrong with the file, one line each."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load_config(path: Path) -> Config:
    """Read and check a file.

    Raises:
        ConfigError: with all problems found.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        remedy = "Create it, or run without --config: every setting has a default"
        raise ConfigError([Problem(str(path), 0, "", f"{error.strerror}. {remedy}")]) from None
    return parse_config(content, path)


def parse_config(content: bytes, path: Path) -> Config:
    """The same for the content of a file; relative paths in it are relative to `path`'s folder."""
    reader = _Reader(path)
    root = reader.compose(content)
    if root is not None:
        reader.section(root, "")
        reader.check_payload()
    if reader.problems:
        raise ConfigError(reader.problems)
    return reader.config


class _Bad(ValueError):
    """A value isn't what the setting asks for; the text says what is wrong with it, if there is more to say."""


class _Reader:
    def __init__(self, path: Path) -> None:
        self.config = Config(path=path)
        self.problems: list[Problem] = []
        self._path = path

    def complain(self, node: yaml.Node | None, key: str, message: str) -> None:
        line = node.start_mark.line + 1 if node is not None else 0
        self.problems.append(Problem(str(self._path), line, key, message))

    def compose(self, content: bytes) -> yaml.Node | None:
        if len(content) > MAX_FILE_BYTES:
            self.complain(None, "", f"larger than {MAX_FILE_BYTES} bytes: not a configuration file")
            return None
        try:
            text = content.decode()
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            self.problems.append(Problem(str(self._path), line, "", "not UTF-8 text. Save the file as UTF-8"))
            return None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            what = getattr(error, "problem", None) or str(error).split("\n")[0]
            line = mark.line + 1 if mark is not None else 0
            hint = (
                "Check indentation, colons and quotes there"
                if "document" not in what
                else "Keep one document"
            )
            self.problems.append(Problem(str(self._path), line, "", f"not YAML: {what}. {hint}"))
            return None
        except (RecursionError, ValueError):
            self.complain(None, "", "nested too deeply: not a configuration file")
            return None
        return node

    def section(self, node: yaml.Node, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
                return  # an empty section
            what = f"the section {prefix}" if prefix else "the file"
            self.complain(node, prefix, f"{what} must be keys with values, as in `log: {{level: info}}`")
            return
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.complain(key_node, prefix, "a key must be a plain word")
                continue
            key = f"{prefix}.{key_node.value}" if prefix else key_node.value
            if key in seen:
                self.complain(key_node, key, f"given twice, first in line {seen[key]}. Keep one")
                continue
            seen[key] = key_node.start_mark.line + 1
            if not prefix and key in SECTIONS:
                self.section(value_node, key)
            elif key in SETTINGS:
                self._set(key, value_node)
            else:
                self.complain(key_node, key, f"unknown key. {_did_you_mean(key)}")

    def check_payload(self) -> None:
        """An owner who writes only half of a mask must not believe that it is one."""
        config = self.config
        part = [key for key in ("payload.keep_bytes", "payload.ports_without") if key in config.lines]
        if config.payload_policy == "masked":
            if config.payload_keep_bytes is None and not config.payload_ports_without:
                line = config.lines["payload.policy"]
                message = "masked needs payload.keep_bytes or payload.ports_without. For no payload: headers"
                self.problems.append(Problem(str(self._path), line, "payload.policy", message))
        elif part:
            message = (
                f"has no effect with payload.policy {config.payload_policy}. Use masked, or leave it out"
            )
            self.problems.append(Problem(str(self._path), config.lines[part[0]], part[0], message))

    def _set(self, key: str, node: yaml.Node) -> None:
        name, setting = SETTINGS[key]
        try:
            value = self._value(setting, node)
        except _Bad as error:
            found = (
                f"`{str(node.value)[:40]}`"
                if isinstance(node, yaml.ScalarNode)
                else ("a list" if isinstance(node, yaml.SequenceNode) else "keys")
            )
            detail = f" ({error})" if str(error) else ""
            example = f". Example: `{key.split('.')[-1]}: {setting.example}`" if setting.example else ""
            default = f". Leave the line out for the default ({setting.default_text})" if not example else ""
            self.complain(
                node, key, f"expected {type_text(setting)}, found {found}{detail}{example}{default}"
            )
            return
        setattr(self.config, name, value)
        self.config.lines[key] = node.start_mark.line + 1

    def _value(self, setting: Setting, node: yaml.Node) -> Any:
        if setting.kind in (Kind.SERVERS, Kind.ADDRESSES, Kind.PORTS):
            if not isinstance(node, yaml.SequenceNode):
                raise _Bad("a list goes in brackets: [a, b]")
            if len(node.value) > 64:
                raise _Bad("more than 64 entries")
            if setting.kind is Kind.PORTS:
                return _ports(", ".join(_text(n) for n in node.value))
            return [
                _server(_text(n)) if setting.kind is Kind.SERVERS else _address(_text(n)) for n in node.value
            ]
        text = _text(node)
        match setting.kind:
            case Kind.SWITCH:
                if not node.tag.endswith(":bool"):
                    raise _Bad
                return text.lower() in ("true", "yes", "on")
            case Kind.SIZE:
                return int(_bounded(setting, _size(text)))
            case Kind.COUNT:
                if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
                    raise _Bad
                return int(_bounded(setting, int(text)))
            case Kind.NUMBER:
                if not re.fullmatch(r"-?\d{1,15}(\.\d{1,9})?", text, re.ASCII):
                    raise _Bad
                return _bounded(setting, float(text))
            case Kind.CHOICE:
                if text not in setting.choices:
                    close = difflib.get_close_matches(text, setting.choices, 1)
                    raise _Bad(f"did you mean {close[0]}?" if close else "")
                return text
            case Kind.PATH:
                if not text or "\0" in text:
                    raise _Bad
                return self._path.parent / Path(text).expanduser()
        return _checked_text(setting.key, text)


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":null"):
        raise _Bad("a single value is needed")
    return str(node.value)


def _bounded(setting: Setting, value: float) -> float:
    if setting.low is not None and setting.high is not None and not setting.low <= value <= setting.high:
        raise _Bad("too small" if value < setting.low else "too large")
    return value


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise _Bad("write it as 64 MiB, 1 GB or a number of bytes")
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def _server(text: str) -> str:
    from agent.link import split_server

    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme not in ("tls", "nats", "wss"):
        raise _Bad(f"{text[:60]!r}: write tls://host:4222")
    try:
        split_server(text)
    except ValueError as error:
        raise _Bad(f"{text[:60]!r}: {error}") from None
    return text


def _ports(text: str) -> list[tuple[int, int]]:
    try:
        return list(parse_ports(text))
    except WireError as error:
        raise _Bad(str(error)) from None


def _address(text: str) -> tuple[str, int]:
    """`192.0.2.1:443` or `[2001:db8::1]:443`."""
    host, port_text = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port_text = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    try:
        address = str(ip_address(host))
        port = int(port_text)
    except ValueError:
        raise _Bad(f"{text[:60]!r}: write IP address:port, IPv6 as [2001:db8::1]:443") from None
    if not 1 <= port <= 65535:
        raise _Bad(f"{text[:60]!r}: ports go from 1 to 65535")
    return address, port


def _checked_text(key: str, text: str) -> str:
    try:
        if key == "name":
            return check_agent_id(text)
        if key == "replay.session":
            return check_session_id(text)
    except WireError as error:
        raise _Bad(str(error)) from None
    if len(text.encode(errors="replace")) > 16384:
        raise _Bad("longer than 16 KiB")
    return text


def _did_you_mean(key: str) -> str:
    known = [*SETTINGS, *SECTIONS]
    last = {name.split(".")[-1]: name for name in SETTINGS}
    close = difflib.get_close_matches(key, known, 1, 0.6)
    if not close and (leaf := difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.75)):
        close = [last[leaf[0]]]
    if close and close[0] != key.rpartition(".")[0]:  # a section's name is no advice for a key within it
        return f"Did you mean `{close[0]}`?"
    section = key.split(".")[0]
    there = [name for name in SETTINGS if name.startswith(f"{section}.")]
    names = ", ".join(there) if there else ", ".join(dict.fromkeys(k.split(".")[0] for k in SETTINGS))
    return f"Known here: {names}. See docs/agent-configuration.md"
