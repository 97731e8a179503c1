"""Names, keys and books."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.wire import make
from wire import books, names
from wire.books import Books
from wire.errors import WireError
from wire.keys import SigningKey, fingerprint, verify


@pytest.mark.parametrize("good", ["a", "web1", "0-0", "a" * 48])
def test_agent_ids(good: str) -> None:
    assert names.check_agent_id(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "a" * 49, "A", "a.b", "a_b", "a b", "a*", ">", "ä", "a\n", "a\0", "١", None, 1, b"web1", ["web1"]],
)
def test_what_is_no_agent_id(bad: object) -> None:
    with pytest.raises(WireError):
        names.check_agent_id(bad)


def test_session_ids_are_made_and_checked() -> None:
    made = {names.new_session_id() for _ in range(100)}
    assert len(made) == 100
    assert all(names.check_session_id(one) == one for one in made)
    for bad in ("a" * 25, "a" * 27, "a" * 25 + "1", "A" * 26, "a" * 26 + "\n", None):
        with pytest.raises(WireError):
            names.check_session_id(bad)


def test_subjects() -> None:
    subject = names.batch_subject("web1", make.SESSION, names.Lane.PRIO)
    assert subject == f"cap.web1.{make.SESSION}.prio"
    assert names.parse_batch_subject(subject) == ("web1", make.SESSION, names.Lane.PRIO)
    for bad in (
        "",
        "cap",
        f"cap.web1.{make.SESSION}",
        f"{subject}.x",
        f"hb.web1.{make.SESSION}.bulk",
        "cap." + "x" * 999,
    ):
        with pytest.raises(WireError):
            names.parse_batch_subject(bad)
    assert names.heartbeat_subject("a") == "hb.a"
    assert names.report_subject("a") == "rep.a"
    assert names.control_subject("a", "check-filter") == "ctl.a.check-filter"
    assert names.desired_get_subject("a") == "$JS.API.DIRECT.GET.KV_desired.$KV.desired.a"
    assert names.inbox_prefix("v-ann") == "_INBOX_v-ann"
    for bad in (">", "a.b", ""):
        with pytest.raises(WireError):
            names.control_subject("a", bad)
        with pytest.raises(WireError):
            names.batch_subject(bad, make.SESSION, "bulk")


def test_message_ids_begin_with_the_boot() -> None:
    plain = names.message_id(make.BOOT, make.SESSION, "bulk", 5)
    assert plain == f"{make.BOOT.hex()}.{make.SESSION}.bulk.5"
    assert names.message_id(make.BOOT, make.SESSION, "bulk", 5, 2) == plain + ".r2"
    with pytest.raises(ValueError, match="16"):
        names.message_id(b"short", make.SESSION, "bulk", 5)


def test_keys_sign_and_verify_as_rfc_8032_says() -> None:
    # RFC 8032, 7.1, test 2.
    key = SigningKey.from_seed(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    assert key.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = key.sign(b"\x72")
    assert signature.hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")
    assert verify(key.public, b"\x72", signature)
    assert not verify(key.public, b"\x73", signature)
    assert not verify(make.OTHER_KEY.public, b"\x72", signature)
    assert not verify(key.public, b"\x72", signature[:-1])
    assert not verify(key.public[:-1], b"\x72", signature)
    assert fingerprint(key.public).startswith("SHA256:")
    assert key.seed.hex() not in repr(key)


def test_keys_are_kept_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    key = SigningKey.generate()
    old = os.umask(0)
    try:
        key.save(path)
        key.save(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.load(path).seed == key.seed
    assert os.listdir(tmp_path) == ["signing.key"]
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        SigningKey.load(path)
    for rubbish in (b"", b"\0" * 300, b"wirepool-ed25519-seed AAAA\n", b"wirepool-ed25519-seed \xff\n"):
        path.write_bytes(rubbish)
        path.chmod(0o600)
        with pytest.raises(WireError, match="not a wirepool signing key"):
            SigningKey.load(path)
    with pytest.raises(OSError, match="No such file"):
        key.save(tmp_path / "no" / "key")


def test_the_books_balance_or_say_by_how_much() -> None:
    good = Books(
        received=100,
        dropped_ring=5,
        own_traffic=10,
        dropped_invalid=1,
        captured=84,
        dropped_newest=4,
        spooled=80,
        dropped_oldest=20,
        acknowledged=50,
        pending=10,
    )
    assert good.balanced()
    for name in books.NAMES:
        if name in books.UNCOUNTED:
            continue
        changed = Books(**{**good.to_map(), name: getattr(good, name) + 1})
        assert not changed.balanced(), name
    good.received += 3
    assert good.received_difference() == 3
    assert good.received_difference(in_ring=3) == 0


def test_sums_of_books_keep_not_counted_apart_from_zero() -> None:
    assert books.total([]) == Books()
    assert books.total([Books(received=1, filtered=2), Books(received=3, filtered=4)]) == Books(
        received=4, filtered=6
    )
    assert books.total([Books(filtered=2), Books()]).filtered is None
    assert books.total([Books(cut_off=2, sampled_out=0), Books(cut_off=1)]) == Books(cut_off=3)
    assert books.total([Books(filtered=2)]).filtered == 2


def test_books_come_back_and_bad_ones_are_refused() -> None:
    one = Books(received=2**63 - 1, filtered=0)
    assert Books.from_map(dict(one.to_map())) == one
    assert set(books.LATER) & one.to_map().keys() == set(), "an older reader of vectors sees nothing new"
    counted = Books(filtered=1, sampled_out=0, cut_off=2**63 - 1)
    assert Books.from_map(dict(counted.to_map())) == counted
    for name, value in (
        ("received", -1),
        ("received", 2**63),
        ("pending", None),
        ("captured", True),
        ("filtered", "x"),
        ("cut_off", -1),
        ("sampled_out", 0.5),
    ):
        with pytest.raises(WireError, match=name):
            Books.from_map({**Books().to_map(), name: value})
