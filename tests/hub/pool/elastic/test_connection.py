"""Who we are to Elasticsearch, whom we trust, and what is said when either is wrong; the verb `store`."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

from hub.cli import main
from hub.commands import store as verb
from hub.config import ConfigError, HubSettings, parse
from hub.pool.elastic.connection import Access, Connection
from hub.pool.elastic.indices import Indices
from hub.pool.elastic.kibana import load, saved_objects
from hub.pool.elastic.settings import access_of, indices_of
from hub.pool.store import StoreAway, StoreRefused
from tests.support.elasticsearch import PASSWORD, SUMS, USER, Node, elasticsearch_node, free_port

assert verb.__doc__


@pytest.fixture(scope="module", params=sorted(SUMS))
def secure_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    with elasticsearch_node(request.param, secure=True) as running:
        yield running


@pytest.mark.slow
def test_let_in_by_password_over_tls(secure_node: Node) -> None:
    access = Access([secure_node.url], USER, PASSWORD, ca=str(secure_node.ca))
    cluster = Connection(access).cluster()
    assert cluster.version == secure_node.version
    for wrong, told in (
        (
            replace(access, password="wrong"),
            "refuses user 'tester' with the password in elasticsearch_password_file",
        ),
        (replace(access, user="", password=""), "without a user; set elasticsearch_user"),
        (replace(access, user="", api_key="aWQ6a2V5"), "refuses the API key"),
        (replace(access, ca=""), "set elasticsearch_ca to the certificate of the CA"),
        (
            replace(access, urls=[secure_node.url.replace("127.0.0.1", "127.0.0.2")]),
            "name in elasticsearch_url|reached",
        ),
        (replace(access, urls=[secure_node.url.replace("https", "http")]), "doesn't answer|reached"),
    ):
        with pytest.raises(StoreAway, match=told):
            Connection(wrong).cluster()


@pytest.mark.slow
def test_another_ca_is_not_trusted(secure_node: Node, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=other", "-keyout",
         tmp_path / "key", "-out", other), check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(StoreAway, match="isn't the CA that signed it"):
        Connection(Access([secure_node.url], USER, PASSWORD, ca=str(other))).cluster()


@pytest.mark.slow
def test_the_verb_checks(secure_node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    settings = tmp_path / "hub.yaml"
    text = (
        f"elasticsearch_url: {secure_node.url}\nelasticsearch_user: {USER}\nelasticsearch_replicas: 0\n"
        f"elasticsearch_password_file: {secret}\nelasticsearch_ca: {secure_node.ca}\n"
    )
    settings.write_text(text)
    assert main(["store", "check", "--config", str(settings)]) == 0
    assert f"Elasticsearch {secure_node.version}" in (shown := capsys.readouterr().out)
    assert shown.endswith("it can be used\n")
    secret.write_text("wrong")
    assert main(["store", "check", "--config", str(settings)]) == 1
    assert "elasticsearch_password_file" in capsys.readouterr().err
    settings.write_text("")
    assert main(["store", "check", "--config", str(settings)]) == 2
    assert "elasticsearch_url isn't set" in capsys.readouterr().err


def test_nobody_there() -> None:
    with pytest.raises(StoreAway, match=r"can't be reached.*is it running"):
        Connection(Access([f"http://127.0.0.1:{free_port()}"])).cluster()


class Answers(BaseHTTPRequestHandler):
    """A server that is none of ours: says what it was asked, and answers as told."""

    asked: list[tuple[str, str, bytes]]
    answer: Callable[[str], tuple[int, object]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.asked.append((self.path, self.headers.get("authorization", ""), body))
        status, told = type(self).answer(self.path)
        data = orjson.dumps(told)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, type[Answers]]]:
    class Own(Answers):
        pass

    Own.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Own
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("7.16.3", "too old; upgrade"),
        ("6.8.0", "too old"),
        ("9.0.1", "newer than"),
        ("10.1", "newer than"),
        ("", "too old"),
    ],
)
def test_versions_that_are_not_known(elsewhere: tuple[str, type[Answers]], version: str, told: str) -> None:
    url, server = elsewhere
    server.answer = staticmethod(lambda path: (200, {"version": {"number": version}, "status": "green"}))
    with pytest.raises(StoreAway, match=told):
        Connection(Access([url])).cluster()


def test_an_api_key_is_sent_as_elasticsearch_wants_it(elsewhere: tuple[str, type[Answers]]) -> None:
    url, server = elsewhere
    server.answer = staticmethod(lambda path: (200, {"version": {"number": "8.19.0"}, "status": "green"}))
    assert Connection(Access([f"{url}/behind/a/proxy/"], api_key="aWQ6a2V5")).cluster().status == "green"
    assert server.asked == [
        ("/behind/a/proxy/", "ApiKey aWQ6a2V5", b""), ("/behind/a/proxy/_cluster/health", "ApiKey aWQ6a2V5", b"")
    ]  # fmt: skip


def test_what_is_no_elasticsearch_is_said(elsewhere: tuple[str, type[Answers]]) -> None:
    url, server = elsewhere
    server.answer = staticmethod(lambda path: (200, ["hello"]))
    with pytest.raises(StoreAway, match="isn't Elasticsearch"):
        Connection(Access([url])).cluster()


@pytest.mark.parametrize(
    "url", ["", "host:9200", "ftp://host", "https://", "https://user:pw@host", "https://h:99999"]
)
def test_addresses_that_can_not_be_right(url: str) -> None:
    with pytest.raises(StoreRefused, match="isn't Elasticsearch's address"):
        Connection(Access([url]))


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    both = "elasticsearch_url: https://a:1, https://b:2\nelasticsearch_user: u\n"
    both += f"elasticsearch_password_file: {secret}\n"
    assert access_of(parse(both)) == Access(["https://a:1", "https://b:2"], "u", "s3cret")
    for text, told in (
        ("", "elasticsearch_url isn't set"),
        ("elasticsearch_url: https://a\nelasticsearch_user: u", "go together"),
        (f"{both}elasticsearch_api_key_file: {secret}", "set one of them"),
        (f"{both}elasticsearch_ca: {tmp_path}/none", "there is no file"),
        (both.replace("secret", "none"), "can't be read"),
    ):
        with pytest.raises(ConfigError, match=told):
            access_of(parse(text))
    secret.write_text("two\nlines")
    with pytest.raises(ConfigError, match="one line"):
        access_of(parse(both))
    with pytest.raises(ConfigError, match="elasticsearch_prefix"):
        indices_of(parse("elasticsearch_prefix: A*"))
    assert indices_of(HubSettings()) == Indices()


def test_kibanas_objects_refer_to_each_other_and_to_fields_that_there_are() -> None:
    objects = [orjson.loads(line) for line in saved_objects(Indices("pre")).splitlines()]
    known = {(one["type"], one["id"]) for one in objects}
    assert len(known) == len(objects) == 5
    for one in objects:
        assert {(other["type"], other["id"]) for other in one["references"]} <= known
        for name in ("visState", "panelsJSON", "optionsJSON"):
            orjson.loads(one["attributes"].get(name, "{}"))
    template = Indices("pre").templates()["pre-packets"]["template"]["mappings"]["properties"]
    (search,) = (one for one in objects if one["type"] == "search")
    assert set(search["attributes"]["columns"]) <= set(template)


def test_kibanas_objects_are_loaded_with_one_request(elsewhere: tuple[str, type[Answers]]) -> None:
    url, server = elsewhere
    server.answer = staticmethod(lambda path: (200, {"success": True, "successCount": 5}))
    assert load(url, Access([], "u", "p"), Indices()) == 5
    ((path, authorization, body),) = server.asked
    assert path == "/api/saved_objects/_import?overwrite=true"
    assert authorization.startswith("Basic ")
    assert saved_objects(Indices()) in body
    server.answer = staticmethod(lambda path: (401, {"message": "no"}))
    with pytest.raises(StoreRefused, match="Kibana answers 401"):
        load(url, Access([]), Indices())
