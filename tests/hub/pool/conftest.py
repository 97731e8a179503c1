"""One Elasticsearch node of each version for all of these tests; each test has a prefix of its own for its indices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.support.elasticsearch import Node, elasticsearch_node


@pytest.fixture(scope="session")
def nodes() -> Iterator[Callable[[str], Node]]:
    """Version → its node, started when it is first asked for."""
    started: dict[str, Node] = {}
    with contextlib.ExitStack() as stack:

        def node(version: str) -> Node:
            if version not in started:
                started[version] = stack.enter_context(elasticsearch_node(version))
            return started[version]

        yield node
