"""What TCP and UDP carry, recognised by port and then by its first bytes; only the beginning of a message is read.

Own code and not dpkt: the summary needs a few bytes of each protocol, and dpkt (last release 2022) raises a dozen
kinds of errors on damaged input.
"""

from hub.decode.packet_line import Cut, Line, ipv4, ipv6, latin, need, u8, u16, u32

DNS_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP", 28: "AAAA",
    29: "LOC", 33: "SRV", 35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY",
    50: "NSEC3", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 99: "SPF", 250: "TSIG", 251: "IXFR", 252: "AXFR", 255: "ANY",
    257: "CAA",
}  # fmt: skip
DNS_ERRORS = {1: "Format error", 2: "Server failure", 3: "No such name", 4: "Not implemented", 5: "Refused"}
DNS_OPERATIONS = {0: "Standard query", 1: "Inverse query", 2: "Server status", 4: "Zone change notification",
                   5: "Dynamic update"}  # fmt: skip
_MAX_LABELS = 64
_MAX_ANSWERS = 4


def udp_application(line: Line, data: bytes, source: int, destination: int) -> None:
    """Name what a UDP payload is, if it can be told."""
    ports = {source, destination}
    try:
        if 53 in ports:
            dns(line, data, "DNS")
        elif 5353 in ports:
            dns(line, data, "MDNS")
        elif 5355 in ports:
            dns(line, data, "LLMNR")
        elif 137 in ports:
            dns(line, data, "NBNS")
        elif ports & {67, 68}:
            _dhcp(line, data)
        elif ports & {546, 547}:
            _dhcp6(line, data)
        elif 123 in ports:
            _ntp(line, data)
        elif 1900 in ports and is_http(data):
            line.tell("SSDP", "udp", first_line(data))
        elif 520 in ports:
            line.tell(
                "RIP", "routing", {1: "Request", 2: "Response"}.get(u8(data, 0, "rip"), "unknown command")
            )
        elif 69 in ports:
            _tftp(line, data)
        elif ports & {161, 162} and data[:1] == b"\x30":
            line.tell("SNMP", "udp", f"{len(data)} bytes")
        elif 514 in ports and data[:1] == b"<":
            line.tell("Syslog", "udp", latin(data.split(b"\n", 1)[0]))
        elif ports & {5060, 5061} and (_is_sip(data)):
            line.tell("SIP", "udp", first_line(data))
        elif 443 in ports and data[0] & 0x40:
            _quic(line, data)
        elif 4789 in ports and data[:1] == b"\x08" and len(data) >= 8:
            line.tell("VXLAN", "udp", f"VNI {u32(data, 4, 'vxlan') >> 8}")
        elif 138 in ports:
            line.tell("BROWSER" if b"\xffSMB" in data[:120] else "NBDS", "udp")
    except Cut as cut:
        line.add(f"[{cut}]")


def tcp_application(line: Line, data: bytes, source: int, destination: int) -> None:
    """Name what a TCP segment begins with, if it can be told; segments that continue a message stay TCP."""
    ports = {source, destination}
    try:
        if 53 in ports and len(data) > 14 and u16(data, 0, "dns") >= 12 and not u16(data, 4, "dns") & 0x0070:
            dns(line, data[2:], "DNS")
        elif is_tls(data):
            _tls(line, data)
        elif is_http(data):
            line.tell("HTTP", "http", first_line(data))
        elif _is_sip(data):
            line.tell("SIP", "tcp", first_line(data))
        elif data.startswith(b"SSH-"):
            line.tell("SSH", "tcp", f"Protocol ({first_line(data)})")
        elif 22 in ports:
            line.tell("SSH", "tcp", f"Encrypted packet (len={len(data)})")
        elif ports & {25, 587} and _is_text(data):
            _dialogue(line, "SMTP", data, source in (25, 587))
        elif 21 in ports and _is_text(data):
            _dialogue(line, "FTP", data, source == 21)
        elif 110 in ports and _is_text(data):
            _dialogue(line, "POP", data, source == 110)
        elif 143 in ports and _is_text(data):
            _dialogue(line, "IMAP", data, source == 143)
        elif 23 in ports:
            line.tell("TELNET", "tcp", "Telnet Data ...")
        elif 179 in ports and data[:16] == b"\xff" * 16:
            kinds = {1: "OPEN", 2: "UPDATE", 3: "NOTIFICATION", 4: "KEEPALIVE", 5: "ROUTE-REFRESH"}
            line.tell("BGP", "routing", f"{kinds.get(u8(data, 18, 'bgp'), 'unknown')} Message")
        elif ports & {139, 445} and data[4:8] in (b"\xffSMB", b"\xfeSMB"):
            line.tell(
                "SMB2" if data[4] == 0xFE else "SMB",
                "tcp",
                f"command 0x{u8(data, 16 if data[4] == 0xFE else 8, 'smb'):02x}",
            )
        elif 4222 in ports and _is_text(data[:5]):
            line.tell("NATS", "tcp", first_line(data))
    except Cut as cut:
        line.add(f"[{cut}]")


