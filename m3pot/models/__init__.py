"""Models: (graph, edge vectors) -> energy of each atom. A new model is one file and one line in ``MODELS``."""

from m3pot.models.m3gnet import M3GNet

MODELS = {"M3GNet": M3GNet}
