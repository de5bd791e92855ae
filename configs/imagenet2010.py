"""ImageNet, ILSVRC-2010: the paper's first results (Section 6, Table 1).

  python main.py --config=configs/imagenet2010.py:cuda_convnet \
      --workdir=runs/imagenet2010 --config.data.data_dir=DIR

DIR holds a folder per class under train/ (1.2 million images) and under test/
(150,000). Its labels were published after the contest, which is why the paper
reports this set. Expected top-1 and top-5 errors on the test set:

  net                          ten views        center view
  two towers (paper)           37.5 / 17.0 %    39.0 / 18.3 %
  cuda_convnet, log of 145     37.47 / 17.00    39.02 / 18.30
  net_145_half, its log        39.17 / 18.23    not given
"""

from ml_collections import config_dict

from configs import imagenet
from configs import runs_2012


def get_config(preset: str = 'paper') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = imagenet.get_config(preset)
  if preset == 'cuda_convnet':
    runs_2012.apply(runs_2012.NET_145_2010, config)

  config.data.source = 'folder'
  config.data.name = 'imagenet2010'
  config.data.data_dir = 'data/imagenet2010'
  config.data.eval_split = 'test'
  # The published constants are ILSVRC-2012's.
  config.data.statistics = 'computed'
  return config
