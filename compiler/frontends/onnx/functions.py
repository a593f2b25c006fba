"""Function bodies of operators, as onnx's schemas have them: nodes of simpler operators.

Not the functions of a model's own, which `reader` inlines before anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfc.compiler.frontends.onnx.tensors import code_of
from tfc.ir.types import TensorType

_GRAPH = 5


@dataclass(frozen=True)
class Body:
    """Nodes that compute what one node does. inputs and outputs: their names, in its order."""

    nodes: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int


def has_body(node: Any, opset: int) -> bool:
    """Whether the schema of a node's operator tells how to compute it by other operators."""
    return _has_body(_schema(node, opset))


def schema_has_body(name: str, opset: int) -> bool:
    """Whether the schema of a standard operator tells how to compute it by other operators."""
    import onnx

    return _has_body(onnx.defs.get_schema(name, opset))


def _has_body(schema: Any) -> bool:
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def body_of(node: Any, opset: int, types: Callable[[], Sequence[TensorType | None]]) -> Body | None:
    """Return a node's body with its attributes filled in, or None where there is none.

    types: the operands' types, None for one that is left out; asked for only where they count.
    """
    import onnx

    schema = _schema(node, opset)
    if schema is None:
        return None
    if schema.has_function:
        version = _newest(schema.function_opset_versions, opset)
        if not version:
            return None
        raw = schema.get_function_with_opset_version(version)
    elif schema.has_context_dependent_function:
        version = _newest(schema.context_dependent_function_opset_versions, opset)
        protos = [_type_proto(type) for type in types()]
        raw = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), [proto.SerializeToString() for proto in protos]
        )
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(raw)
    given = {attribute.name: attribute for attribute in function.attribute_proto}
    given |= {
        name: schema.attributes[name].default_value
        for name in function.attribute
        if name in schema.attributes and schema.attributes[name].default_value.name
    }
    given |= {attribute.name: attribute for attribute in node.attribute}
    missing = {
        name
        for position, name in enumerate(function.input)
        if position >= len(node.input) or not node.input[position]
    }
    versions = [entry.version for entry in function.opset_import if entry.domain == ""]
    return Body(
        tuple(_filled(inner, given, missing) for inner in function.node),
        tuple(function.input),
        tuple(function.output),
        max(versions, default=opset),
    )


def _schema(node: Any, opset: int) -> Any:
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    if not isinstance(node.op_type, str) or not isinstance(domain, str):
        return None  # not UTF-8
    try:
        return onnx.defs.get_schema(node.op_type, opset if not domain else 1, domain)
    except onnx.defs.SchemaError:
        return None


def _newest(versions: Sequence[int], opset: int) -> int:
    """Return the newest version that a model of `opset` may use; the oldest where all are newer."""
    fitting = [version for version in versions if version <= opset]
    return max(fitting, default=min(versions, default=0))


def _type_proto(type: TensorType | None) -> Any:
    from onnx import TypeProto, helper

    if type is None:
        return TypeProto()
    shape = [dim if isinstance(dim, int) else str(dim) for dim in type.shape]
    return helper.make_tensor_type_proto(code_of(type.dtype), shape)


def _filled(node: Any, given: Mapping[str, Any], missing: set[str]) -> Any:
    """Return a copy of a node without references to the function's attributes and absent inputs."""
    copy = type(node)()
    copy.CopyFrom(node)
    for position, name in enumerate(copy.input):
        if name in missing:
            copy.input[position] = ""
    del copy.attribute[:]
    for attribute in node.attribute:
        value = attribute
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in given:
                continue
            value = given[attribute.ref_attr_name]
        own = copy.attribute.add()
        own.CopyFrom(value)
        own.name = attribute.name
        for graph in (*((own.g,) if own.type == _GRAPH else ()), *own.graphs):
            nodes = [_filled(inner, given, missing) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
    return copy
