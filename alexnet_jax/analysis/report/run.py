"""The report of a trained run: all sections, timed, as one page."""

from collections.abc import Callable
import dataclasses
import pathlib
import resource
import sys
import time

from absl import logging
from ml_collections import config_dict

from alexnet_jax import inference
from alexnet_jax import names
from alexnet_jax import progress
from alexnet_jax.analysis.report import inside
from alexnet_jax.analysis.report import invariance
from alexnet_jax.analysis.report import kernels
from alexnet_jax.analysis.report import neighbors
from alexnet_jax.analysis.report import overview
from alexnet_jax.analysis.report import page
from alexnet_jax.analysis.report import predictions
from alexnet_jax.analysis.report import saliency
from alexnet_jax.analysis.report import subject as subjects
from alexnet_jax.analysis.report import views
from alexnet_jax.analysis.report.subject import Subject
from alexnet_jax.setup import Experiment

_SECTIONS: tuple[Callable[[Subject], page.Section], ...] = (
  overview.make,
  kernels.make,
  predictions.make,
  neighbors.make,
  saliency.make,
  invariance.make,
  inside.make,
  views.make,
)


def run(
  workdir: pathlib.Path | str,
  overrides: config_dict.ConfigDict | Experiment | None = None,
) -> int:
  """Writes `<workdir>/report/index.html`, with its figures and tables.

  Args:
    workdir: of a run that has saved a checkpoint.
    overrides: see `inference.open_run`.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if there is no checkpoint, the data are missing, or no image of a
      split can be read.
  """
  started = time.perf_counter()
  opened = inference.open_run(workdir, overrides)
  subject = subjects.open_subject(opened)
  sections = []
  for number, make in enumerate(_SECTIONS, 1):
    section = _timed(make, subject)
    sections.append(section)
    logging.info(
      'Report %d/%d: %s, %.1f s',
      number,
      len(_SECTIONS),
      section.title,
      section.seconds,
    )
  seconds = time.perf_counter() - started
  name = names.printable(opened.workdir.resolve().name)
  written = page.write(
    opened.workdir / 'report',
    title=f'What the network learned: {name}',
    summary=overview.summary(subject),
    footer=(
      f'Checkpoint of step {opened.step:,}. Made in'
      f' {progress.duration(seconds)}, with at most'
      f' {overview.size(peak_memory())} of memory.'
    ),
    sections=tuple(sections),
  )
  logging.info('Report in %s: %s', progress.duration(seconds), written)
  return 0


def _timed(
  make: Callable[[Subject], page.Section], subject: Subject
) -> page.Section:
  started = time.perf_counter()
  section = make(subject)
  return dataclasses.replace(section, seconds=time.perf_counter() - started)


def peak_memory() -> int:
  """Returns the most memory this process has held so far, in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak
