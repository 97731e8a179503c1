"""A program that delays what is routed into its TUN device: run inside a namespace, ends with its standard input.

    python delaying_tun.py NAME NETWORK THERE_NS BACK_NS

Packets to NETWORK (as 10.3.0) are held for THERE_NS, others for BACK_NS, then written back into the device, from where
the kernel routes them on. The order of each direction is kept. Prints `ready` when the device is there.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MOST_HELD = 20_000


def main() -> None:
    name, network = sys.argv[1].encode(), bytes(int(part) for part in sys.argv[2].split("."))
    delays = (int(sys.argv[3]), int(sys.argv[4]))
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name, IFF_TUN | IFF_NO_PI))
    held: tuple[deque[tuple[int, bytes]], ...] = (deque(), deque())
    print("ready", flush=True)
    while True:
        due = min((queue[0][0] for queue in held if queue), default=None)
        wait = None if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9)
        readable, _, _ = select.select([device, 0], [], [], wait)
        if 0 in readable:
            return
        if device in readable:
            try:
                packet = os.read(device, 65_535)
            except BlockingIOError:
                packet = b""
            way = 0 if packet[16:19] == network else 1
            if packet and packet[0] >> 4 == 4 and len(held[way]) < MOST_HELD:
                held[way].append((time.monotonic_ns() + delays[way], packet))
        now = time.monotonic_ns()
        for queue in held:
            while queue and queue[0][0] <= now:
                os.write(device, queue.popleft()[1])


if __name__ == "__main__":
    main()
