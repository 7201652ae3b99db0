"""The engines that run an exported graph, behind one interface."""

from runtime.engine.interface import Engine, open_engine

__all__ = ["Engine", "open_engine"]
