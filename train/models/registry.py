"""The systems that there are, by the name that the command line gives them."""

from runtime.errors import UsageError
from train.models.base import ModelConfig, RetrievalModel
from train.models.delf import DelfNetwork
from train.models.delg import DelgNetwork
from train.models.fire import FireNetwork
from train.models.gem import GemNetwork
from train.models.how import HowNetwork
from train.models.rmac import RmacNetwork
from train.models.solar import SolarNetwork

SYSTEMS: dict[str, type[RetrievalModel]] = {
    network.system: network
    for network in (HowNetwork, GemNetwork, RmacNetwork, SolarNetwork, DelfNetwork, DelgNetwork, FireNetwork)
}


def system_named(name: str) -> type[RetrievalModel]:
    """A system by its name. Raises UsageError if there is none."""
    if name not in SYSTEMS:
        raise UsageError(f"--system {name}: there is {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def build_model(system: str, config: ModelConfig) -> RetrievalModel:
    """A network with random weights. Raises UsageError if its configuration does not go together."""
    return system_named(system)(config)
