"""libpcap through ctypes: the only place that knows the library's name, its functions and its constants.

Also Npcap's on Windows and Apple's on macOS (only Linux' is run by the tests). Every function used here is in libpcap
1.5 (2013) and later; what only some have is asked for with `hasattr`. Source: pcap/pcap.h and libpcap 1.10's manual.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import sys

NANOSECONDS = 1  # PCAP_TSTAMP_PRECISION_NANO
NETMASK_UNKNOWN = 0xFFFFFFFF
OPTIMIZE = 1
ERRBUF_BYTES = 256  # PCAP_ERRBUF_SIZE
BROKEN_LOOP = -2  # PCAP_ERROR_BREAK: pcap_breakloop ended a dispatch before its first packet

NO_SUCH_DEVICE, NOT_PERMITTED, NOT_UP, PROMISCUOUS_NOT_PERMITTED = -5, -8, -9, -11  # pcap_activate's results

# LINKTYPE_ numbers (files) whose DLT_ numbers (libpcap's calls) differ: pcap-common.c.
_DLT_OF_LINKTYPE = {100: 11, 101: 12, 102: 15, 103: 16, 106: 19}
_LINKTYPE_OF_DLT = {dlt: link_type for link_type, dlt in _DLT_OF_LINKTYPE.items()}
_NAMES = {
    # Debian's is called .0.8 for historical reasons.
    "linux": ("libpcap.so.0.8", "libpcap.so.1"),
    "darwin": ("libpcap.A.dylib", "/usr/lib/libpcap.A.dylib"),
    "win32": (r"C:\Windows\System32\Npcap\wpcap.dll", "wpcap.dll"),
}


class LibpcapMissing(Exception):
    """libpcap isn't installed; the text says what to install."""


class BpfProgram(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("bf_len", ctypes.c_uint), ("bf_insns", ctypes.c_void_p))


class Statistics(ctypes.Structure):
    """struct pcap_stat. Windows' own has more members behind these: room for them."""

    _fields_ = (
        ("ps_recv", ctypes.c_uint),
        ("ps_drop", ctypes.c_uint),
        ("ps_ifdrop", ctypes.c_uint),
        ("_more", ctypes.c_uint * 5),
    )


class _Timeval(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_usec", ctypes.c_long))


_HANDLE = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "pcap_lib_version": (ctypes.c_char_p, ()),
    "pcap_open_dead_with_tstamp_precision": (_HANDLE, (ctypes.c_int, ctypes.c_int, ctypes.c_uint)),
    "pcap_compile": (
        ctypes.c_int,
        (_HANDLE, ctypes.POINTER(BpfProgram), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32),
    ),
    "pcap_freecode": (None, (ctypes.POINTER(BpfProgram),)),
    "pcap_geterr": (ctypes.c_char_p, (_HANDLE,)),
    "pcap_statustostr": (ctypes.c_char_p, (ctypes.c_int,)),
    "pcap_close": (None, (_HANDLE,)),
    "pcap_create": (_HANDLE, (ctypes.c_char_p, ctypes.c_char_p)),
    "pcap_set_snaplen": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "pcap_set_promisc": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "pcap_set_timeout": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "pcap_set_buffer_size": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "pcap_set_tstamp_precision": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "pcap_get_tstamp_precision": (ctypes.c_int, (_HANDLE,)),
    "pcap_activate": (ctypes.c_int, (_HANDLE,)),
    "pcap_setnonblock": (ctypes.c_int, (_HANDLE, ctypes.c_int, ctypes.c_char_p)),
    "pcap_datalink": (ctypes.c_int, (_HANDLE,)),
    "pcap_setfilter": (ctypes.c_int, (_HANDLE, ctypes.POINTER(BpfProgram))),
    "pcap_stats": (ctypes.c_int, (_HANDLE, ctypes.POINTER(Statistics))),
    "pcap_get_selectable_fd": (ctypes.c_int, (_HANDLE,)),  # not on Windows
    "pcap_get_required_select_timeout": (ctypes.POINTER(_Timeval), (_HANDLE,)),  # since 1.9, not on Windows
    "pcap_getevent": (ctypes.c_void_p, (_HANDLE,)),  # on Windows only
}


@functools.cache
def load() -> ctypes.CDLL:
    """The library, its functions declared. LibpcapMissing where there is none."""
    for name in (*_NAMES.get(sys.platform, ()), ctypes.util.find_library("pcap")):
        if name is None:
            continue
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        for function_name, (result, arguments) in _SIGNATURES.items():
            if hasattr(library, function_name):
                function = getattr(library, function_name)
                function.restype, function.argtypes = result, arguments
        return library
    if sys.platform == "win32":
        raise LibpcapMissing("Npcap is not installed. Install it from https://npcap.com")
    raise LibpcapMissing(
        "libpcap is not installed. Install libpcap0.8 (Debian, Ubuntu), libpcap (Fedora, Arch, Alpine)"
    )


def version() -> str:
    """As the library calls itself: "libpcap version 1.10.3 (with TPACKET_V3)"."""
    return str(load().pcap_lib_version().decode(errors="replace"))


def address_of(function_name: str) -> int:
    """Where C code can call a function of the library."""
    return ctypes.cast(getattr(load(), function_name), ctypes.c_void_p).value or 0


def dlt_of(link_type: int) -> int:
    """libpcap's number of a link type."""
    return _DLT_OF_LINKTYPE.get(link_type, link_type)


def link_type_of(dlt: int) -> int:
    """The number that files have."""
    return _LINKTYPE_OF_DLT.get(dlt, dlt)


def select_timeout_s(handle: int) -> float | None:
    """On some systems a handle's descriptor doesn't always become readable: look at it this often. None: it does."""
    library = load()
    if not hasattr(library, "pcap_get_required_select_timeout"):
        return None
    timeout = library.pcap_get_required_select_timeout(handle)
    return float(timeout[0].tv_sec + timeout[0].tv_usec / 1e6) if timeout else None