def first_line(data: bytes) -> str:
    """The first line of a text protocol."""
    return latin(data[:400].split(b"\n", 1)[0].rstrip(b"\r"), 180)


_METHODS = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT ",
            b"NOTIFY ", b"M-SEARCH ", b"PROPFIND ", b"HTTP/1.", b"HTTP/2", b"PRI * HTTP")  # fmt: skip
_SIP = (
    b"SIP/2.0 ",
    b"INVITE ",
    b"REGISTER ",
    b"ACK ",
    b"BYE ",
    b"CANCEL ",
    b"SUBSCRIBE ",
    b"REFER ",
    b"MESSAGE ",
)


def is_http(data: bytes) -> bool:
    return data.startswith(_METHODS) and b"SIP/2.0" not in data[:200].split(b"\n", 1)[0]


def _is_sip(data: bytes) -> bool:
    start = data[:200].split(b"\n", 1)[0]
    return start.startswith(b"SIP/2.0 ") or (start.startswith((*_SIP, *_METHODS)) and b"SIP/2.0" in start)


def _is_text(data: bytes) -> bool:
    return all(byte in (9, 10, 13) or byte >= 32 for byte in data[:16])


def _dialogue(line: Line, protocol: str, data: bytes, from_server: bool) -> None:
    line.tell(protocol, "tcp", f"{'S' if from_server else 'C'}: {first_line(data)}")


def dns(line: Line, data: bytes, protocol: str) -> None:
    """RFC 1035: operation, id, first question and the first answers."""
    line.tell(protocol, "dns")
    need(data, 0, 12, "dns")
    number, bits = u16(data, 0, "dns"), u16(data, 2, "dns")
    questions, answers = u16(data, 4, "dns"), u16(data, 6, "dns")
    operation = bits >> 11 & 15
    if protocol == "NBNS":
        name = {0: "Name query", 5: "Registration", 6: "Release", 7: "WACK", 8: "Refresh"}.get(
            operation, "Operation"
        )
    else:
        name = DNS_OPERATIONS.get(operation, f"Operation {operation}")
    text = f"{name}{' response' if bits & 0x8000 else ''} 0x{number:04x}"
    if bits & 0x8000 and bits & 15:
        text += f" {DNS_ERRORS.get(bits & 15, f'error {bits & 15}')}"
    line.tell(protocol, "dns", text)
    offset = 12
    if questions:
        asked, offset = domain(data, offset)
        asked = netbios(asked) if protocol == "NBNS" else asked
        kind = u16(data, offset, "dns")
        line.add(f"{'NB' if protocol == 'NBNS' else _dns_type(kind)} {asked or '<Root>'}")
        offset += 4
    if questions <= 1:
        for _ in range(min(answers, _MAX_ANSWERS)):
            owner, offset = domain(data, offset)
            kind, size = u16(data, offset, "dns"), u16(data, offset + 8, "dns")
            line.add(_answer(data, offset + 10, kind, size, "" if questions else owner))
            offset += 10 + size


