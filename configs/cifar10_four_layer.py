"""CIFAR-10, ReLU against tanh in a four-layer net: the paper's Figure 1.

  python main.py --config=configs/cifar10_four_layer.py --workdir=runs/relu \
      --config.data.data_dir=DIR
  python main.py --config=configs/cifar10_four_layer.py --workdir=runs/tanh \
      --config.data.data_dir=DIR --config.network.activation=tanh \
      --config.optimizer.learning_rate=0.004

In the paper the ReLUs reach a training error of 25 % six times faster than an
equivalent network with tanh; the lines of kind `epoch` in metrics.jsonl hold
the training error. The rate of each was chosen on its own, to be fastest
(`--config.optimizer.learning_rate`); the paper gives neither. Nor does it give
the network's sizes: see the preset `four_layer`.
"""

from ml_collections import config_dict

from configs import cifar10


def get_config(preset: str = 'four_layer') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = cifar10.get_config(preset)
  config.batch_size = 128

  # "No regularization of any kind was employed" (Figure 1).
  config.input.crop_size = 32
  config.input.random_crop = False
  config.input.flip = False
  config.input.color = 'none'
  config.optimizer.weight_decay = 0.0
  # Rates and pixels of 0..255 as in cuda-convnet's layer-params-19pct.cfg.
  config.input.pixel_scale = 1.0
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_epochs = 0.0
  config.optimizer.learning_rate = 0.001
  config.optimizer.rate_multipliers.bias = 2.0
  return config
