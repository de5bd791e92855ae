"""The likeliest classes of any images: a table, a CSV file, a contact sheet."""

from collections.abc import Iterator, Sequence
import csv
import pathlib
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from alexnet_jax import errors
from alexnet_jax import evaluate
from alexnet_jax import names
from alexnet_jax.analysis import contact_sheet
from alexnet_jax.inference import Trained

# The paper shows and counts five guesses (Figure 4, top-5 error).
_GUESSES = 5
# Images in the terminal and on the contact sheet; predictions.csv has all.
_SHOWN = 48


class Prediction(NamedTuple):
  """What the network says of one image.

  Attributes:
    name: of the file, printable.
    labels: int [5], the likeliest first.
    probabilities: float32 [5], of the same.
    square: uint8 [S, S, 3], the image as prepared.
  """

  name: str
  labels: np.ndarray
  probabilities: np.ndarray
  square: np.ndarray


def run(trained: Trained, source: Any, output: pathlib.Path, views: str) -> int:
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
  output.mkdir(parents=True, exist_ok=True)
  path = output / 'predictions.csv'
  temporary = path.with_name(path.name + '.tmp')
  shown: list[Prediction] = []
  count = 0
  with temporary.open('w', newline='', encoding='utf-8') as file:
    writer = csv.writer(file)
    writer.writerow(['file', 'rank', 'class', 'name', 'probability'])
    for prediction in predict(trained, source, views):
      writer.writerows(_csv_rows(trained, prediction))
      count += 1
      if len(shown) < _SHOWN:
        shown.append(prediction)
        print(_block(trained, prediction))
  if not count:
    temporary.unlink()
    raise errors.NothingReadableError(source, '--images')
  temporary.replace(path)
  _save_sheet(trained, shown, count, views, output / 'predictions.png')
  if count > len(shown):
    print(
      f'... and {count - len(shown):,} more in {names.printable(str(path))}'
    )
  logging.info('%s predicted: %s, predictions.png', f'{count:,}', path)
  return 0


def predict(trained: Trained, source: Any, views: str) -> Iterator[Prediction]:
  """Yields the predictions of all images of a source that can be read."""
  cuts = evaluate.view_sets(trained.experiment)[views]
  predictor = evaluate.make_predictor(trained, cuts)
  for batch in trained.data.read(source, 'Predicting'):
    probabilities = np.exp(predictor(batch['image']))
    # Stable: of equally likely classes the first, as the labels count.
    order = np.argsort(-probabilities, axis=1, stable=True)[:, :_GUESSES]
    for row in np.flatnonzero(batch['mask']):
      labels = order[row]
      yield Prediction(
        names.printable(source.describe(int(batch['index'][row]))),
        labels,
        probabilities[row, labels],
        batch['image'][row],
      )


def _csv_rows(trained: Trained, prediction: Prediction) -> list[list[Any]]:
  return [
    [
      prediction.name,
      rank,
      trained.class_ids[label],
      trained.class_names[label],
      share,
    ]
    for rank, (label, share) in enumerate(
      zip(prediction.labels, prediction.probabilities.tolist(), strict=True), 1
    )
  ]


def _block(trained: Trained, prediction: Prediction) -> str:
  """Returns the lines of the terminal's table for one image."""
  lines = [
    f'{contact_sheet.percent(share):>8}'
    f'  {contact_sheet.shorten(trained.class_names[label], 40)}'
    for label, share in zip(
      prediction.labels, prediction.probabilities, strict=True
    )
  ]
  name = contact_sheet.shorten(prediction.name, 36)
  starts = [f'{name:36}', *[' ' * 36] * (len(lines) - 1)]
  return '\n'.join(map(''.join, zip(starts, lines, strict=True)))


def _save_sheet(
  trained: Trained,
  shown: Sequence[Prediction],
  count: int,
  views: str,
  path: pathlib.Path,
) -> None:
  cells = [
    contact_sheet.Guesses(
      each.square,
      pathlib.PurePath(each.name).name,
      [trained.class_names[label] for label in each.labels],
      each.probabilities.tolist(),
    )
    for each in shown
  ]
  which = f'{count:,} image' + 's' * (count > 1)
  if count > len(shown):
    which = f'the first {len(shown)} of {which}'
  contact_sheet.save_guesses(
    path,
    cells,
    'The likeliest classes',
    f'{views.replace("_", " ")}; {which}; step {trained.step:,} of'
    f' {trained.workdir}',
  )