def _dns_type(kind: int) -> str:
    return DNS_TYPES.get(kind, f"TYPE{kind}")


def _answer(data: bytes, offset: int, kind: int, size: int, owner: str) -> str:
    if kind == 1 and size == 4:
        value = ipv4(data, offset, "dns")
    elif kind == 28 and size == 16:
        value = ipv6(data, offset, "dns")
    elif kind in (2, 5, 12):
        value = domain(data, offset)[0]
    elif kind == 15:
        value = f"{u16(data, offset, 'dns')} {domain(data, offset + 2)[0]}"
    else:
        value = ""
    return " ".join(word for word in (_dns_type(kind), owner, value) if word)


def domain(data: bytes, offset: int) -> tuple[str, int]:
    """A name and the offset behind it; compression pointers followed at most _MAX_LABELS times."""
    labels: list[str] = []
    behind = -1
    for _ in range(_MAX_LABELS):
        size = u8(data, offset, "dns")
        if size == 0:
            return ".".join(labels), behind if behind >= 0 else offset + 1
        if size >= 0xC0:
            target = u16(data, offset, "dns") & 0x3FFF
            behind = offset + 2 if behind < 0 else behind
            offset = target
        elif size > 63:
            raise Cut("malformed name")
        else:
            need(data, offset + 1, size, "dns")
            labels.append(data[offset + 1 : offset + 1 + size].decode("latin-1"))
            offset += 1 + size
    raise Cut("malformed name")


def netbios(name: str) -> str:
    """RFC 1001, 14.1: two letters per half byte."""
    first = name.split(".", 1)[0]
    if len(first) != 32 or any(not "A" <= letter <= "P" for letter in first):
        return name
    raw = bytes((ord(first[i]) - 65) << 4 | (ord(first[i + 1]) - 65) for i in range(0, 32, 2))
    return f"{raw[:15].decode('latin-1').rstrip()}<{raw[15]:02x}>"


TLS_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
TLS_RECORDS = {
    20: "Change Cipher Spec",
    21: "Alert",
    22: "Handshake",
    23: "Application Data",
    24: "Heartbeat",
}
TLS_HANDSHAKES = {
    0: "Hello Request", 1: "Client Hello", 2: "Server Hello", 4: "New Session Ticket", 8: "Encrypted Extensions",
    11: "Certificate", 12: "Server Key Exchange", 13: "Certificate Request", 14: "Server Hello Done",
    15: "Certificate Verify", 16: "Client Key Exchange", 20: "Finished",
}  # fmt: skip


def is_tls(data: bytes) -> bool:
    return (
        len(data) >= 5
        and data[0] in TLS_RECORDS
        and data[1] == 3
        and data[2] <= 4
        and u16(data, 3, "tls") <= 18432
    )


def _tls(line: Line, data: bytes) -> None:
    version, names, offset = u16(data, 1, "tls"), [], 0
    server_name = ""
    for _ in range(8):
        if not is_tls(data[offset : offset + 5]):
            break
        kind, size = data[offset], u16(data, offset + 3, "tls")
        name = TLS_RECORDS[kind]
        if kind == 22 and offset + 5 < len(data):
            handshake = data[offset + 5]
            name = TLS_HANDSHAKES.get(handshake, "Encrypted Handshake Message")
            if handshake in (1, 2):
                version, server_name = _hello(data[offset + 5 : offset + 5 + size], version, server_name)
        names.append(name)
        offset += 5 + size
    line.tell(TLS_VERSIONS.get(version, "TLS"), "tls", ", ".join(names))
    if server_name:
        line.add(f"(SNI={server_name})")


