"""The networks that a config can name, each a value of `Architecture`.

Numbers are the paper's (Section 3.5 and 5) unless a comment names the 2012
source, that is, layers-145.cfg and its siblings in the archive published by the
Computer History Museum.
"""

import dataclasses

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense

# 224 pixels give 55 only if the last window may reach past the border: the
# source's convolution rounds up and reads zeros there, on one side.
_CONV1_PADDING = (0, 3)
_NORM_POOL = ('activation', 'response_norm', 'pool')
_POOL_NORM = ('activation', 'pool', 'response_norm')


def paper() -> Architecture:
  """The text as printed: two towers, 60,965,224 parameters."""
  return Architecture(
    layers=(
      Conv('conv1', 96, 11, stride=4, padding=_CONV1_PADDING, order=_NORM_POOL),
      Conv('conv2', 256, 5, init_bias=1.0, padding=(2, 2), order=_NORM_POOL),
      Conv('conv3', 384, 3, padding=(1, 1), reads='all'),
      Conv('conv4', 384, 3, init_bias=1.0, padding=(1, 1)),
      Conv(
        'conv5', 256, 3, init_bias=1.0, padding=(1, 1),
        order=('activation', 'pool'),
      ),
      Dense('fc6', 4096, init_bias=1.0),
      Dense('fc7', 4096, init_bias=1.0),
      Dense('fc8', 1000, order=()),
    )
  )  # fmt: skip


def _replace(network: Architecture, **layers: dict) -> Architecture:
  """Returns the network with some layers' fields replaced, by layer name."""
  return dataclasses.replace(
    network,
    layers=tuple(
      dataclasses.replace(layer, **layers.get(layer.name, {}))
      for layer in network.layers
    ),
  )


def source() -> Architecture:
  """Net 145 as coded: the run whose log ends in the paper's numbers."""
  network = _replace(
    paper(),
    # conv1 is normalized before its ReLU, which comes after the pooling.
    conv1={'order': ('response_norm', 'pool', 'activation')},
    # A second normalization, within each map, that the paper leaves out.
    conv2={'order': ('activation', 'response_norm', 'map_norm', 'pool')},
    conv3={'init_std': 0.03},
    conv4={'init_std': 0.03},
    conv5={'init_std': 0.03, 'order': ('pool', 'activation')},
  )
  # The parser divides the file's 1e-4 by the number of maps (layer.py:1183).
  norm = dataclasses.replace(network.response_norm, alpha=1e-4 / 5)
  return dataclasses.replace(network, response_norm=norm)


def one_gpu() -> Architecture:
  """Half the kernels, but conv5 and the dense layers whole (Section 3.2)."""
  halves = {'conv1': 48, 'conv2': 128, 'conv3': 192, 'conv4': 192}
  network = _replace(
    paper(), **{name: {'features': n} for name, n in halves.items()}
  )
  return dataclasses.replace(network, towers=1)


def no_communication() -> Architecture:
  """Net 150 of the source: towers that meet at the classifier alone."""
  own = {'reads': 'own'}
  return _replace(source(), conv3=own, fc6=own, fc7=own)


def ungrouped() -> Architecture:
  """One tower in which every kernel sees every map; not in the paper."""
  return dataclasses.replace(paper(), towers=1)


def torchvision() -> Architecture:
  """The "one weird trick" net (Krizhevsky 2014) as torchvision builds it.

  One tower, no normalization, dropout before fc6 and fc7 and scaled in
  training. torchvision draws its weights from U(-b, b) with b = fan_in ** -0.5;
  the normal weights here have the same standard deviation, b / sqrt(3).
  """

  def std(fan_in):
    return (3 * fan_in) ** -0.5

  return Architecture(
    towers=1,
    dropout_scaling='train',
    layers=(
      Conv(
        'conv1', 64, 11, init_std=std(363), stride=4, padding=(2, 2),
        order=('activation', 'pool'),
      ),
      Conv(
        'conv2', 192, 5, init_std=std(1600), padding=(2, 2),
        order=('activation', 'pool'),
      ),
      Conv('conv3', 384, 3, init_std=std(1728), padding=(1, 1)),
      Conv('conv4', 256, 3, init_std=std(3456), padding=(1, 1)),
      Conv(
        'conv5', 256, 3, init_std=std(2304), padding=(1, 1),
        order=('activation', 'pool', 'dropout'),
      ),
      Dense('fc6', 4096, init_std=std(9216)),
      Dense('fc7', 4096, init_std=std(4096), order=('activation',)),
      Dense('fc8', 1000, init_std=std(4096), order=()),
    ),
  )  # fmt: skip


def small() -> Architecture:
  """Two towers for images of 28x28 and 32x32: same ideas, ten classes.

  Stride 1, 5x5 kernels in conv1 and normalization after the pooling, as in the
  CIFAR-10 nets of cuda-convnet, where it costs a quarter as much. The weights
  are drawn so that signals of about unit variance keep their size from layer
  to layer, as the paper's 0.01 does for fan-ins of thousands.
  """
  return Architecture(
    dropout_rate=0.2,  # a few hundred units cannot spare half
    layers=(
      Conv(
        'conv1', 32, 5, init_std=0.16, padding=(2, 2), order=_POOL_NORM
      ),
      Conv(
        'conv2', 64, 5, init_std=0.08, padding=(2, 2), order=_POOL_NORM
      ),
      Conv('conv3', 96, 3, init_std=0.07, padding=(1, 1), reads='all'),
      Conv('conv4', 96, 3, init_std=0.08, padding=(1, 1)),
      Conv(
        'conv5', 64, 3, init_std=0.08, padding=(1, 1),
        order=('activation', 'pool'),
      ),
      Dense('fc6', 256, init_std=0.1),
      Dense('fc7', 256, init_std=0.09),
      Dense('fc8', 10, init_std=0.06, order=()),
    ),
  )  # fmt: skip


PRESETS = {
  preset.__name__: preset
  for preset in (
    paper, source, one_gpu, no_communication, ungrouped, torchvision, small,
  )
}  # fmt: skip


def get(name: str) -> architecture.Architecture:
  """Returns the preset of this name.

  Raises:
    UserError: if there is none.
  """
  if name not in PRESETS:
    raise errors.UserError(
      f"no preset is called '{name}': use one of {', '.join(PRESETS)}"
    )
  return PRESETS[name]()
