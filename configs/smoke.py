"""Made-up images: the whole path, two towers on two devices, in seconds.

python main.py --config=configs/smoke.py --workdir=runs/smoke
"""

from ml_collections import config_dict

from configs import imagenet


def get_config(preset: str = 'small') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = imagenet.base(preset)
  config.num_epochs = 3
  config.batch_size = 32

  config.data.source = 'synthetic'
  config.data.name = 'synthetic'
  config.data.eval_split = 'test'

  config.input.image_size = 32
  config.input.crop_size = 28
  # Pixels of about unit variance: the small nets' initial weights want them.
  config.input.pixel_scale = 1 / 64

  config.optimizer.plateau.patience = 1
  config.log.every_steps = 5
  config.checkpoint.every_steps = 7
  config.evaluate.batch_size = 64
  return config
