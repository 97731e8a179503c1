"""Real traffic on the laboratory's LAN, made by ordinary servers and clients: HTTP, DNS, ICMP and TLS over
IPv4 and IPv6."""

from __future__ import annotations

import sys

from tests.support.lab import Host
from tests.support.netns import wait_for

HTTP_PORT, TLS_PORT, DNS_PORT = 8080, 8443, 53
DOMAIN = "lab.test"
NEEDED = ("ip", "ss", "tcpdump", "ping", "curl", "openssl", "dnsmasq", "getent", "unshare")

_PORTS = " or ".join(f"port {port}" for port in (HTTP_PORT, TLS_PORT, DNS_PORT))
ORDINARY_FILTER = f"icmp or (icmp6 and (ip6[40] == 128 or ip6[40] == 129)) or {_PORTS}"
"""tcpdump's syntax for what this module makes: neighbour discovery and ARP, which come when they like, are
left out.

The outer parentheses matter: in tcpdump's grammar `and` and `or` bind equally, from the left.
"""


class LanServers:
    """An HTTP, a DNS and a TLS server on one host, ready when the constructor returns; they end with the
    laboratory."""

    def __init__(self, host: Host) -> None:
        self.host = host
        root = host.directory / "www"
        root.mkdir(exist_ok=True)
        (root / "index.html").write_text("<!doctype html><title>lab</title><p>Hello.</p>\n")
        (root / "large.bin").write_bytes(bytes(range(256)) * 800)
        certificate, key = host.directory / "www.crt", host.directory / "www.key"
        host.run(
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN=www.{DOMAIN}",
            ),
            *("-keyout", str(key), "-out", str(certificate)),
        )
        http = host.start(
            sys.executable, "-m", "http.server", "--bind", "::", str(HTTP_PORT), log="http.log", cwd=root
        )
        tls = host.start(
            *(
                "openssl",
                "s_server",
                "-quiet",
                "-accept",
                str(TLS_PORT),
                "-cert",
                str(certificate),
                "-key",
                str(key),
                "-WWW",
            ),
            log="tls.log",
            cwd=root,
        )
        dns = host.start(
            *(
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
            ),
            *(
                f"--port={DNS_PORT}",
                "--pid-file=",
                "--bind-dynamic",
                "--interface=eth0",
                "--cache-size=0",
                "--log-facility=-",
            ),
            *(f"--address=/{DOMAIN}/{host.address}", f"--address=/{DOMAIN}/{host.address6}"),
            log="dns.log",
        )
        for process, port in ((http, HTTP_PORT), (tls, TLS_PORT), (dns, DNS_PORT)):
            host.wait_for_port(port, process=process)
        self.resolver_file = host.directory / "resolv.conf"
        self.resolver_file.write_text(f"nameserver {host.address}\noptions timeout:2 attempts:2\n")


def look_up(client: Host, servers: LanServers, name: str) -> str:
    """Resolve a name by the C library's own resolver, asking only the laboratory's server."""
    script = 'mount --bind "$1" /etc/resolv.conf && exec getent ahosts "$2"'
    return client.run(
        "unshare", "-m", "sh", "-c", script, "sh", str(servers.resolver_file), f"{name}.{DOMAIN}"
    )


def fetch(client: Host, address: str, path: str, *, tls: bool = False) -> None:
    """One HTTP or HTTPS download by curl."""
    host = f"[{address}]" if ":" in address else address
    url = f"https://{host}:{TLS_PORT}/{path}" if tls else f"http://{host}:{HTTP_PORT}/{path}"
    client.run("curl", "-ksSf", "--max-time", "20", "--noproxy", "*", "-o", "/dev/null", url)


ECHOES = 3
MARKED_PACKETS = 2 * ECHOES
"""Of one `ping` with a mark: requests and replies."""


def ping(client: Host, address: str, *, count: int = ECHOES, mark: bytes = b"") -> None:
    """Echo requests; `mark` (at most 16 bytes) repeats through the payload, to be found again in a
    capture."""
    argv = ["ping", "-q", "-n", "-c", str(count), "-i", "0.01", "-W", "5", "-s", "120"]
    if mark:
        argv += ["-p", mark.hex()]
    client.run(*argv, address)


def all_kinds(client: Host, servers: LanServers, *, mark: bytes = b"") -> None:
    """A little of everything; the echo requests come last, so that a capture which has the mark has the
    rest."""
    server = servers.host
    look_up(client, servers, "www")
    for address in (server.address, server.address6):
        fetch(client, address, "index.html")
        fetch(client, address, "large.bin")
        fetch(client, address, "index.html", tls=True)
        ping(client, address)
    settle(client, server)
    ping(client, server.address, mark=mark)


def settle(*hosts: Host) -> None:
    """Until every TCP connection of the clients has sent its last segment (only TIME-WAIT or nothing is
    left)."""

    ports = " or ".join(
        f"{end} = :{port}" for port in (HTTP_PORT, TLS_PORT, DNS_PORT) for end in ("sport", "dport")
    )
    argv = ("ss", "-Htan", "state", "connected", "exclude", "time-wait", f"( {ports} )")

    def quiet() -> bool:
        return not any(host.run(*argv).strip() for host in hosts)

    wait_for(quiet, "the connections to close")


def sentinel(client: Host, server: Host, mark: bytes) -> None:
    """One last marked echo: when both its ends are in a capture, everything sent before is there as well."""
    ping(client, server.address, count=1, mark=mark)
