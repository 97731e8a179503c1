"""The query language of the pool: what a query is (`ast`), how it is read (`parse`), written (`text`) and helped with
(`complete`). Fields are known only through hub.pool.fields; each store compiles the tree by itself.
"""

from hub.pool.query.ast import (
    Address,
    And,
    Cidr,
    Compare,
    Exists,
    In,
    Matches,
    Network,
    Not,
    Operand,
    Operator,
    Or,
    Query,
    QueryError,
    Range,
    Text,
)

__all__ = [
    "Address",
    "And",
    "Cidr",
    "Compare",
    "Exists",
    "In",
    "Matches",
    "Network",
    "Not",
    "Operand",
    "Operator",
    "Or",
    "Query",
    "QueryError",
    "Range",
    "Text",
]
