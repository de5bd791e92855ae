"""The networks that a config can name, each a value of `Architecture`.

Numbers are the paper's (Sections 3.5 and 5) unless a comment names the 2012
source: the archive published by the Computer History Museum, of which
layers-145.cfg and its siblings describe the nets. The archive lacks the GPU
kernels; what they do at borders and ties is read in the public cuda-convnet of
July 2012.
"""

import dataclasses

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax.architecture import Architecture
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense

# 224 pixels give 55 only if the last window may reach past the border: the
# source rounds up (layer.py:1004), and cuda-convnet's kernel reads zeros there,
# on one side.
_CONV1_PADDING = (0, 3)
_NORM_POOL = ('activation', 'response_norm', 'pool')
_POOL_NORM = ('activation', 'pool', 'response_norm')


def paper() -> Architecture:
  """Two towers as in Sections 3 and 5: 60,965,224 parameters.

  Where the text does not determine it, this is what Figure 2 needs: response
  normalization sums over the maps of one tower, although Section 3.3 speaks of
  all N kernels of the layer, because towers that see each other's maps nowhere
  else before conv3 cannot see them there. The text does not say either how 224
  pixels become 55 (see `_CONV1_PADDING`), or what tied maxima get.
  """
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


def cuda_convnet() -> Architecture:
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
  return dataclasses.replace(
    network,
    # The parser divides the file's 1e-4 by the number of maps (layer.py:1183).
    response_norm=dataclasses.replace(network.response_norm, alpha=1e-4 / 5),
    # cuda-convnet's kernel; the archive has none.
    pool=dataclasses.replace(network.pool, ties='whole'),
  )


def one_gpu() -> Architecture:
  """Half the kernels, but conv5 and the dense layers whole (Section 3.2)."""
  return _halved(paper())


def net_145_half() -> Architecture:
  """Net 145-half: the one-GPU net as coded (layers-145-half.cfg)."""
  return _halved(cuda_convnet())


def _halved(network: Architecture) -> Architecture:
  halves = {'conv1': 48, 'conv2': 128, 'conv3': 192, 'conv4': 192}
  network = _replace(
    network, **{name: {'features': n} for name, n in halves.items()}
  )
  return dataclasses.replace(network, towers=1)


def net_147() -> Architecture:
  """Net 147: pooling without overlap as coded (layers-147.cfg).

  Windows of 2x2 whose last row and column reach past the border, and other
  paddings, which keep 13x13 maps for conv3 and 6x6 for fc6: 55, 28, 26, 13, 13,
  13, 11 and 6 pixels on the way. `paper` with network.pool.size=2 keeps the
  paddings, and has 13x13 and 6x6 maps too.
  """
  network = _replace(
    cuda_convnet(), conv2={'padding': (1, 1)}, conv5={'padding': (0, 0)}
  )
  pool = dataclasses.replace(network.pool, size=2, past_border=True)
  return dataclasses.replace(network, pool=pool)


def net_148() -> Architecture:
  """Net 148: no normalization, neither kind (layers-148.cfg)."""
  return _replace(
    cuda_convnet(),
    conv1={'order': ('pool', 'activation')},
    conv2={'order': ('activation', 'pool')},
  )


def no_communication() -> Architecture:
  """Net 150: towers that meet at the classifier alone (layers-150.cfg).

  It is wider than net 145 elsewhere, 160 maps a tower in conv2 and 4096 units a
  tower in fc6, which leaves it as many parameters and multiply-adds.
  """
  return _replace(
    cuda_convnet(),
    conv2={'features': 320},
    conv3={'reads': 'own'},
    fc6={'features': 8192, 'reads': 'own'},
    fc7={'reads': 'own'},
  )


def ungrouped() -> Architecture:
  """One tower in which every kernel sees every map; not in the paper."""
  return dataclasses.replace(paper(), towers=1)


def torchvision() -> Architecture:
  """The "one weird trick" net (Krizhevsky 2014) as torchvision builds it.

  One tower, no normalization, dropout before fc6 and fc7 and scaled in
  training. torchvision draws weights and biases from U(-b, b) with
  b = fan_in ** -0.5; the weights here are normal with the same standard
  deviation, b / sqrt(3), and the biases begin at 0.
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


def study() -> Architecture:
  """`small` for studies of many runs: a third faster, and made to be compared.

  A 3x3 kernel in conv2 and 64 maps in conv3 and conv4 are what makes it faster.
  Kernels and paddings leave 27, 13, 6 and 5 pixels, on which pooling by 3x3 and
  by 2x2 windows gives maps of the same sides, 13, 6 and 2, as in the paper's
  network: `network.pool.size=2` leaves their number, and loses the last row and
  column of each map.
  """
  network = _replace(
    small(),
    conv1={'padding': (1, 2)},
    conv2={'kernel': 3, 'init_std': 0.13, 'padding': (1, 1)},
    conv3={'features': 64},
    conv4={'features': 64, 'init_std': 0.09},
    conv5={'init_std': 0.09, 'padding': (0, 1)},
  )
  # The paper's alpha is for larger activations: conv1's sums begin with a
  # deviation of 12 there and of 1.2 here, so an alpha of 0.01 has the effect of
  # 1e-4 there; 0.02 and 0.1 trained alike (3 epochs). With 1e-4, normalization
  # multiplies by 2^-0.75 and nothing else: by 0.593 to 0.595 in a trained conv1
  # (1st to 99th percentile); here by 0.33 to 0.595.
  norm = dataclasses.replace(network.response_norm, alpha=0.02)
  # The other one's alpha, for the same activations, is as many times larger.
  within = dataclasses.replace(network.map_norm, alpha=200 * 1e-3 / 25)
  return dataclasses.replace(network, response_norm=norm, map_norm=within)


def four_layer() -> Architecture:
  """A four-layer net for CIFAR-10, such as Figure 1's: ReLU against tanh.

  The paper gives no sizes. These are those of the only four-layer net among
  cuda-convnet's examples (layers-19pct.cfg), whose second and third poolings
  average; here, all take the maximum. One tower, no normalization, no dropout.
  """
  order = ('activation', 'pool')
  return Architecture(
    towers=1,
    pool=architecture.Pool(size=3, stride=2, past_border=True, ties='whole'),
    layers=(
      Conv(
        'conv1', 32, 5, init_std=1e-4, padding=(2, 2),
        order=('pool', 'activation'),
      ),
      Conv('conv2', 32, 5, padding=(2, 2), order=order),
      Conv('conv3', 64, 5, padding=(2, 2), order=order),
      Dense('fc4', 10, order=()),
    ),
  )  # fmt: skip


PRESETS = {
  preset.__name__: preset
  for preset in (
    paper, cuda_convnet, one_gpu, net_145_half, net_147, net_148,
    no_communication, ungrouped, torchvision, small, study, four_layer,
  )
}  # fmt: skip


def get(name: str) -> architecture.Architecture:
  """Returns the preset of this name.

  Raises:
    UserError: if there is none.
  """
  if name == 'source':
    raise errors.UserError(
      "the preset 'source' is now called 'cuda_convnet': set"
      ' --config=configs/imagenet.py:cuda_convnet'
    )
  if name not in PRESETS:
    raise errors.UserError(
      f"no preset is called '{name}': use one of {', '.join(PRESETS)}"
    )
  return PRESETS[name]()
