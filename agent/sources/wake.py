"""Waiting for packets in a way that any thread can cut short: the platforms' part of it.

Only Linux' way is run by the tests; macOS has it but for `eventfd`, Windows waits for event objects instead.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sys


class Ready(enum.Enum):
    """What ended a wait."""

    TIME = "time over"
    PACKETS = "packets"
    WOKEN = "woken"
    TROUBLE = "trouble"  # an error is pending where packets should come from


if sys.platform == "win32":
    import ctypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.CreateEventW.restype = ctypes.c_void_p
    _kernel32.SetEvent.argtypes = _kernel32.CloseHandle.argtypes = (ctypes.c_void_p,)

    class Wake:
        """An event object that resets itself when it ends a wait."""

        def __init__(self) -> None:
            self._event = _kernel32.CreateEventW(None, False, False, None)

        def fileno(self) -> int:
            """The event's handle."""
            return int(self._event)

        def set(self) -> None:
            """End a wait, or the next. From any thread."""
            _kernel32.SetEvent(self._event)

        def close(self) -> None:
            """Free it; nobody may be waiting."""
            _kernel32.CloseHandle(self._event)

    def wait(packets: int, wake: int, timeout_s: float) -> Ready:
        """Until there are packets (an event's handle, pcap_getevent; -1: none), `wake` is set or time is over."""
        handles = [wake] if packets < 0 else [wake, packets]
        array = (ctypes.c_void_p * len(handles))(*handles)
        result = _kernel32.WaitForMultipleObjects(len(handles), array, False, max(1, int(timeout_s * 1000)))
        return {0: Ready.WOKEN, 1: Ready.PACKETS, 0x102: Ready.TIME}.get(result, Ready.TROUBLE)

else:
    import select

    class Wake:
        """Readable from `set` until its 8 bytes are read (as `wait` and `agent._tpacket` do)."""

        def __init__(self) -> None:
            if sys.platform == "linux":
                self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            else:
                self._read, self._write = os.pipe()
                os.set_blocking(self._read, False)
                os.set_blocking(self._write, False)

        def fileno(self) -> int:
            """The descriptor to wait on."""
            return self._read

        def set(self) -> None:
            """End a wait, or the next. From any thread, never blocks."""
            with contextlib.suppress(BlockingIOError):  # it is readable, and full
                os.write(self._write, (1).to_bytes(8, sys.byteorder))

        def close(self) -> None:
            """Free it; nobody may be waiting."""
            os.close(self._read)
            if self._write != self._read:
                os.close(self._write)

    def wait(packets: int, wake: int, timeout_s: float) -> Ready:
        """Until there are packets (a descriptor; -1: none), `wake` is set or time is over."""
        waiting = select.poll()
        waiting.register(wake, select.POLLIN)
        if packets >= 0:
            waiting.register(packets, select.POLLIN)
        found = dict(waiting.poll(max(1, timeout_s * 1000)))
        if wake in found:
            os.read(wake, 8)
            return Ready.WOKEN
        if packets not in found:
            return Ready.TIME
        return Ready.TROUBLE if found[packets] & ~select.POLLIN else Ready.PACKETS
