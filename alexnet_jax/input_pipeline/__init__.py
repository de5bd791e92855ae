"""From stored images to numpy batches: the only importer of TensorFlow.

TensorFlow reads, decodes and cuts images on the host; the accelerators belong
to JAX. Both facts are settled here, before any module of the package touches
TensorFlow.
"""

import os

# TensorFlow's C++ side reports every start of its CPU kernels; errors pass.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# It decodes and cuts; oneDNN would only announce itself.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

import tensorflow as tf  # noqa: E402

# A visible GPU would have its whole memory reserved on TensorFlow's first op.
tf.config.set_visible_devices([], 'GPU')
# Batches are made side by side, each by one thread; operations that were spread
# over further threads would take an eighth more processor time, in waiting.
tf.config.threading.set_intra_op_parallelism_threads(1)
