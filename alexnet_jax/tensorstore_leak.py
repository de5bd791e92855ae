"""Keeps Orbax from calling what leaks memory in TensorStore.

TensorStore (all versions to 0.1.86) never frees the keys and values of a
dictionary that it converts to Python: in `JsonToPyObject`, json_type_caster.cc,
PyDict_SetItem is given references of its own and takes more. At every
checkpoint Orbax has it convert its statistics, for a line of the log, and the
folder of each array: 70 KiB, of which nothing is needed.
"""

from typing import Any

import tensorstore


def avoid() -> None:
  """Replaces both functions for the whole process."""
  tensorstore.experimental_collect_matching_metrics = _no_metrics
  tensorstore.KvStore.Spec.to_json = _spec_to_json


def _no_metrics(
  metric_prefix: str = '', include_zero_metrics: bool = False
) -> list[Any]:
  del metric_prefix, include_zero_metrics
  return []


_convert = tensorstore.KvStore.Spec.to_json


def _spec_to_json(
  self: tensorstore.KvStore.Spec, include_defaults: bool = False
) -> Any:
  folder = {'driver': 'file', 'path': self.path}
  if not include_defaults and self == tensorstore.KvStore.Spec(folder):
    return folder
  return _convert(self, include_defaults)
