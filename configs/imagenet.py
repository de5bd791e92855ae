"""ImageNet, ILSVRC-2012: the paper's network, data and schedule.

  python main.py --config=configs/imagenet.py --workdir=runs/imagenet
  python main.py --config=configs/imagenet.py:cuda_convnet \
      --workdir=runs/cuda_convnet

Expected errors on the 50,000 validation images with ten views are in README,
one row per preset. Every number is a key: --config.optimizer.momentum=0.8.
"""

from ml_collections import config_dict

from alexnet_jax import architecture
from alexnet_jax import presets
from alexnet_jax import settings
from configs import runs_2012


def get_config(preset: str = 'paper') -> config_dict.ConfigDict:
  """Returns the config; `preset` is one of `presets.PRESETS`."""
  config = base(preset)
  if preset in runs_2012.RUNS:
    runs_2012.apply(runs_2012.RUNS[preset], config)
  if preset == 'torchvision':
    _as_torchvision(config)
  return config


def base(preset: str) -> config_dict.ConfigDict:
  """Returns the paper's recipe around a network."""
  config = config_dict.ConfigDict()

  # Of initial values, dropout masks, order, crops, flips and color shifts.
  config.seed = 0
  # Devices in use. 0: all available ones; on a CPU, one simulated device per
  # tower. 1 runs all towers on one device, 2 is the paper's pair, 4 two pairs.
  config.devices = 0
  # How several devices share the work (docs/parallelism.md): towers (one device
  # per tower), data (all towers and a share of the batch on each), both (copies
  # of the pair of towers, each with a share) or one_weird_trick (convolutions
  # by example, fully connected layers by feature; Krizhevsky 2014). The result
  # is the same.
  config.parallelism = 'both'
  # Folder for compiled programs, so that the next start with the same config
  # need not compile; '': none. By default ~/.cache/alexnet_jax/programs.
  config.compilation_cache = settings.MACHINE_KEYS['compilation_cache']
  # Arithmetic: float32 or bfloat16. Parameters are float32 either way.
  config.compute_dtype = 'float32'
  # Images per update (Section 5).
  config.batch_size = 128
  # Pieces in which a batch is computed when it does not fit in memory.
  config.accumulation = 1
  # "Roughly 90 cycles" (Section 5); the plateau rule may end a run earlier.
  config.num_epochs = 90
  # Updates after which to stop; 0: num_epochs decides. For short trials.
  config.max_steps = 0
  # Updates between validations; 0: one per epoch.
  config.validate_every_steps = 0

  # The network: towers, constants, and one entry per layer. `order` lists what
  # follows a layer's weighted sum, `reads` says whose maps it reads.
  network = presets.get(preset)
  config.network = config_dict.ConfigDict(architecture.to_dict(network))

  config.data = _data()
  config.input = _input()
  config.optimizer = _optimizer(network)
  config.checkpoint = _checkpoint()
  config.log = _log()
  config.evaluate = _evaluate()
  return config


def _data() -> config_dict.ConfigDict:
  """Where the images come from."""
  data = config_dict.ConfigDict()
  # tfds (a tensorflow-datasets set), folder (of class folders), idx (MNIST's
  # files) or synthetic (made-up images).
  data.source = 'tfds'
  data.name = 'imagenet2012'
  # '': the default folder of tensorflow-datasets.
  data.data_dir = ''
  # Folder of the two ILSVRC2012_img_*.tar; '': <data_dir>/downloads/manual.
  data.manual_dir = ''
  # Folder of the prepared store, in which mode=prepare writes the decoded
  # squares of both splits (262 GB for ImageNet). Training then reads only
  # these. '': no store; every epoch decodes the images.
  data.store_dir = ''
  data.train_split = 'train'
  data.eval_split = 'validation'
  # Images to train on, of those of train_split, drawn at random; 0: all. The
  # draw is the same for every seed, and a smaller one is part of a larger one.
  data.num_train = 0
  # For sources that do not name their classes.
  data.class_names = ()
  # Images in each split of the synthetic source.
  data.num_examples = 512
  # Mean and principal components. computed: from this training split, with the
  # paper's mean image, in one pass at the first start; the result is kept next
  # to the data (mode=prepare does it beforehand). imagenet: Krizhevsky's
  # published constants, which need no pass; with input.mean=channel.
  data.statistics = 'computed'
  # The run stops when more than this share of a split cannot be read.
  data.max_unreadable = 0.001
  # A file with more pixels than this is not decoded; 2**28 is 16,384 squared,
  # 0.8 GB as RGB.
  data.max_pixels = 2**28
  # Applies the EXIF orientation. ImageNet's users, the 2012 code among them,
  # ignore it; modes that are given photographs always apply it.
  data.upright = False
  # Threads that read and decode; 0: one per core.
  data.threads = 0
  return data


def _input() -> config_dict.ConfigDict:
  """What is cut out of the images and subtracted."""
  images = config_dict.ConfigDict()
  # Shorter side and center square, in pixels (Section 2).
  images.image_size = 256
  # A smooth random warp of each training image before the crop; not in the
  # paper (Simard, Steinkraus, Platt 2003). A pixel moves by random numbers from
  # [-1, 1] that are smoothed by a Gaussian with a standard deviation of
  # displacement_sigma pixels and multiplied by displacement, pixels: by about
  # 0.163 displacement / displacement_sigma. They used 34 and 4 for digits of 29
  # pixels. 0: no warp.
  images.displacement = 0.0
  images.displacement_sigma = 4.0
  # Side of the crops, in pixels (Section 4.1).
  images.crop_size = 224
  images.random_crop = True
  images.flip = True
  # Consecutive images that share a crop and flip (and warp): 1, or 32 as in the
  # 2012 code.
  images.crop_chunk = 1
  # A new order every epoch. False: one order for all, drawn from the seed; the
  # list of the 2012 code was shuffled once.
  images.shuffle = True
  # Color shift (Section 4.1): paper (eigenvalues of 0..1 pixels), cuda_convnet
  # (standard deviations of 0..255 pixels, sum divided by 1.1) or none.
  images.color = 'paper'
  # What is subtracted: pixel (the mean image), channel (means) or none.
  images.mean = 'pixel'
  # Multiplies centered pixels. The paper's initial weights expect 0..255.
  images.pixel_scale = 1.0
  return images


