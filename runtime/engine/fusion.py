"""Convolutions and what follows them, in one kernel of cuDNN's: relu(conv(x) + b) and relu(conv(x) + z + b).

Between two kernels a feature map goes to the GPU's memory and back, which costs more than the arithmetic.
"""

from typing import Any

DEFAULTS = {3: (1, 1), 4: (0, 0), 5: (1, 1), 6: 1}  # of aten.conv2d: stride, padding, dilation, groups, by position


def fuse_convolutions(module: Any, torch: Any) -> int:
    """Fuses every convolution whose only user is a ReLU, or an addition whose only user is one.

    Args:
        module: a program's module (``torch.fx.GraphModule``), which is changed; its weights lie on a GPU.
        torch: the module ``torch``.

    Returns:
        how many were fused.
    """
    fused = 0
    for relu in list(module.graph.nodes):
        if relu.target not in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            continue
        before = relu.args[0]
        if _is_convolution(before, torch) and _is_only_for(before, relu):
            call = torch.ops.aten.cudnn_convolution_relu.default, _arguments(before)
        elif (addition := _addition(before, relu, torch)) is not None:
            convolution, other = addition
            image, weight, bias, *settings = _arguments(convolution)
            call = torch.ops.aten.cudnn_convolution_add_relu.default, [image, weight, other, 1.0, bias, *settings]
        else:
            continue
        with module.graph.inserting_before(relu):
            node = module.graph.call_function(call[0], tuple(call[1]))
        relu.replace_all_uses_with(node)
        module.graph.erase_node(relu)
        fused += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return fused


def _addition(node: Any, relu: Any, torch: Any) -> tuple[Any, Any] | None:
    """The convolution and the other summand, if a node is their sum and only ``relu`` takes it."""
    if node.target != torch.ops.aten.add.Tensor or node.kwargs or not _is_only_for(node, relu):
        return None
    for convolution, other in (node.args[:2], node.args[1::-1]):
        if not _is_convolution(convolution, torch) or not _is_only_for(convolution, node) or not hasattr(other, "op"):
            continue
        # As texts: a side may be a symbol.
        shapes = {str(tuple(node.meta["val"].shape)) for node in (convolution, other) if "val" in node.meta}
        if len(shapes) < 2:  # what is broadcast, cuDNN does not add
            return convolution, other
    return None


def _is_convolution(node: Any, torch: Any) -> bool:
    """Whether a node is a convolution with a bias."""
    if node.target != torch.ops.aten.conv2d.default or node.kwargs:
        return False
    return len(node.args) > 2 and node.args[2] is not None


def _is_only_for(node: Any, user: Any) -> bool:
    return list(node.users) == [user]


def _arguments(convolution: Any) -> list[Any]:
    """Input, weight, bias, stride, padding, dilation and groups."""
    given = list(convolution.args)
    return given + [DEFAULTS[place] for place in range(len(given), 7)]
