"""`wirepool import`: a capture from a host without an agent joins under a name of its own."""

import json
from pathlib import Path

import pytest

from tests.support.captures import difference, read_capture
from tests.support.page import Curl
from tests.support.stand import HUB, Stand

pytestmark = pytest.mark.root


def test_import_lets_a_file_join_under_its_own_name(
    stand: Stand, curl: Curl, captures: Path, tmp_path: Path
) -> None:
    source = captures / "real" / "http_google.pcapng"
    stand.in_hub(*HUB, "import", str(source), "--as", "laptop")
    found = [one for one in curl.get("/sessions")["sessions"] if one["agent"] == "laptop"]
    assert len(found) == 1, json.dumps(found)
    told = curl.wait_balanced(found[0]["id"])
    exported = read_capture(curl.download(found[0]["id"], tmp_path / "laptop.pcapng"))
    assert difference(read_capture(source).packets, exported.packets) == ""
    assert told["verdict"] == "intact"
