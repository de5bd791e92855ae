"""The presets, with another number of classes where one is asked for."""

import dataclasses

from alexnet_jax import architecture
from alexnet_jax import presets


def get(preset: str, num_classes: int = 0) -> architecture.Architecture:
  """Returns the preset with so many classes; 0 for its own number."""
  network = presets.get(preset)
  if not num_classes:
    return network
  *layers, last = network.layers
  last = dataclasses.replace(last, features=num_classes)
  return dataclasses.replace(network, layers=(*layers, last))
