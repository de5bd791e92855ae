"""The report of a trained run: all sections, timed, as one page."""

from collections.abc import Callable
import pathlib
import resource
import sys
import time

from absl import logging

from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax.analysis.report import hidden_layers
from alexnet_jax.analysis.report import invariance
from alexnet_jax.analysis.report import kernels
from alexnet_jax.analysis.report import neighbors
from alexnet_jax.analysis.report import overview
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import predictions
from alexnet_jax.analysis.report import saliency
from alexnet_jax.analysis.report import views
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.inference import TrainedNetwork

# In the page's order.
_SECTIONS: tuple[Callable[[Subject], page.Section], ...] = (
  overview.make,
  kernels.make,
  predictions.make,
  neighbors.make,
  saliency.make,
  invariance.make,
  hidden_layers.make,
  views.make,
)


def run(trained: TrainedNetwork, output: pathlib.Path) -> int:
  """Writes `report/index.html`, with its figures and tables.

  Args:
    trained: the network.
    output: the folder in which the folder `report` is written.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if the data are missing, or no image of a split can be read.
  """
  started = time.perf_counter()
  subject = Subject(trained)
  sections = []
  for number, make in enumerate(_SECTIONS, 1):
    begun = time.perf_counter()
    section = make(subject)
    seconds = time.perf_counter() - begun
    sections.append(section._replace(seconds=seconds))
    logging.info(
      'Report %d/%d: %s, %.1f s',
      number,
      len(_SECTIONS),
      section.title,
      seconds,
    )
  duration = progress.duration(time.perf_counter() - started)
  name = names.printable(subject.workdir.resolve().name)
  written = page.write(
    output / 'report',
    title=f'What the network learned: {name}',
    summary=overview.summary(subject),
    footer=(
      f'Checkpoint of step {subject.step:,}. Made in {duration}; peak memory'
      f' {progress.size(_peak_memory())}.'
    ),
    sections=tuple(sections),
  )
  logging.info('Report in %s: %s', duration, written)
  return 0


def _peak_memory() -> int:
  """Returns the most memory that this process has held so far, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak
