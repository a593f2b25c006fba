"""Which nodes of an ONNX graph its outputs need, in an order in which they can be computed."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

from tfc.ir.errors import ModelError

_GRAPH, _GRAPHS = 5, 10


def title(node: Any) -> str:
    """Return how errors name a node: its own name, or that of its first result."""
    name = node.name or next((output for output in node.output if output), "")
    return f"node {name!r} ({node.op_type})"


def require_text(*names: object) -> None:
    """Refuse names that are not UTF-8, which protobuf hands out as bytes."""
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"the name {name!r} is not UTF-8")


def reads(node: Any) -> set[str]:
    """Return the names that a node reads, with those that its subgraphs read from around them."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        if node.op_type == "Gradient" and attribute.name == "y":
            found.add(attribute.s.decode(errors="replace"))
        if attribute.type == _GRAPH:
            found |= _free(attribute.g)
        elif attribute.type == _GRAPHS:
            found.update(*(_free(graph) for graph in attribute.graphs))
    return found


def _free(graph: Any) -> set[str]:
    """Return the names that a graph reads and does not define."""
    found = {output.name for output in graph.output}
    own = {entry.name for entry in (*graph.input, *graph.initializer)}
    for node in graph.node:
        found |= reads(node)
        own.update(node.output)
    return found - own


def schedule(nodes: Sequence[Any], outputs: Iterable[str]) -> list[Any]:
    """Return those of the nodes that `outputs` need, each behind those it reads from.

    Nodes keep the file's order where that is possible. Raises ModelError for a value that is
    defined twice and for nodes that need each other.
    """
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        require_text(node.name, node.op_type, *node.input, *node.output)
        for name in node.output:
            if name and name in makers:
                raise ModelError(f"{title(node)} defines {name!r} again")
            if name:
                makers[name] = index
    before = _needed(nodes, makers, outputs)
    after: dict[int, list[int]] = {index: [] for index in before}
    for index, sources in before.items():
        for source in sources:
            after[source].append(index)
    waiting = {index: len(sources) for index, sources in before.items()}
    ready = [index for index, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    found: list[Any] = []
    while ready:
        index = heapq.heappop(ready)
        found.append(nodes[index])
        for user in after[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(found) < len(before):
        stuck = min(index for index, count in waiting.items() if count)
        raise ModelError(f"{title(nodes[stuck])} needs its own result")
    return found


def _needed(
    nodes: Sequence[Any], makers: dict[str, int], outputs: Iterable[str]
) -> dict[int, set[int]]:
    """Return the needed nodes by index, with the nodes that each reads from."""
    before: dict[int, set[int]] = {}
    stack = [makers[name] for name in outputs if name in makers]
    while stack:
        index = stack.pop()
        if index in before:
            continue
        before[index] = {makers[name] for name in reads(nodes[index]) if name in makers}
        stack.extend(before[index])
    return before
