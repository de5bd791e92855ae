"""A network as plain data: its layers and their numbers.

A network is a chain of layers that every tower applies with its own parameters.
A layer reads either its own tower's feature maps or those of all towers
concatenated; the layers that read all of them are the only places where towers
communicate (paper, Figure 2). Nothing here computes: `model.py` turns this data
into Linen modules, and configs turn it into keys that the command line can
override.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from alexnet_jax import errors

# What may follow a layer's weighted sum, in the order that `Conv.order` and
# `Dense.order` state.
OPERATIONS = ('activation', 'response_norm', 'map_norm', 'pool', 'dropout')


@dataclasses.dataclass(frozen=True)
class Norm:
  """The constants of x / (k + alpha * sum(x^2)) ** beta (paper, Section 3.3).

  The sum runs over `size` neighboring maps for the response normalization and
  over a `size` x `size` window of one map for the within-map normalization.
  `alpha` is what multiplies the sum: code that divides its alpha by the
  window's size states the quotient here.
  """

  size: int
  k: float
  alpha: float
  beta: float

  def __post_init__(self):
    if self.size < 1 or self.size % 2 == 0:
      raise errors.UserError(
        f'normalization size {self.size} is not odd and positive: a window'
        ' extends equally far to both sides, so use 1, 3, 5, ...'
      )


@dataclasses.dataclass(frozen=True)
class Pool:
  """Max-pooling; overlapping when size > stride (paper, Section 3.4).

  Attributes:
    size: side of the square windows, in pixels.
    stride: distance between windows, in pixels.
    past_border: whether a last window may reach past the border, where it sees
      fewer pixels. cuda-convnet rounds the number of windows up; 3x3 windows
      on the paper's 55, 27 and 13 pixels end at the border either way.
    ties: how the gradient of a window with several equal maxima is divided:
      'shared' gives them equal shares; 'whole' gives each of them all of it, as
      cuda-convnet's kernel does. In float32 only flat areas of an image and
      dead units tie; below float32 ties are frequent and are always shared.
  """

  size: int
  stride: int
  past_border: bool = False
  ties: str = 'shared'

  def __post_init__(self):
    if self.ties not in ('shared', 'whole'):
      raise errors.UserError(
        f"--config.network.pool.ties='{self.ties}' is not a choice: set"
        " --config.network.pool.ties to 'shared' or 'whole'"
      )

  def windows(self, side: int) -> int:
    """Returns the number of windows along `side` pixels, which may be 0."""
    if not self.past_border:
      return max(0, (side - self.size) // self.stride + 1)
    # Every window has a pixel, even if the stride is larger than the window.
    beyond = -(-(side - self.size) // self.stride)
    return min(max(0, beyond) + 1, -(-side // self.stride))


@dataclasses.dataclass(frozen=True)
class Conv:
  """A convolution and what follows it.

  Attributes:
    name: the parameter's name: conv1, conv2, ...
    features: kernels in all towers together, as the paper counts them.
    kernel: side of the square kernel, in pixels.
    init_std: standard deviation of the initial weights.
    init_bias: the initial bias.
    stride: in pixels.
    padding: zeros before and after each spatial axis.
    reads: 'own' tower's maps or 'all' towers' maps.
    order: operations after the weighted sum, of `OPERATIONS`.
  """

  name: str
  features: int
  kernel: int
  init_std: float = 0.01
  init_bias: float = 0.0
  stride: int = 1
  padding: tuple[int, int] = (0, 0)
  reads: str = 'own'
  order: tuple[str, ...] = ('activation',)


@dataclasses.dataclass(frozen=True)
class Dense:
  """A fully connected layer; see `Conv` for the attributes."""

  name: str
  features: int
  init_std: float = 0.01
  init_bias: float = 0.0
  reads: str = 'all'
  order: tuple[str, ...] = ('activation', 'dropout')


Layer = Conv | Dense


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A whole network.

  Attributes:
    layers: from the image to the logits.
    towers: into how many halves (or quarters) each layer's kernels are split.
    activation: relu, relu^n, floor-i or the name of a function of `jax.nn`
      (tanh, gelu, ...); see `model.activation`.
    response_norm: across neighboring maps of one tower.
    map_norm: within one map; used by the 2012 nets alone.
    pool: the same everywhere, as in the paper.
    dropout_rate: probability that an output is zeroed.
    dropout_scaling: 'test' multiplies by 1 - rate at test time (the paper);
      'train' divides by it in training (later practice; `torchvision`).
  """

  layers: tuple[Layer, ...]
  towers: int = 2
  activation: str = 'relu'
  response_norm: Norm = Norm(size=5, k=2.0, alpha=1e-4, beta=0.75)
  map_norm: Norm = Norm(size=5, k=1.0, alpha=1e-3 / 25, beta=0.75)
  pool: Pool = Pool(size=3, stride=2)
  dropout_rate: float = 0.5
  dropout_scaling: str = 'test'

  def __post_init__(self):
    if self.towers < 1:
      raise errors.UserError(
        f'--config.network.towers={self.towers}: at least 1 is needed'
      )
    if not 0 <= self.dropout_rate < 1:
      raise errors.UserError(
        f'--config.network.dropout_rate={self.dropout_rate} is not in [0, 1):'
        ' set it to a probability below 1'
      )
    if self.dropout_scaling not in ('test', 'train'):
      raise errors.UserError(
        f"--config.network.dropout_scaling='{self.dropout_scaling}' is not a"
        ' choice: set --config.network.dropout_scaling to test or train'
      )
    for layer in self.layers:
      self._check(layer)

  def _check(self, layer: Layer) -> None:
    # It becomes part of file names, and a checkpoint may be a stranger's.
    if not re.fullmatch(r'\w{1,64}', layer.name, re.ASCII):
      raise errors.UserError(
        f"--config.network.layers names '{layer.name}': use up to 64 letters,"
        ' digits and underscores'
      )
    # The classifier may have any number of classes: see `padded_features`.
    if layer is not self.layers[-1] and layer.features % self.towers:
      raise errors.UserError(
        f'--config.network.{layer.name}.features={layer.features} cannot be'
        f' divided equally among --config.network.towers={self.towers}: change'
        ' one of the two'
      )
    if layer.reads not in ('own', 'all'):
      raise errors.UserError(
        f"--config.network.{layer.name}.reads='{layer.reads}' is not a choice:"
        f' set --config.network.{layer.name}.reads to own or all'
      )
    unknown = [name for name in layer.order if name not in OPERATIONS]
    if unknown:
      raise errors.UserError(
        f"--config.network.{layer.name}.order names '{unknown[0]}': use any of"
        f' {", ".join(OPERATIONS)}'
      )

  @property
  def num_classes(self) -> int:
    return self.layers[-1].features

  @property
  def stages(self) -> tuple[tuple[Layer, ...], ...]:
    """The layers between joins: a layer that reads all towers starts one."""
    stages: list[list[Layer]] = [[]]
    for layer in self.layers:
      if stages[-1] and layer.reads == 'all':
        stages.append([])
      stages[-1].append(layer)
    return tuple(tuple(stage) for stage in stages)

  def features_per_tower(self, layer: Layer) -> int:
    """Kernels of one tower; rounded up, so that 5 classes fit 2 towers.

    The units beyond the last class are cut off the joined logits.
    """
    return -(-layer.features // self.towers)


@dataclasses.dataclass(frozen=True)
class LayerShape:
  """One row of the network's table; all towers together, per image."""

  name: str
  output: tuple[int, ...]  # before pooling: what the paper counts as neurons
  weights: int
  biases: int
  multiply_adds: int


def layer_shapes(
  network: Architecture, crop_size: int, channels: int = 3
) -> tuple[LayerShape, ...]:
  """Returns each layer's output shape, parameters and multiply-adds.

  Args:
    network: the architecture.
    crop_size: side of the square input in pixels.
    channels: of the input.

  Raises:
    UserError: if the image shrinks to nothing on the way.
  """
  rows = []
  side, maps = crop_size, channels  # `maps` as one tower's layer reads them
  for layer in network.layers:
    width = network.features_per_tower(layer)
    if layer.reads == 'all' and rows:
      maps *= network.towers
    if isinstance(layer, Conv):
      side = (side + sum(layer.padding) - layer.kernel) // layer.stride + 1
      _check_side(side, layer.name, crop_size)
      fan_in, places = layer.kernel**2 * maps, side**2
      output = (side, side, width * network.towers)
    else:
      # Maps are flattened once; from then on there is one place.
      fan_in, places = side**2 * maps, 1
      side, output = 1, (width * network.towers,)
    weights = fan_in * width * network.towers
    biases = width * network.towers
    rows.append(
      LayerShape(layer.name, output, weights, biases, weights * places)
    )
    for _ in range(layer.order.count('pool')):
      side = network.pool.windows(side)
      _check_side(side, f"{layer.name}'s pooling", crop_size)
    maps = width
  return tuple(rows)


def _check_side(side: int, where: str, crop_size: int) -> None:
  if side < 1:
    raise errors.UserError(
      f'--config.input.crop_size={crop_size} leaves nothing after {where}: the'
      ' network needs larger images (--config.input.image_size and'
      ' --config.input.crop_size) or another preset'
    )


def to_dict(network: Architecture) -> dict[str, Any]:
  """Returns the network as nested dicts with one entry a layer.

  `layers` is the tuple of names, so that a layer can be left out by one
  override (paper, Section 7: removing any of the middle layers costs about 2 %
  of top-1 accuracy).
  """
  fields = dataclasses.asdict(network)
  layers = fields.pop('layers')
  names = tuple(layer['name'] for layer in layers)
  by_name = {
    layer.pop('name'): layer for layer in (dict(layer) for layer in layers)
  }
  return {**fields, 'layers': names, **by_name}


def from_dict(fields: Mapping[str, Any]) -> Architecture:
  """The inverse of `to_dict`.

  Raises:
    UserError: if a named layer is missing or a value is impossible.
  """
  fields = dict(fields)
  layers: list[Layer] = []
  names = fields.pop('layers')
  for name in names:
    if 'order' not in _mapping(fields.get(name)):
      raise errors.UserError(
        f"--config.network.layers names '{name}', which the preset does not"
        ' have: leave it out'
      )
    layer = dict(fields[name])
    layer['order'] = tuple(layer['order'])
    if 'kernel' in layer:
      layer['padding'] = tuple(layer['padding'])
      layers.append(Conv(name, **layer))
    else:
      layers.append(Dense(name, **layer))
  _check_order(layers)
  scalars = ('towers', 'activation', 'dropout_rate', 'dropout_scaling')
  return Architecture(
    layers=tuple(layers),
    response_norm=Norm(**fields['response_norm']),
    map_norm=Norm(**fields['map_norm']),
    pool=Pool(**fields['pool']),
    **{name: fields[name] for name in scalars},
  )


def _mapping(value: Any) -> Mapping[str, Any]:
  return value if isinstance(value, Mapping) else {}


def _check_order(layers: Sequence[Layer]) -> None:
  """Raises a UserError for layers that are no classifier."""
  listed = tuple(layer.name for layer in layers)
  dense = [isinstance(layer, Dense) for layer in layers]
  if dense != sorted(dense) or len(dense) < 2 or not dense[-1]:
    raise errors.UserError(
      f'--config.network.layers={listed} is no network: name two or more'
      ' layers, convolutions before fully connected ones, which end it'
    )
  if len(set(listed)) < len(listed):
    raise errors.UserError(
      f'--config.network.layers={listed} names a layer twice: leave it out'
    )
