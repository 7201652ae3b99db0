"""Where the time of an extraction goes, stage by stage, by the GPU's own clock."""

from functools import partial

import torch
from torch import Tensor

from tools.experiments.gpu_steps.measuring import Result, channels_last, milliseconds, recorded
from tools.experiments.gpu_steps.preparation import Prepared
from train.models.extractor import LocalExtractor, resize

GRAPHS = (("efficientnet_lite0", 7, "fp16"), ("efficientnet_lite0", 3, "fp16"), ("resnet18", 7, "fp16"))


@torch.no_grad()
def extraction(prepared: Prepared, result: Result) -> None:
    """Every stage of the extractor, recorded by itself, so that the gaps between launches count for nothing."""
    image = prepared.image()
    for network, levels, precision in GRAPHS:
        extractor = channels_last(prepared.extractor(network, levels, precision).cuda())
        if not isinstance(extractor, LocalExtractor):
            raise TypeError(f"{network} has no local features")
        for stage, milliseconds_taken in stages(extractor, torch.from_numpy(image).pin_memory()).items():
            result.add(network=network, levels=levels, stage=stage, ms=milliseconds_taken)
    result.note("Each stage is its own CUDA graph; the whole is one graph from the photo to the descriptors.")


def stages(extractor: LocalExtractor, image: Tensor) -> dict[str, str]:
    """Milliseconds of every stage, and of the whole.

    Args:
        extractor: on the GPU.
        image: uint8 [H, W, 3], page-locked on the host.
    """
    backbone = extractor.network.backbone
    on_gpu = image.cuda()
    pixels = on_gpu.float().permute(2, 0, 1).unsqueeze(0)

    def pyramid() -> list[Tensor]:
        return [resize(pixels, scale, backbone.alignment) for scale in extractor.scales]

    resized = pyramid()
    maps = [backbone(level) for level in resized]
    levels = [extractor.level(pixels, scale) for scale in extractor.scales]
    outputs = extractor.strongest(levels)
    hosts = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in outputs]

    def download() -> None:
        for host, value in zip(hosts, outputs, strict=True):
            host.copy_(value, non_blocking=True)

    def backbones() -> list[Tensor]:
        return [backbone(level) for level in resized]

    def whole() -> None:
        for host, value in zip(hosts, extractor(image.to("cuda", non_blocking=True)), strict=True):
            host.copy_(value, non_blocking=True)

    taken = {
        "upload": recorded(lambda: image.to("cuda", non_blocking=True)),
        "resize pyramid": recorded(pyramid),
        "backbone": recorded(backbones),
        "attention, smoothing, whitening, positions": recorded(partial(heads, extractor, pixels, resized, maps)),
        "the K strongest": recorded(partial(extractor.strongest, levels)),
        "download": recorded(download),
        "whole": recorded(whole),
    }
    return {stage: milliseconds(run) for stage, run in taken.items()}


def heads(extractor: LocalExtractor, pixels: Tensor, resized: list[Tensor], maps: list[Tensor]) -> list[Tensor]:
    """What follows the backbone on every level, whose maps are given."""
    network = extractor.network
    given = iter(maps)
    backbone = network.backbone.forward
    network.backbone.forward = lambda *_: next(given)  # type: ignore[method-assign]
    try:
        return [extractor.level(pixels, scale)[0] for scale in extractor.scales]
    finally:
        network.backbone.forward = backbone  # type: ignore[method-assign]
