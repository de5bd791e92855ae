"""ImageNet with batches of 8,192 images: LARS, warm-up, polynomial decay.

  python main.py --config=configs/imagenet_large_batch.py \
      --workdir=runs/large_batch

The recipe of You, Gitman and Ginsburg 2017 (arXiv 1708.03888), with the numbers
of "the solver" that one of them published for LARS at this batch size:
github.com/borisgin/nvcaffe, models/alexnet_bn/solver_8K.prototxt at 448ad5b. We
have not run it on ImageNet.

What is known about the error is other people's, of networks with batch
normalization in place of response normalization, which this project does not
have: 41.4 % top-1 at a batch of 32,768 (You et al. 2018, arXiv 1709.05011) and
41.3 % at up to 65,536 (Jia et al. 2018, arXiv 1807.11205). The solver is for
such a network, too. We know of no published error of the paper's own network at
this size; expect it to be higher. docs/large_batches.md has other batch sizes.
"""

from ml_collections import config_dict

from configs import imagenet


def get_config(preset: str = 'paper') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = imagenet.get_config(preset)
  # 157 updates per epoch, the last of which has 3,215 images.
  config.batch_size = 8192
  # 1,024 images at a time fit in the memory of one device; with more devices
  # each has its share of them.
  config.accumulation = 8
  config.num_epochs = 100  # the solver: 15,600 updates

  config.optimizer.rule = 'lars'
  config.optimizer.lars.trust_coefficient = 0.001  # the solver
  config.optimizer.schedule = 'polynomial'
  config.optimizer.polynomial.power = 2.0  # the solver
  # The solver: 2 for a batch of 1,024, 10 for 8,192, 24 for 16,384. It is for
  # rule=lars, and has nothing to do with the paper's 0.01.
  config.optimizer.learning_rate = 10.0
  # The solver: 600 updates, in which the rate rises from 1, quadratically.
  config.optimizer.warmup_epochs = 4.0
  # LARS does not apply to biases here. This gives them the paper's rate at
  # most; at 10 they would diverge.
  config.optimizer.rate_multipliers.bias = 0.001

  config.log.every_steps = 10
  return config
