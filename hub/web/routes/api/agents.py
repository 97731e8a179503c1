"""The hosts that capture, as the API tells them, and what can be asked of them."""

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from hub.agents import switch
from hub.agents.connectivity import check_connection
from hub.agents.finding import MAX_ASKED_CHARACTERS, find
from hub.web.guard import web_session
from hub.web.routes.api import answers
from hub.web.routes.api.described import UNSAFE, AgentId, problems
from hub.web.routes.api.orders import CheckOrder, DisableOrder
from hub.web.routes.live import judge_filter
from hub.web.running import Hub, hub_of
from wire.names import check_agent_id

AnyRequest = Request[Any, Any, Any]


CHANGES: dict[str, Any] = UNSAFE | {"responses": problems(404, 409)}


def _answer(hub: Hub, agent: str) -> answers.AgentAnswer:
    return answers.AgentAnswer(answers.Agent.of(hub.presence.status(agent)))


@get("/api/agents", tags=["Agents"], responses=problems())
async def all_agents(request: AnyRequest) -> answers.Agents:
    """Every enrolled agent."""
    return answers.Agents([answers.Agent.of(status) for status in hub_of(request).presence.all()])


@get("/api/agents/{agent:str}", tags=["Agents"], responses=problems(404))
async def one_agent(request: AnyRequest, agent: AgentId) -> answers.AgentAnswer:
    """One agent."""
    return _answer(hub_of(request), check_agent_id(agent))


@post(
    "/api/agents/{agent:str}/ping",
    status_code=200,
    tags=["Agents"],
    **UNSAFE | {"responses": problems(404, 502, 504)},
)
async def ping(request: AnyRequest, agent: AgentId) -> answers.PingAnswer:
    """Ask an agent for a sign of life."""
    return answers.PingAnswer.of(await hub_of(request).control.ping(check_agent_id(agent)))


@post("/api/agents/{agent:str}/disable", status_code=200, tags=["Agents"], **CHANGES)
async def disable(request: AnyRequest, agent: AgentId, data: JSONBody[DisableOrder]) -> answers.AgentAnswer:
    """No sessions for the agent from now on; those that run are stopped. It stays connected and trusted."""
    hub = hub_of(request)
    name = check_agent_id(agent)
    switch.disable(hub.registry, hub.sessions, name, web_session(request).user, data.reason)
    hub.declarer.wake()
    return _answer(hub, name)


@post("/api/agents/{agent:str}/enable", status_code=200, tags=["Agents"], **CHANGES)
async def enable(request: AnyRequest, agent: AgentId) -> answers.AgentAnswer:
    """Let the agent have sessions again; those that were stopped stay so."""
    hub = hub_of(request)
    switch.enable(hub.registry, check_agent_id(agent))
    return _answer(hub, agent)


@post("/api/agents/{agent:str}/test", status_code=200, tags=["Agents"], **CHANGES)
async def test_connection(request: AnyRequest, agent: AgentId) -> answers.ConnectionTest:
    """Try the way from the hub to the agent and back, step by step; up to 12 s when the agent is silent."""
    hub = hub_of(request)
    way = check_connection(hub.bus, hub.control, hub.presence, hub.registry, check_agent_id(agent))
    return answers.ConnectionTest(
        [
            answers.Step(one.name, one.title, one.state, one.text, one.advice, one.took_ns)  # type: ignore[arg-type]
            async for one in way
        ]
    )


@get("/api/find-agent", tags=["Agents"], responses=problems())
async def find_agent(
    request: AnyRequest,
    host: Annotated[
        str,
        QueryParameter(
            description="An address, a host name or an agent's name.", max_length=MAX_ASKED_CHARACTERS
        ),
    ],
) -> answers.Found:
    """Which agent is meant."""
    return answers.Found.of(await find(hub_of(request).presence.all(), host))


@post("/api/check-filter", status_code=200, tags=["Agents"], **UNSAFE)
async def check_filter(request: AnyRequest, data: JSONBody[CheckOrder]) -> answers.Verdict:
    """What an agent's own libpcap says of a filter."""
    targets = [(check_agent_id(data.agent), data.interface)]
    verdict = await judge_filter(hub_of(request), targets, data.filter)
    return answers.Verdict(verdict.kind or "unchecked", verdict.text)  # type: ignore[arg-type]


handlers = [all_agents, one_agent, ping, disable, enable, test_connection, find_agent, check_filter]
