"""Whether libpcap on this host takes a capture filter: an early answer while the agent is away.

The agent's own libpcap decides in the end (hub.agents.control.check_filter asks it); versions differ in what they know.
"""

import ctypes
import ctypes.util
import functools
import re
import threading

MAX_FILTER_BYTES = 16 * 1024
MAX_TERMS = 256
"""libpcap's optimizer takes time cubic in the terms; the agent has the same bound."""
_ERROR_BYTES = 256
_NETMASK_UNKNOWN = 0xFFFFFFFF
_joint = re.compile(r"\b(?:or|and)\b|\|\||&&")
_lock = threading.Lock()
"""libpcap before 1.8 compiles with global state."""


_ADVICE = (
    (
        "syntax error",
        "Join conditions with and, or, not, for example: tcp port 443 and host 10.0.0.7 "
        "(as for tcpdump; Wireshark's display filters, like ip.addr == 10.0.0.7, are another language)",
    ),
    ("no interface", "Choose another interface for this host, or write one of these into its field"),
    ("unknown host", "Names are looked up on the agent's host: write the address instead"),
    ("unknown port", "Write the port as a number, for example: port 8080"),
    ("illegal port number", "Ports go from 0 to 65535; a range is written as: portrange 8000-8080"),
    ("non-network bits", "Write host for one address, or the network's own: net 10.0.0.0/8"),
)
"""What libpcap's words contain (gencode.c, grammar.y), and what to do about it."""


def advice(error: str) -> str:
    """One sentence on what to write instead of a filter that was refused with libpcap's `error`; "" when it says so."""
    for part, sentence in _ADVICE:
        if part in error:
            return f"{sentence}."
    return "" if "the filter" in error else "All that can be written is in the manual: man pcap-filter."


class _Program(ctypes.Structure):
    _fields_ = (("bf_len", ctypes.c_uint), ("bf_insns", ctypes.c_void_p))


@functools.cache
def _libpcap() -> ctypes.CDLL | None:
    for name in ("libpcap.so.0.8", "libpcap.so.1", ctypes.util.find_library("pcap")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is None:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
        library.pcap_compile.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32,
        ]  # fmt: skip
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = [ctypes.c_void_p]
        library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
        library.pcap_close.argtypes = [ctypes.c_void_p]
        return library
    return None


def filter_error(text: str, link_type: int = 1, snaplen: int = 262144) -> str | None:
    """What libpcap says against `text`; "" when it takes it; None when there is no libpcap here.

    May look host names up: call it in a thread. link_type: a LINKTYPE_ value.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > MAX_FILTER_BYTES or b"\0" in encoded:
        return f"a filter has at most {MAX_FILTER_BYTES} bytes and no NUL"
    if len(_joint.findall(text)) >= MAX_TERMS:
        return f"a filter joins at most {MAX_TERMS} terms: use networks and port ranges"
    library = _libpcap()
    if library is None:
        return None
    with _lock:
        # LINKTYPE_RAW (101) is DLT 12 on Linux; the others that interfaces have are equal (pcap-common.c).
        handle = library.pcap_open_dead(12 if link_type == 101 else link_type, snaplen)
        if not handle:
            return None
        try:
            program = _Program()
            if library.pcap_compile(handle, ctypes.byref(program), encoded, 1, _NETMASK_UNKNOWN) != 0:
                message: bytes = library.pcap_geterr(handle)
                return message[:_ERROR_BYTES].decode("utf-8", "replace") or "refused without a reason"
            library.pcap_freecode(ctypes.byref(program))
            return ""
        finally:
            library.pcap_close(handle)
