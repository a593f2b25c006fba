"""Write an ONNX model with operators of a domain that nobody else knows: python model.py FILE."""

import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

nodes = [
    helper.make_node("MinMax", ["x"], ["least", "greatest"], domain="com.acme", axis=1),
    helper.make_node("Sub", ["greatest", "least"], ["range"]),
    helper.make_node("ScaledTanh", ["x", "gain"], ["t"], domain="com.acme", width=2.0),
    helper.make_node("Div", ["t", "range"], ["y"]),
]
graph = helper.make_graph(
    nodes,
    "acme",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
    [numpy_helper.from_array(np.linspace(1, 2, 8, dtype=np.float32), "gain")],
)
opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.acme", 1)]
save(helper.make_model(graph, opset_imports=opsets, ir_version=10), sys.argv[1])
