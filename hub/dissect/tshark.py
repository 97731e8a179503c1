"""One packet's protocol tree by tshark, where it is installed on the hub and somebody asks for it.

tshark knows two thousand protocols more than we do, and its dissectors, written in C, have a long history of bugs that
a packet can trigger. So it runs as a process of its own for one packet: as nobody when the hub is root, without files,
network, name resolution or a user's configuration, with bounds of time, memory and output that are in force before it
gets the first byte. Its answer (PDML) is hostile, too: read as a stream, no entities, bounded by hub.dissect.tree.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import struct
from contextlib import suppress
from xml.parsers import expat

from hub.dissect.tree import Field, TooManyFields, Tree

TIMEOUT_S = 10.0
MAX_MEMORY_BYTES = 1 << 30
"""Address space; tshark takes about 300 MB of it with nothing to do."""
MAX_CPU_S = 5
MAX_OUTPUT_BYTES = 4 << 20
MAX_AT_ONCE = 2
MAX_DEPTH = 64
MAX_COMPLAINT_BYTES = 2000
_LAYERS_LEFT_OUT = frozenset({"geninfo", "fake-field-wrapper"})
_CONFINED = (
    "/bin/sh",
    "-c",
    f'ulimit -v {MAX_MEMORY_BYTES >> 10} && ulimit -t {MAX_CPU_S} && ulimit -f 0 && ulimit -c 0 && exec "$0" "$@"',
)
"""Gives itself the bounds and becomes the program: from outside nobody may bind a process of another user."""
_ARGUMENTS = ("-n", "-r", "-", "-c", "1", "-T", "pdml")
_SNAPLEN = 262_144


class TsharkError(Exception):
    """tshark isn't there or gave no tree; the text says why to a person."""


class Tshark:
    """Runs tshark, MAX_AT_ONCE at a time; others wait within their TIMEOUT_S."""

    def __init__(self, program: str | None = None) -> None:
        """program: path of tshark; None looks for it in PATH at each question, since it may be installed later."""
        self._program = program
        self._running = asyncio.Semaphore(MAX_AT_ONCE)

    @property
    def program(self) -> str | None:
        """Path of the program; None: it isn't installed."""
        return self._program or shutil.which("tshark")

    async def dissect(self, data: bytes, link_type: int, time_ns: int, original_bytes: int) -> list[Field]:
        """The layers of one packet as tshark sees it, lowest first. TsharkError."""
        program = self.program
        if program is None:
            raise TsharkError("tshark isn't installed on the hub (Debian, Ubuntu: apt-get install tshark)")
        capture = one_packet_capture(data, link_type, time_ns, original_bytes)
        try:
            async with asyncio.timeout(TIMEOUT_S), self._running:
                output = await _run(program, capture)
        except TimeoutError as error:
            raise TsharkError(f"tshark was stopped: it had no answer within {TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise TsharkError(f"tshark can't be run: {error}") from error
        return layers_of(output, data)


def one_packet_capture(data: bytes, link_type: int, time_ns: int, original_bytes: int) -> bytes:
    """A pcap file with nanoseconds of this packet alone (draft-ietf-opsawg-pcap)."""
    kept = data[:_SNAPLEN]
    seconds, rest_ns = divmod(time_ns, 10**9)
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, _SNAPLEN, link_type)
    return head + struct.pack("<IIII", seconds & 0xFFFFFFFF, rest_ns, len(kept), original_bytes) + kept


async def _run(program: str, capture: bytes) -> bytes:
    """What tshark writes for a capture on its standard input."""
    nobody: dict[str, object] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        nobody = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    process = await asyncio.create_subprocess_exec(
        *_CONFINED,
        program,
        *_ARGUMENTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env={
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "XDG_CONFIG_HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
        },
        **nobody,  # type: ignore[arg-type]
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(_read(process.stdout, MAX_OUTPUT_BYTES))
            said = tasks.create_task(_read(process.stderr, MAX_OUTPUT_BYTES))
            process.stdin.write(capture)
            with suppress(ConnectionError):  # it ended early: its status says so
                await process.stdin.drain()
            process.stdin.close()
        status = await process.wait()
    except* _TooLong as long:
        raise TsharkError(f"tshark's answer is longer than {MAX_OUTPUT_BYTES >> 20} MB") from long
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        for stream in (
            process.stdout,
            process.stderr,
        ):  # what is left in a pipe keeps the process' end from being seen
            while await stream.read(65536):
                pass
        await process.wait()
    if status != 0:
        words = said.result()[-MAX_COMPLAINT_BYTES:].decode("utf-8", "replace").strip().splitlines()
        raise TsharkError(f"tshark ended with status {status}" + (f": {words[-1]}" if words else ""))
    return answer.result()


class _TooLong(Exception):
    """More bytes than anybody reads."""


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    chunks, size = [], 0
    while chunk := await stream.read(65536):
        size += len(chunk)
        if size > most:
            raise _TooLong
        chunks.append(chunk)
    return b"".join(chunks)


class _Reader:
    """Elements of PDML → fields. `data` is the packet, by which offsets are judged."""

    def __init__(self, data: bytes) -> None:
        self.tree = Tree(data)
        self._above: list[list[Field] | None] = []
        """Where the parts of each open element go; None: it and all below it are left out."""

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        """An element opens."""
        if name not in ("proto", "field"):
            return
        to = self._above[-1] if self._above else self.tree.layers
        left_out = attributes.get("hide") == "yes" or attributes.get("name") in _LAYERS_LEFT_OUT
        if to is None or left_out or len(self._above) >= MAX_DEPTH:
            self._above.append(None)
            return
        title, value = _words(attributes, layer=name == "proto")
        offset, length = _number(attributes.get("pos")), _number(attributes.get("size"))
        if offset + length > len(self.tree.data):  # bytes of another buffer: put together, or decoded
            offset = length = 0
        field = self.tree.add(to, title, value, offset, length)
        self._above.append(field.parts)

    def end(self, name: str) -> None:
        """An element closes."""
        if name in ("proto", "field"):
            self._above.pop()


def _words(attributes: dict[str, str], *, layer: bool) -> tuple[str, str]:
    """(name, value) as a person reads them: PDML has both in one text, a layer's as `Ethernet II, Src: …`."""
    shown = attributes.get("showname") or attributes.get("show") or attributes.get("name") or "?"
    cuts = [shown.find(cut) for cut in ((": ", ", ") if layer else (": ",))]
    at = min((place for place in cuts if place > 0), default=len(shown))
    return shown[:at], shown[at + 2 :]


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _no_entities(*_: object) -> None:
    raise TsharkError("tshark's answer declares entities, which PDML has none of")


def layers_of(pdml: bytes, data: bytes) -> list[Field]:
    """The layers of the one packet in a PDML text; `data` is that packet. TsharkError."""
    reader = _Reader(data)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.EntityDeclHandler = _no_entities
    try:
        parser.Parse(pdml, True)
    except expat.ExpatError as error:
        raise TsharkError(f"tshark's answer isn't PDML: {error}") from error
    except TooManyFields:
        reader.tree.layers.append(Field("[more fields than are shown]", "", 0, 0, wrong=True))
    layers = reader.tree.settle()
    if not layers:
        raise TsharkError("tshark gave no tree of this packet")
    return layers
