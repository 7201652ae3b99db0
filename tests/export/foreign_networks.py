"""Networks as third parties export them: small, with other names, layouts, types and opsets than howl's."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

DIMENSIONS, SIDE, KEYPOINTS = 16, 64, 48

# As those of MegaLoc and MixVPR: a fixed square, any batch.
GLOBAL = """
<ir_version: 7, opset_import: ["" : OPSET]> their (TYPE[n, 3, HEIGHT, WIDTH] images) => (TYPE[n, 16] descriptor)
<TYPE[16, 3, 8, 8] filters> {
    signed = Conv <kernel_shape = [8, 8], strides = [4, 4]> (images, filters)
    map = Relu (signed)
    mean = GlobalAveragePool (map)
    descriptor = Flatten <axis = 1> (mean)
}"""

# Cells of 8×8 pixels as keypoints; its names are those of an engine, and mean something else.
LOCAL = """
<ir_version: 10, opset_import: ["" : 18]> their (float[1, 3, height, width] image)
=> (int64[1, 48, 2] positions, float[1, 48] count, float[1, 48, 16] descriptors)
<float[16, 3, 8, 8] filters> {
    second = Constant <value_ints = [1]> ()
    K = Constant <value_ints = [48]> ()
    map = Conv <kernel_shape = [8, 8], strides = [8, 8]> (image, filters)
    rows = Constant <value_ints = [16, -1]> ()
    flat = Reshape (map, rows)
    features = Transpose <perm = [1, 0]> (flat)
    strength = ReduceL2 <keepdims = 0> (features, second)
    best, index = TopK <axis = 0> (strength, K)
    chosen = Gather <axis = 0> (features, index)
    unit = LpNormalization <axis = 1, p = 2> (chosen)
    map_size = Shape <start = 3, end = 4> (map)
    row = Div (index, map_size)
    column = Mod (index, map_size)
    x = Unsqueeze (column, second)
    y = Unsqueeze (row, second)
    cells = Concat <axis = 1> (x, y)
    side = Constant <value_int = 8> ()
    middle = Constant <value_int = 4> ()
    corners = Mul (cells, side)
    centres = Add (corners, middle)
    batch = Constant <value_ints = [0]> ()
    positions = Unsqueeze (centres, batch)
    count = Unsqueeze (best, batch)
    descriptors = Unsqueeze (unit, batch)
}"""

# The same keypoints without scores, of bytes in OpenCV's layout, and descriptors that are columns.
COLUMNS = (
    LOCAL.replace("float[1, 3, height, width] image", "uint8[height, width, 3] photo")
    .replace("float[1, 48] count, float[1, 48, 16] descriptors", "float[1, 16, 48] columns")
    .replace("    count = Unsqueeze (best, batch)\n", "")
    .replace(
        "    descriptors = Unsqueeze (unit, batch)",
        "    turned = Transpose <perm = [1, 0]> (unit)\n    columns = Unsqueeze (turned, batch)",
    )
    .replace(
        "    map = Conv",
        """    first = Constant <value_ints = [0]> ()
    bytes = Cast <to = 1> (photo)
    planes = Transpose <perm = [2, 0, 1]> (bytes)
    image = Unsqueeze (planes, first)
    map = Conv""",
    )
)

# As many keypoints as cells, of an opset that many exporters still write; x and y are those of cells.
ANY_NUMBER = """
<ir_version: 7, opset_import: ["" : OPSET]> their (float[1, 3, height, width] image)
=> (int64[k, 2] keypoints, float[16, k] columns)
<float[16, 3, 8, 8] filters> {
    map = Conv <kernel_shape = [8, 8], strides = [8, 8]> (image, filters)
    rows = Constant <value = int64[2] {16, -1}> ()
    columns = Reshape (map, rows)
    strongest = ReduceMax <axes = [0, 1], keepdims = 0> (map)
    positive = Abs (strongest)
    places = NonZero (positive)
    keypoints = Transpose <perm = [1, 0]> (places)
}"""


def write_network(
    path: Path, graph: str = GLOBAL, *, opset: int = 17, type: str = "float", size: tuple[object, object] = (SIDE, SIDE)
) -> Path:
    """Writes a network of random filters and gives its path."""
    for key, value in {"OPSET": opset, "TYPE": type, "HEIGHT": size[0], "WIDTH": size[1]}.items():
        graph = graph.replace(key, str(value))
    model = onnx.parser.parse_model(graph)
    del model.graph.initializer[:]
    weights = np.random.default_rng(0).normal(0, 0.05, (DIMENSIONS, 3, 8, 8))
    weights -= weights.mean(axis=(1, 2, 3), keepdims=True)
    if "filters" in graph:
        dtype = np.float16 if type == "float16" else np.float32
        model.graph.initializer.append(numpy_helper.from_array(weights.astype(dtype), "filters"))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
