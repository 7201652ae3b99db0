"""What the systems of local descriptors share: the strength of a feature, the sum that mining compares, and ASMK."""

from torch import Tensor
from torch.nn import functional as F

from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.errors import UsageError
from runtime.first_stage import ASMK
from train.models.base import ExtractionConfig, FeatureMap, RetrievalModel


class LocalModel(RetrievalModel):
    """One image at one scale → local descriptors, searched by ASMK. A subclass says where they come from."""

    method = ASMK

    def first_stage(self, codebook: Codebook | None, asmk: AsmkParameters | None) -> AsmkKernel:
        if codebook is None or asmk is None:
            raise UsageError(f"{self.system} searches by ASMK, which needs a codebook and parameters")
        return AsmkKernel(codebook, asmk)

    def number_of_features(self, extraction: ExtractionConfig) -> int:
        """K of an extraction. Raises UsageError if it has none."""
        if extraction.features is None:
            raise UsageError(f"--features: {self.system} needs a number of local features")
        return extraction.features


def attention(features: Tensor) -> Tensor:
    """How strong a feature is (HOW, eq. 6): the L2 norm of its vector, [B, C, h, w] → [B, h, w]."""
    return (features.square().sum(dim=1) + 1e-10).sqrt()


def global_descriptor(local: FeatureMap) -> Tensor:
    """HOW's training descriptor (eq. 7): Σ attention × descriptor over the map, L2-normalised: [B, D]."""
    total = (local.strengths.unsqueeze(1) * local.descriptors).sum(dim=(2, 3))
    return F.normalize(total, dim=1, eps=1e-6)
