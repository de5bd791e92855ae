"""What a study can measure on finished runs besides the error of each.

Each module is one measure: a function of the trained networks of one variant,
all its seeds in ascending order, to results. Its docstring says which variants
and values it has.

* `views`: the error by number of views of an image.
* `ensembles`: the error by number of networks that are averaged.
* `compression`: the error by bytes of the parameters.
* `color_scores`: how colored the kernels of each tower are.
* `gradients`: norms of the gradient by layer, with and without dropout.
* `train_and_test`: the error on training images beside that on others.
* `rivals`: what Table 1 compares the network with: sparse codes and Fisher
  vectors (`sparse_codes` and `fisher_vectors`) with a linear classifier.
"""

from collections.abc import Callable, Iterable, Sequence

from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.studies.measures import color_scores
from alexnet_jax.studies.measures import compression
from alexnet_jax.studies.measures import ensembles
from alexnet_jax.studies.measures import gradients
from alexnet_jax.studies.measures import rivals
from alexnet_jax.studies.measures import train_and_test
from alexnet_jax.studies.measures import views
from alexnet_jax.studies.results import Result

Measure = Callable[[Sequence[TrainedNetwork]], Iterable[Result]]

# By the name that a study's config gives.
MEASURES: dict[str, Measure] = {
  'views': views.measure,
  'ensembles': ensembles.measure,
  'compression': compression.measure,
  'color_scores': color_scores.measure,
  'gradients': gradients.measure,
  'train_and_test': train_and_test.measure,
  'rivals': rivals.measure,
}
