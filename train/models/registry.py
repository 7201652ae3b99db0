"""The systems that there are, by the name that the command line gives them."""

from train.models.base import ModelConfig, RetrievalModel
from train.models.how import HowNetwork

SYSTEMS: dict[str, type[RetrievalModel]] = {"how": HowNetwork}


def build_model(system: str, config: ModelConfig) -> RetrievalModel:
    """A network with random weights. Raises UsageError if its configuration does not go together."""
    return SYSTEMS[system](config)
