"""A session's flows as a CSV file (RFC 4180) that a spreadsheet can open without computing anything in it."""

import csv
import io

from hub.explore.tables import cell, time_text
from hub.ledger.flow_totals import FlowTable
from wire.flows import address_text, protocol_name

HEAD = (
    *(
        "protocol",
        "address_a",
        "port_a",
        "address_b",
        "port_b",
        "packets_a",
        "packets_b",
        "bytes_a",
        "bytes_b",
    ),
    *("first_utc", "last_utc"),
)


def csv_of(table: FlowTable) -> str:
    """A line per flow, the largest first, and a last one for all others together, if there are any: their packets and
    bytes of both directions stand under A."""
    out = io.StringIO()
    lines = csv.writer(out)
    lines.writerow(HEAD)
    for row in table.rows:
        flow = row.sum
        texts = (
            *(protocol_name(row.protocol), address_text(row.address_a), str(row.port_a)),
            *(address_text(row.address_b), str(row.port_b)),
            *map(str, (flow.packets_a, flow.packets_b, flow.bytes_a, flow.bytes_b)),
            *(time_text(flow.first_timestamp_ns), time_text(flow.last_timestamp_ns)),
        )
        lines.writerow(map(cell, texts))
    rest = table.rest
    if rest.flows:
        lines.writerow(["others", "", "", "", "", rest.packets, 0, rest.bytes, 0, "", ""])
    return out.getvalue()