def _optimizer(network: architecture.Architecture) -> config_dict.ConfigDict:
  """The update rule and its schedule."""
  optimizer = config_dict.ConfigDict()
  # momentum (Section 5), or lars for batches of thousands (You et al. 2017,
  # arXiv 1708.03888); docs/large_batches.md.
  optimizer.rule = 'momentum'
  # plateau, phases, cosine, polynomial or constant.
  optimizer.schedule = 'plateau'
  # Of schedules plateau (before its first drop), cosine, polynomial (their top)
  # and constant. A run that is resumed with another rate uses that one.
  optimizer.learning_rate = 0.01
  # Images for which the rates are given: every schedule's learning rates are
  # multiplied by batch_size / base_batch_size, the linear scaling rule of Goyal
  # et al. 2017 (arXiv 1706.02677, Section 2.1). 0: rates are as given.
  optimizer.base_batch_size = 0
  # Epochs in which the rates of any schedule rise linearly from those of the
  # base batch, from 0 if there is none; 5 in Goyal et al. (Section 2.2).
  optimizer.warmup_epochs = 0.0
  optimizer.momentum = 0.9
  optimizer.weight_decay = 0.0005
  # Decay of biases: 0 in the 2012 code; the paper does not say.
  optimizer.bias_decay = 0.0
  # Magnitude of the color shift (Section 4.1).
  optimizer.color_noise = 0.1
  # Multipliers of a layer's learning rates, or of all biases' rates.
  optimizer.rate_multipliers = config_dict.ConfigDict(
    {'bias': 1.0, **{layer.name: 1.0 for layer in network.layers}}
  )
  # Of rule=lars: how far a step at rate 1 moves the weights of a layer, as a
  # fraction of their norm (0.001 in You et al. 2017), and what is added to the
  # norm of the update, by which it is divided.
  optimizer.lars = config_dict.ConfigDict()
  optimizer.lars.trust_coefficient = 0.001
  optimizer.lars.eps = 0.0
  _schedules(optimizer)
  return optimizer


def _schedules(optimizer: config_dict.ConfigDict) -> None:
  """Adds the keys that belong to one schedule each."""
  optimizer.plateau = config_dict.ConfigDict()
  # Validations without a gain of min_delta (a fraction) before the rate drops.
  # The paper's authors judged by eye; these numbers are ours.
  optimizer.plateau.patience = 3
  optimizer.plateau.min_delta = 0.001
  # "Divide the learning rate by 10", three times (Section 5).
  optimizer.plateau.factor = 10.0
  optimizer.plateau.max_drops = 3
  # Rows of schedule=phases: first epoch, rate, bias rate, color noise, and a
  # multiplier of the weights' rate for each of `layers`; 0 freezes a layer, its
  # biases too. This is the log of net 145, whose bias rate was never cut; other
  # 2012 presets bring their own (configs/runs_2012.py).
  optimizer.phases = config_dict.ConfigDict()
  optimizer.phases.layers = ('conv1',)
  optimizer.phases.rows = runs_2012.phases(runs_2012.RUNS['cuda_convnet'])
  # Falls by half a cosine from the end of the warm-up to that of the run.
  optimizer.cosine = config_dict.ConfigDict()
  optimizer.cosine.end_rate = 0.0
  # (1 - step / steps) ** power of the rate; 2 in You et al. 2017.
  optimizer.polynomial = config_dict.ConfigDict()
  optimizer.polynomial.power = 2.0


def _checkpoint() -> config_dict.ConfigDict:
  """When checkpoints are saved, and how many are kept."""
  checkpoint = config_dict.ConfigDict()
  # Updates between checkpoints; every validation saves one, too.
  checkpoint.every_steps = 2000
  # The last N are kept, and the best by validation error.
  checkpoint.keep = 2
  # Whether a run may be resumed with another batch size, or other training
  # images, than its checkpoint knows. A new epoch then begins.
  checkpoint.accept_changes = False
  return checkpoint


def _log() -> config_dict.ConfigDict:
  """What is logged."""
  log = config_dict.ConfigDict()
  # Updates between log lines.
  log.every_steps = 20
  # Updates at a loss of ln(classes) before a warning.
  log.stuck_after_steps = 2000
  return log


def _evaluate() -> config_dict.ConfigDict:
  """How a network is evaluated."""
  evaluate = config_dict.ConfigDict()
  # Images at a time; any number will do.
  evaluate.batch_size = 128
  # last or best.
  evaluate.checkpoint = 'last'
  return evaluate


def _as_torchvision(config: config_dict.ConfigDict) -> None:
  """Pixels of about unit variance, as torchvision's weights expect."""
  config.data.statistics = 'imagenet'
  config.input.mean = 'channel'
  config.input.pixel_scale = 1 / 57.6  # 255 x the mean of .229, .224, .225
  config.input.color = 'none'