def _hello(data: bytes, version: int, server_name: str) -> tuple[int, str]:
    """(version, server name) of a Client or Server Hello (RFC 8446, 4.1.2); what is missing stays as it was."""
    try:
        version = max(version, u16(data, 4, "tls"))
        offset = 38 + 1 + u8(data, 38, "tls")
        client = data[0] == 1
        if client:
            offset += 2 + u16(data, offset, "tls")
            offset += 1 + u8(data, offset, "tls")
        else:
            offset += 3
        end = offset + 2 + u16(data, offset, "tls")
        offset += 2
        for _ in range(64):
            if offset + 4 > end:
                break
            kind, size = u16(data, offset, "tls"), u16(data, offset + 2, "tls")
            if kind == 0 and client and size >= 5:
                length = u16(data, offset + 7, "tls")
                need(data, offset + 9, min(length, 255), "tls")
                server_name = latin(data[offset + 9 : offset + 9 + min(length, 255)])
            elif kind == 43 and not client:
                version = u16(data, offset + 4, "tls")
            elif kind == 43:
                offered = data[offset + 5 : offset + 4 + size]
                version = (
                    0x0304
                    if b"\x03\x04" in (offered[i : i + 2] for i in range(0, len(offered), 2))
                    else version
                )
            offset += 4 + size
    except Cut:
        pass
    return version, server_name


DHCP = {1: "Discover", 2: "Offer", 3: "Request", 4: "Decline", 5: "ACK", 6: "NAK", 7: "Release", 8: "Inform"}


def _dhcp(line: Line, data: bytes) -> None:
    """RFC 2131."""
    operation, transaction = u8(data, 0, "dhcp"), u32(data, 4, "dhcp")
    name, offset = {1: "Boot Request", 2: "Boot Reply"}.get(operation, f"operation {operation}"), 240
    protocol = "BOOTP"
    if data[236:240] == b"\x63\x82\x53\x63":
        protocol = "DHCP"
        for _ in range(64):
            kind = u8(data, offset, "dhcp")
            if kind == 255:
                break
            if kind == 0:
                offset += 1
                continue
            if kind == 53:
                name = f"DHCP {DHCP.get(u8(data, offset + 2, 'dhcp'), 'unknown')}"
                break
            offset += 2 + u8(data, offset + 1, "dhcp")
    line.tell(protocol, "udp", f"{name} - Transaction ID 0x{transaction:x}")


_DHCP6 = {1: "Solicit", 2: "Advertise", 3: "Request", 4: "Confirm", 5: "Renew", 6: "Rebind", 7: "Reply",
          8: "Release", 9: "Decline", 10: "Reconfigure", 11: "Information-request", 12: "Relay-forw",
          13: "Relay-reply"}  # fmt: skip


def _dhcp6(line: Line, data: bytes) -> None:
    kind = u8(data, 0, "dhcp6")
    text = _DHCP6.get(kind, f"type {kind}")
    line.tell(
        "DHCPv6", "udp", text if kind in (12, 13) else f"{text} XID: 0x{u32(data, 0, 'dhcp6') & 0xFFFFFF:06x}"
    )


def _ntp(line: Line, data: bytes) -> None:
    modes = {1: "symmetric active", 2: "symmetric passive", 3: "client", 4: "server", 5: "broadcast", 6: "control",
             7: "private"}  # fmt: skip
    first = u8(data, 0, "ntp")
    line.tell("NTP", "udp", f"NTP Version {first >> 3 & 7}, {modes.get(first & 7, 'reserved')}")


def _tftp(line: Line, data: bytes) -> None:
    kinds = {1: "Read Request", 2: "Write Request", 3: "Data Packet", 4: "Acknowledgement", 5: "Error Code",
             6: "Option Acknowledgement"}  # fmt: skip
    kind = u16(data, 0, "tftp")
    text = kinds.get(kind, f"operation {kind}")
    if kind in (1, 2):
        text += ", File: " + latin(data[2:].split(b"\0", 1)[0])
    line.tell("TFTP", "udp", text)


def _quic(line: Line, data: bytes) -> None:
    if data[0] & 0x80:
        version = u32(data, 1, "quic")
        kinds = {0: "Initial", 1: "0-RTT", 2: "Handshake", 3: "Retry"}
        kind = "Version Negotiation" if version == 0 else kinds[data[0] >> 4 & 3]
        line.tell("QUIC", "udp", f"{kind}, version 0x{version:x}")
    else:
        line.tell("QUIC", "udp", "Protected Payload")
