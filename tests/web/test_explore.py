"""The page Explore: what is asked is found, shown escaped, downloaded safely, and what is wrong is said."""

from __future__ import annotations

import csv
import io
import re
import time
from html import unescape
from pathlib import Path

import pytest

from hub.pool.observed import ClockOffset
from hub.pool.store import ConversationRow, OffsetRow
from tests.support.captures import read_capture
from tests.web.fake_agent import udp_packet
from tests.web.pooled import Pooled, pooled, tcp_packet
from tests.web.test_packet import dns_packet

HOSTILE = b"=cmd<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.slow


async def page(pool: Pooled, query: str = "", **more: str) -> tuple[int, str]:
    answer = await pool.client.http.get(
        "/explore", params={"q": query} | more, headers={"accept": "text/html"}
    )
    return answer.status_code, answer.text


async def test_what_is_asked_is_found_and_shown_escaped(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        await pool.send(
            [udp_packet(1), tcp_packet(2, payload=b""), dns_packet(HOSTILE)], ClockOffset(5_000, 4_000, 7_000)
        )
        status, text = await page(pool)
        assert (status, text.count('data-observation="')) == (200, 3)
        assert "<img src=x" not in text
        assert "&lt;img src=x" in text
        assert "± 2 µs" in text
        for query, count in (
            ("tcp.syn", 1),
            ("agent:web1 and udp", 2),
            ("port == 443", 1),
            ("10.0.0.9", 3),
            ("ttl == 1", 0),
        ):
            _, text = await page(pool, query)
            assert text.count('data-observation="') == count, query
        status, text = await page(pool, "tcp and prot == 3")
        assert (status, "did you mean proto" in text) == (422, True)
        assert 'aria-invalid="true"' in text
        status, text = await page(pool, last="1y")
        assert (status, "is no time span" in text) == (422, True)
        status, text = await page(pool, since="2001-01-01", until="2001-01-02")
        assert (status, "Nothing fits in this time" in text, "Search all of it" in text) == (200, True, True)
        everything = re.search(r'href="([^"]+)" data-testid="all-time"', text)
        assert everything is not None
        text = (await pool.client.get(unescape(everything[1]))).text
        assert text.count('data-observation="') == 3

        names = re.findall(r'data-observation="([^"]+)" data-heard="(\d+)"', text)
        opened = await pool.client.http.get(
            "/live/packet", params={"observation": names[1][0], "heard": names[1][1]}
        )
        follow = re.search(r'href="([^"]+)" data-testid="follow"', opened.text)
        assert follow is not None
        text = (await pool.client.get(unescape(follow[1]))).text
        assert text.count('data-observation="') == 1


async def test_more_rows_come_until_all_are_there(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        await pool.send([udp_packet(number) for number in range(230)])
        _, text = await page(pool, "udp", order="newest")
        found = re.findall(r"400\d\d|40[12]\d\d", "".join(re.findall(r"(\d+) →", text)))
        while more := re.search(r'hx-get="([^"]+)"', text):
            text = (await pool.client.http.get(unescape(more[1]))).text
            found += re.findall(r"(\d+) →", text)
        assert "No more in this time" in text
        rows = re.findall(r"(\d+) →", text)
        assert rows[-1] == "40000"
        assert len(set(found)) == 230


async def test_tables_are_whole_and_compute_nothing_in_a_spreadsheet(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        await pool.send([dns_packet(HOSTILE), tcp_packet(2)], ClockOffset(-5_000, -6_000, -4_000))
        answer = await pool.client.get("/explore/packets.csv?last=1h")
        assert answer.headers["content-disposition"].endswith('.csv"')
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["network.transport"] for row in rows] == ["udp", "tcp"]
        assert rows[0]["dns.question.name"].startswith("'=cmd<img")
        assert rows[0]["clock.offset_ns"] == "-5000"
        found = (await pool.client.get("/explore/packets.json?last=1h&q=dns")).json()
        assert (found["complete"], len(found["rows"])) == (True, 1)
        assert found["rows"][0]["dns.question.name"].startswith("=cmd<img")
        for path, status in (
            ("/explore/packets.csv?q=prot==1", 422),
            ("/explore/packets.csv?what=conversations", 422),
            ("/explore/packets.pcapng?times=false", 422),
            ("/explore/packets.json?since=x", 422),
        ):
            assert (await pool.client.get(path)).status_code == status, path


async def test_one_capture_file_of_the_result(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        await pool.send([udp_packet(1), tcp_packet(2), udp_packet(2)], ClockOffset(10**9, 0, 2 * 10**9))
        await pool.send([udp_packet(3)])
        times = {}
        for choice in ("corrected", "raw"):
            answer = await pool.client.get(f"/explore/packets.pcapng?q=udp&last=1h&times={choice}")
            path = tmp_path / f"{choice}.pcapng"
            path.write_bytes(answer.content)
            capture = read_capture(path).packets
            assert [bytes(one.data) for one in capture] == [udp_packet(1), udp_packet(2), udp_packet(3)]
            times[choice] = [one.timestamp_ns for one in capture]
            assert (b"by the pool's clock, as far" in answer.content) == (choice == "corrected")
            assert b"web1/eth0" in answer.content
        assert [raw - corrected for raw, corrected in zip(times["raw"], times["corrected"], strict=True)] == [
            10**9,
            10**9,
            0,
        ]


async def test_the_api_checks_completes_and_answers(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        await pool.send([udp_packet(number) for number in range(5)])

        async def api(path: str, **parameters: str) -> dict[str, object]:
            answer = await pool.client.http.get(f"/api/explore/{path}", params=parameters)
            found: dict[str, object] = answer.json()
            return found

        answer = await api("query", q="agent:", at="6")
        assert [one["text"] for one in answer["suggestions"]] == ["web1"]  # type: ignore[attr-defined]
        answer = await api("query", q="tcp and portt == 3")
        assert answer["error"] == {
            "message": 'there is no field "portt"; did you mean port or sport?',
            "start": 8,
            "end": 13,
        }
        first = await api("packets", q="udp", limit="3")
        rest = await api("packets", q="udp", limit="3", after=str(first["after"]))
        assert (len(first["packets"]), len(rest["packets"]), rest["after"]) == (3, 2, None)  # type: ignore[arg-type]
        drawn = await api("timeline", q="udp")
        assert sum(bar["packets"] for bar in drawn["bars"]) == 5  # type: ignore[attr-defined]
        assert "error" in await api("packets", q="(")
        assert "error" in await api("packets", limit="0")


def conversation(**changes: object) -> ConversationRow:
    now_ns = time.time_ns()
    fields: dict[str, object] = {
        "id": "c1",
        "revision": 1,
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "first_ns": now_ns,
        "last_ns": now_ns + 10**9,
        "source": "10.0.0.7",
        "destination": "10.0.0.9",
        "source_port": 50000,
        "destination_port": 443,
        "protocol": 6,
        "packets": 3,
        "bytes": 300,
        "observations": 5,
        "agents": ("web1", "<db1>"),
        "sessions": ("s" * 26,),
        "names": ("=example<b>",),
    }
    return ConversationRow(**(fields | changes))  # type: ignore[arg-type]


async def test_conversations_and_lanes_made_of_equal_packets(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        batches = await pool.send([tcp_packet(2), tcp_packet(16, payload=b"data", sequence=1001)])
        flow = bytes(batches[0].seen.community_id[0]).decode()
        await pool.store.put_conversations([conversation(community_id=flow)])
        status, text = await page(pool, "packets > 2 and agent:web1", what="conversations")
        assert (status, text.count('data-testid="conversation"')) == (200, 1)
        assert "&lt;db1&gt;" in text
        assert "unknown" in text, "lost packets aren't known"
        text = (await pool.client.get("/explore/conversations/c1")).text
        assert "not-correlated" not in text, "the stored packets make one conversation"
        assert text.count('class="packet-row') == 2
        table = (await pool.client.get("/explore/conversations.csv")).text
        assert "'=example<b>" in table
        answer = (await pool.client.get("/api/explore/conversations/c1")).json()
        assert [segment["forward"] for segment in answer["segments"]] == [True, True]
        assert (await pool.client.get("/explore/conversations/none")).status_code == 404


async def test_clocks_say_unknown_where_they_are(tmp_path: Path) -> None:
    async with pooled(tmp_path) as pool:
        text = (await pool.client.get("/clocks")).text
        assert 'data-testid="clock-web1" data-known="no"' in text
        now_ns = time.time_ns()
        rows = [
            OffsetRow(
                "web1", now_ns - number * 10**9, "db1", 2_000_000, 1_000_000, 3_500_000, 12.5, "traffic"
            )
            for number in range(60)
        ]
        rows.append(OffsetRow("db1", now_ns, "db1", None, None, None, None, "unknown", "a step <b>"))
        await pool.store.put_offsets(rows)
        text = (await pool.client.get("/clocks")).text
        assert 'data-testid="clock-web1" data-known="yes"' in text
        assert "+2 ms" in text
        assert "between +1 ms and +3.5 ms" in text
        assert 'data-testid="clock-db1" data-known="no"' in text
        assert "a step &lt;b&gt;" in text
        assert text.count("<polyline") == 1
        assert len((await pool.client.get("/api/clocks")).json()["offsets"]) == 61
