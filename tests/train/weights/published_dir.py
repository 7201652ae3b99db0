"""Files in the layout of deep-image-retrieval (AP-GeM), and their inference, written out plainly.

Nothing of ours takes part in ``dir_inference``: it reads the published names and follows the authors' steps.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.io.image import Image
from train.backbones import build_backbone

from .published_cirtorch import CHANNELS, Linear, l2
from .published_how import DEVIATION, MEAN, batch_norm_at_random, resnet

KEPT = 12  # directions of whitening
CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}

KINDS: dict[str, dict[str, Any]] = {  # model options
    "layer": {},
    "normalised, layer": {"norm_features": True},
    "no layer": {"without_fc": True},
}


def use_scikit_learn(monkeypatch: pytest.MonkeyPatch, module: str) -> type:
    """A class that pickles as scikit-learn's PCA does, of a version that has it in this module."""
    pca = type("PCA", (), {"__module__": module})
    library = ModuleType(module)
    library.PCA = pca  # type: ignore[attr-defined]
    for name in ("sklearn", "sklearn.decomposition"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module, library)
    return pca


def whitening(pca: type, seed: int, *, whiten: bool) -> Any:
    """What scikit-learn keeps of features of random numbers."""
    random = np.random.default_rng(seed)
    learned = pca()
    learned.__dict__.update(
        mean_=random.normal(size=CHANNELS).astype(np.float32) / 40,
        components_=random.normal(size=(KEPT, CHANNELS)),
        explained_variance_=random.uniform(0.001, 0.1, size=KEPT),
        noise_variance_=np.float64(0.5),
        whiten=whiten,
        svd_solver="auto",
        n_components=None,
    )
    return learned


@torch.no_grad()
def dir_content(kind: str, pca: type | None = None, *, whiten: bool = True) -> dict[str, Any]:
    """What a file of random weights holds; with whitening if there is a class for it."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18")
    batch_norm_at_random(backbone)
    modules = nn.ModuleDict(dict(backbone.named_children()))
    if not KINDS[kind].get("without_fc"):
        modules["fc"] = Linear()
    state = {f"module.{name}": value for name, value in modules.state_dict().items()}
    state["module.adpool.p"] = torch.tensor([2.6])
    content = {
        "model_options": {"arch": "resnet18_rmac", "pooling": "gem", "gemp": 3, "out_dim": CHANNELS, **KINDS[kind]},
        "state_dict": state,
        "preprocess": {"mean": MEAN, "std": DEVIATION, "input_size": 224},
        "iter": 7,
    }
    if pca is not None:
        learned = {"Landmarks_clean": whitening(pca, 0, whiten=whiten), "Other": whitening(pca, 1, whiten=whiten)}
        content["pca"] = learned
    return content


def write_dir(path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@torch.no_grad()
def dir_inference(content: dict[str, Any], image: Image) -> Tensor:
    """The descriptor of an RGB image at its own size, as ``test_dir.py`` gives it with its settings of whitening."""
    options = content["model_options"]
    state = {name.removeprefix("module."): value for name, value in content["state_dict"].items()}
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    numbered = {}
    for name, value in state.items():
        child, _, rest = name.partition(".")
        if child in CHILDREN:
            numbered[f"features.{CHILDREN[child]}.{rest}"] = value
    features = resnet(numbered, pixels)[0]
    p = state["adpool.p"]
    vector = features.clamp(min=1e-6).pow(p).mean(dim=(1, 2)).pow(1 / p)
    if options.get("norm_features"):
        vector = l2(vector)
    if not options.get("without_fc"):
        vector = state["fc.weight"] @ vector + state["fc.bias"]
    vector = l2(vector)
    if "pca" in content:
        pca = content["pca"]["Landmarks_clean"]
        projected = (vector.numpy() - pca.mean_) @ pca.components_.T
        if pca.whiten:
            projected = projected / pca.explained_variance_**0.25
        vector = l2(torch.from_numpy(projected).float())
    return vector
