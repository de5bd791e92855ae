"""From stored images to numpy batches: the only importer of TensorFlow.

TensorFlow runs on the host alone; the accelerators belong to JAX. This is set
up here, before any module of the package touches TensorFlow.
"""

import os

# Errors are still logged, but not every start of the CPU kernels.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# Decoding and cropping make no use of oneDNN, which would log its start.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
# Nothing here uses Keras 3, whose import takes a fifth of TensorFlow's.
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')

import tensorflow as tf  # noqa: E402

# TensorFlow's first operation would reserve all memory of a visible GPU.
tf.config.set_visible_devices([], 'GPU')
# Batches are made in parallel, each by one thread; operations spread over more
# threads would take an eighth more processor time, spent waiting.
tf.config.threading.set_intra_op_parallelism_threads(1)
