"""The hosts that capture, as the API tells them, and what can be asked of them."""

from typing import Any

from litestar import Request, get, post
from litestar.params import JSONBody

from hub.web.routes.api import answers
from hub.web.routes.api.described import UNSAFE, AgentId, problems
from hub.web.routes.api.orders import CheckOrder
from hub.web.routes.live import judge_filter
from hub.web.running import hub_of
from wire.names import check_agent_id

AnyRequest = Request[Any, Any, Any]


@get("/api/agents", tags=["Agents"], responses=problems())
async def all_agents(request: AnyRequest) -> answers.Agents:
    """Every enrolled agent."""
    return answers.Agents([answers.Agent.of(status) for status in hub_of(request).presence.all()])


@get("/api/agents/{agent:str}", tags=["Agents"], responses=problems(404))
async def one_agent(request: AnyRequest, agent: AgentId) -> answers.AgentAnswer:
    """One agent."""
    return answers.AgentAnswer(answers.Agent.of(hub_of(request).presence.status(check_agent_id(agent))))


@post(
    "/api/agents/{agent:str}/ping",
    status_code=200,
    tags=["Agents"],
    **UNSAFE | {"responses": problems(404, 502, 504)},
)
async def ping(request: AnyRequest, agent: AgentId) -> answers.PingAnswer:
    """Ask an agent for a sign of life."""
    return answers.PingAnswer.of(await hub_of(request).control.ping(check_agent_id(agent)))


@post("/api/check-filter", status_code=200, tags=["Agents"], **UNSAFE)
async def check_filter(request: AnyRequest, data: JSONBody[CheckOrder]) -> answers.Verdict:
    """What an agent's own libpcap says of a filter."""
    targets = [(check_agent_id(data.agent), data.interface)]
    verdict = await judge_filter(hub_of(request), targets, data.filter)
    return answers.Verdict(verdict.kind or "unchecked", verdict.text)  # type: ignore[arg-type]


handlers = [all_agents, one_agent, ping, check_filter]
