"""The likeliest classes of any images: --mode=predict."""

from collections.abc import Iterator, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax import files
from alexnet_jax import names
from alexnet_jax.analysis import features
from alexnet_jax.analysis import figures
from alexnet_jax.inference import TrainedNetwork
from alexnet_jax.input_pipeline import sources

# The paper shows and counts five guesses (Figure 4, top-5 error).
_GUESSES = 5
# Images in the terminal and on the contact sheet; predictions.csv has all.
_SHOWN = 48


class Prediction(NamedTuple):
  """The likeliest classes of one image.

  Attributes:
    file: its name, printable.
    labels: int [5], the likeliest first.
    probabilities: float32 [5], of these classes.
    image: uint8 [S, S, 3], as prepared.
  """

  file: str
  labels: np.ndarray
  probabilities: np.ndarray
  image: np.ndarray


def run(
  trained: TrainedNetwork,
  source: sources.Source,
  output: pathlib.Path,
  views: str,
) -> int:
  """Predicts images; prints and writes the five likeliest classes of each.

  Args:
    trained: the run.
    source: the images, from `folder.open_files`.
    output: the folder for predictions.csv and predictions.png.
    views: 'center_view' or 'ten_views'.

  Returns:
    The exit code, 0.

  Raises:
    UserError: if no image can be read.
  """
  shown: list[Prediction] = []
  count = 0

  def rows() -> Iterator[list[Any]]:
    nonlocal count
    for prediction in predict(trained, source, views):
      count += 1
      if len(shown) < _SHOWN:
        shown.append(prediction)
        print(_block(trained, prediction))
      yield from _rows(trained, prediction)

  path = output / 'predictions.csv'
  header = ['file', 'rank', 'class', 'name', 'probability']
  files.write_csv(path, header, rows())
  if count > len(shown):
    print(
      f'... and {count - len(shown):,} more in {names.printable(str(path))}'
    )
  of = f'the first {len(shown)} of ' if count > len(shown) else ''
  noun = 'image' if count == 1 else 'images'
  figures.save_sheet(
    output / 'predictions.png',
    _cards(trained, shown),
    title='Predictions',
    subtitle=f'{views.replace("_", " ")}; {of}{count:,} {noun}; step'
    f' {trained.step:,} of {trained.workdir}',
    columns=4 if len(shown) <= 12 else 6,
  )
  logging.info('%s predicted: %s, predictions.png', f'{count:,}', path)
  return 0


def predict(
  trained: TrainedNetwork, source: sources.Source, views: str
) -> Iterator[Prediction]:
  """Yields the predictions for all images of a source that can be read."""
  compute = features.predictor(trained, views)
  for rows in features.stream(trained, source, compute, 'Predicting'):
    # Stable: of equally likely classes the first.
    order = np.argsort(-rows.outputs, axis=1, stable=True)[:, :_GUESSES]
    best = np.take_along_axis(rows.outputs, order, axis=1)
    for i, labels, log_probs, image in zip(
      rows.indices, order, best, rows.images, strict=True
    ):
      file = names.printable(source.describe(int(i)))
      yield Prediction(file, labels, np.exp(log_probs), image)


def _rows(
  trained: TrainedNetwork, prediction: Prediction
) -> Iterator[list[Any]]:
  for rank, (label, probability) in enumerate(_guesses(prediction), 1):
    class_id, name = trained.class_ids[label], trained.class_names[label]
    yield [prediction.file, rank, class_id, name, probability]


def _guesses(prediction: Prediction) -> Iterator[tuple[int, float]]:
  labels, probabilities = prediction.labels, prediction.probabilities
  return zip(labels.tolist(), probabilities.tolist(), strict=True)


def _block(trained: TrainedNetwork, prediction: Prediction) -> str:
  """Returns the lines of the terminal's table for one image."""
  lines = []
  file = names.shorten(prediction.file, 36)
  for label, probability in _guesses(prediction):
    percent = (
      '< 0.1 %' if probability < 0.0005 else f'{100 * probability:.1f} %'
    )
    name = names.shorten(trained.class_names[label], 40)
    lines.append(f'{file:36}{percent:>8}  {name}')
    file = ''
  return '\n'.join(lines)


def _cards(
  trained: TrainedNetwork, shown: Sequence[Prediction]
) -> list[figures.Panel]:
  return [
    figures.prediction_card(
      f'prediction{i}',
      each.image,
      each.labels,
      each.probabilities,
      trained.class_names,
      title=pathlib.PurePath(each.file).name,
    )
    for i, each in enumerate(shown)
  ]
