"""A generated insightface pack: ONNX files with the signatures of buffalo_l, and no learned weights.

The detector finds a face around every bright spot, so that it answers to the picture; the recogniser is a fixed random
projection of the aligned crop, so that other crops have other vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
ANCHORS = 2
# In units of the stride, around the anchor: a square box, and eyes, nose and mouth inside it.
BOX = np.array([[2.0, 2.0, 2.0, 2.0]], dtype=np.float32)
KEYPOINTS = np.array([[-0.7, -0.4, 0.7, -0.4, 0.0, 0.2, -0.6, 0.9, 0.6, 0.9]], dtype=np.float32)


def write_face_analysis_pack(root: str | Path, model_pack: str = "generated") -> Path:
    """Write models/<model_pack>/{det_10g,w600k_r50}.onnx under `root`; return that folder."""
    folder = Path(root, "models", model_pack)
    folder.mkdir(parents=True)
    onnx.save(_detector(), folder / "det_10g.onnx")
    onnx.save(_recogniser(), folder / "w600k_r50.onnx")
    return folder


def _constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)


def _detector() -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceMean", ["input.1"], ["grey"], axes=[1], keepdims=1)]
    constants = [
        _constant("gain", np.array(12.0, dtype=np.float32)),
        _constant("bias", np.array(-6.0, dtype=np.float32)),
        _constant("nothing", np.array(0.0, dtype=np.float32)),
        _constant("per_anchor", np.array([-1, 1], dtype=np.int64)),
        _constant("box", BOX),
        _constant("keypoints", KEYPOINTS),
    ]
    outputs: dict[str, list[str]] = {"score": [], "bbox": [], "kps": []}
    for stride in STRIDES:
        # Only the coarsest level finds anything.
        gain = "gain" if stride == STRIDES[-1] else "nothing"
        name = f"s{stride}"
        nodes += [
            helper.make_node(
                "AveragePool", ["grey"], [f"{name}_mean"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Mul", [f"{name}_mean", gain], [f"{name}_gained"]),
            helper.make_node("Add", [f"{name}_gained", "bias"], [f"{name}_logit"]),
            helper.make_node("Sigmoid", [f"{name}_logit"], [f"{name}_map"]),
            helper.make_node("Concat", [f"{name}_map"] * ANCHORS, [f"{name}_anchors"], axis=1),
            helper.make_node("Transpose", [f"{name}_anchors"], [f"{name}_last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{name}_last", "per_anchor"], [f"{name}_score"]),
            helper.make_node("Mul", [f"{name}_score", "nothing"], [f"{name}_zero"]),
            helper.make_node("Add", [f"{name}_zero", "box"], [f"{name}_bbox"]),
            helper.make_node("Add", [f"{name}_zero", "keypoints"], [f"{name}_kps"]),
        ]
        for kind, names in outputs.items():
            names.append(f"{name}_{kind}")
    widths = {"score": 1, "bbox": 4, "kps": 10}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "?", "?"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"n_{name}", widths[kind]])
            for kind, names in outputs.items()
            for name in names
        ],
        constants,
    )
    return _model(graph)


def _recogniser() -> onnx.ModelProto:
    projection = np.random.default_rng(7).normal(size=(3 * 14 * 14, 512)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["input.1"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "projection"], ["683"]),
        ],
        "recogniser",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, ["None", 512])],
        [_constant("projection", projection)],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model)
    return model
