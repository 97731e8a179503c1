"""Two ways to the hub's pages: a person's, by Chromium, and a script's, by curl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.support.netns import wait_for
from tests.support.stand import Stand

PASSWORD = "correct horse battery staple"


class Driver:
    """What a person does at the page, by the names that the page gives its parts."""

    def __init__(self, page: Page, stand: Stand) -> None:
        self.page = page
        self.stand = stand

    def log_in(self) -> None:
        """With the printed password, then the one of one's own that the page asks for."""
        page = self.page
        self._enter(self.stand.first_password)
        page.get_by_label("Password until now").fill(self.stand.first_password)
        page.get_by_label("New password").fill(PASSWORD)
        page.get_by_label("The new one again").fill(PASSWORD)
        page.get_by_test_id("change-password").click()
        expect(page.get_by_test_id("nav-agents")).to_be_visible()

    def log_in_again(self) -> None:
        """With the password of one's own, after somebody has set it."""
        self._enter(PASSWORD)
        expect(self.page.get_by_test_id("nav-agents")).to_be_visible()

    def _enter(self, password: str) -> None:
        page = self.page
        page.goto(self.stand.url + "/login")
        page.get_by_label("User").fill("admin")
        page.get_by_label("Password").fill(password)
        page.get_by_test_id("login").click()

    def start_capture(self, where: dict[str, str], filter_text: str) -> dict[str, str]:
        """Start a session on each agent's interface; agent → session id, once all of them run."""
        page = self.page
        page.goto(self.stand.url + "/live?new=1")
        for agent, interface in where.items():
            page.get_by_test_id(f"pick-{agent}").check()
            page.get_by_test_id(f"interface-{agent}").select_option(interface)
        page.get_by_test_id("filter").fill(filter_text)
        page.get_by_test_id("start-capture").click()
        controls = page.get_by_test_id("controls")
        expect(controls).to_have_count(len(where), timeout=20_000)
        sessions = {}
        for control in controls.all():
            session = control.get_attribute("data-session") or ""
            sessions[self.stand.session(session).agent] = session
        self.expect_state(sessions.values(), "running")
        return sessions

    def control(self, session: str) -> Locator:
        """The part of the live page that belongs to a session."""
        return self.page.locator(f'[data-testid=controls][data-session="{session}"]')

    def expect_state(self, sessions: Iterable[str], state: str) -> None:
        for session in sessions:
            expect(self.control(session)).to_have_attribute("data-state", state, timeout=20_000)

    def pause(self, sessions: Iterable[str]) -> None:
        for session in sessions:
            self.control(session).get_by_test_id("pause-capture").click()
        self.expect_state(sessions, "paused")

    def resume(self, sessions: Iterable[str]) -> None:
        for session in sessions:
            self.control(session).get_by_test_id("resume-capture").click()
        self.expect_state(sessions, "running")

    def stop_capture(self, sessions: Iterable[str]) -> None:
        for session in sessions:
            self.control(session).get_by_test_id("stop-capture").click()
            self.page.get_by_test_id("confirm-yes").click()
        self.expect_state(sessions, "stopped")

    def download(self, session: str, directory: Path, what: str = "pcapng") -> Path:
        """The session's export by its button; the saved file."""
        with self.page.expect_download(timeout=120_000) as started:
            self.control(session).get_by_test_id(f"export-{what}").click()
        path = directory / f"{session}.{what}"
        started.value.save_as(path)
        return path


class Curl:
    """The hub's JSON interface and its downloads by curl in the hub's namespace, logged in after `log_in`."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self._jar = stand.directory / "cookies.txt"
        self._csrf = ""

    def _curl(self, *argv: str, timeout_s: float = 600.0) -> str:
        options = ("curl", "-ksS", "--noproxy", "*", "-b", str(self._jar), "-c", str(self._jar))
        return self.stand.lab.hub.run(*options, *argv, timeout_s=timeout_s)

    def stream(self, path: str) -> list[str]:
        """The command that follows an event stream, logged in, until it is ended."""
        return ["curl", "-ksSN", "--noproxy", "*", "-b", str(self._jar), self.stand.url + path]

    def page(self, path: str) -> str:
        """A page's text; an answer other than 2xx fails."""
        return self._curl("--fail-with-body", self.stand.url + path)

    def get(self, path: str) -> Any:
        """What a path below /api answers."""
        return json.loads(self.page("/api" + path))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Send JSON to a path below /api; an answer other than 2xx fails with its text."""
        headers = ("-H", "content-type: application/json", "-H", f"x-csrf-token: {self._csrf}")
        data = ("--data-binary", json.dumps(body or {}))
        return json.loads(self._curl("--fail-with-body", *headers, *data, f"{self.stand.url}/api{path}"))

    def _form(self, path: str, fields: Mapping[str, str]) -> str:
        data = [part for name, value in fields.items() for part in ("--data-urlencode", f"{name}={value}")]
        shown = ("-o", "/dev/null", "-w", "%{http_code} %{redirect_url}")
        return self._curl(*shown, *data, self.stand.url + path)

    def log_in(self) -> None:
        """As admin; the first time with the printed password, which is then replaced."""
        first = self.stand.first_password
        answer = self._form("/login", {"name": "admin", "password": first})
        if answer.endswith("/password"):
            csrf = self.get("/session")["csrf"]
            answer = self._form("/password", {"old": first, "new": PASSWORD, "again": PASSWORD, "csrf": csrf})
        else:
            answer = self._form("/login", {"name": "admin", "password": PASSWORD})
        assert answer.startswith("303"), answer
        self._csrf = self.get("/session")["csrf"]

    def wait_online(self, *agents: str) -> None:
        """Until the hub calls these agents online."""

        def online() -> bool:
            known = {agent["id"]: agent["state"] for agent in self.get("/agents")["agents"]}
            return all(known.get(agent) == "online" for agent in agents)

        wait_for(online, f"{', '.join(agents)} online", timeout_s=40)

    def start(self, agent: str, interface: str, filter_text: str = "", **options: object) -> str:
        """Start a session and wait until it runs; its id."""
        body = {"agent": agent, "interface": interface, "filter": filter_text, **options}
        session: str = self.post("/sessions", body)["session"]["id"]
        self.wait_state(session, "running")
        return session

    def session(self, session: str) -> dict[str, Any]:
        """A session with its books."""
        answer: dict[str, Any] = self.get(f"/sessions/{session}")["session"]
        return answer

    def wait_state(self, session: str, *states: str, timeout_s: float = 40.0) -> dict[str, Any]:
        """Until the session is in one of these states; the session."""
        wait_for(lambda: self.session(session)["state"] in states, f"{session} {states}", timeout_s=timeout_s)
        return self.session(session)

    def order(self, session: str, order: str, becomes: str) -> dict[str, Any]:
        """pause, resume or stop, and wait until the agent says it is done."""
        self.post(f"/sessions/{session}/{order}")
        return self.wait_state(session, becomes)

    def wait_balanced(self, session: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Until every difference of the session's books is 0 and nothing waits in a spool; the session."""

        def settled() -> bool:
            now = self.session(session)
            return bool(now["balanced"]) and now["books"]["pending"] == 0

        try:
            wait_for(settled, "balanced books", timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.session(session)}") from None
        return self.session(session)

    def download(self, session: str, path: Path, *, timeout_s: float = 600.0) -> Path:
        """A session's export, by the suffix of `path` (.pcapng or .wpz)."""
        address = f"{self.stand.url}/sessions/{session}/export{path.suffix}"
        self._curl("--fail-with-body", "-o", str(path), address, timeout_s=timeout_s)
        return path
