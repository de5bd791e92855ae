"""CIFAR-10 through the folder source: <data_dir>/{train,test}/<class>/*.jpg.

  python main.py --config=configs/cifar10.py --workdir=runs/cifar10 \
      --config.data.data_dir=DIR

With tensorflow-datasets instead: --config.data.source=tfds.
"""

from ml_collections import config_dict

from configs import imagenet


def get_config(preset: str = 'small') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = imagenet.base(preset)
  config.num_epochs = 30

  config.data.source = 'folder'
  config.data.name = 'cifar10'
  config.data.data_dir = 'data/cifar10'
  config.data.eval_split = 'test'

  # 28 of 32 is the paper's 224 of 256.
  config.input.image_size = 32
  config.input.crop_size = 28
  # Pixels of about unit variance, which the initial weights are made for.
  config.input.pixel_scale = 1 / 64

  config.optimizer.schedule = 'cosine'
  config.batch_size = 64
  config.optimizer.learning_rate = 0.03
  config.optimizer.warmup_epochs = 1.0
  config.log.every_steps = 100
  config.checkpoint.every_steps = 500
  config.evaluate.batch_size = 500
  return config
