import dataclasses

import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import presets


def _names(stages):
  return [[layer.name for layer in stage] for stage in stages]


def test_a_layer_that_reads_all_towers_starts_a_stage():
  two = [['conv1', 'conv2'], ['conv3', 'conv4', 'conv5']]
  dense = [['fc6'], ['fc7'], ['fc8']]
  assert _names(presets.paper().stages) == two + dense
  assert _names(presets.cuda_convnet().stages) == two + dense
  assert _names(presets.small().stages) == two + dense
  # Towers that meet at the classifier alone.
  before = ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7']
  assert _names(presets.no_communication().stages) == [before, ['fc8']]
  # A fully connected layer always reads all that there is.
  assert _names(presets.torchvision().stages) == [before[:5]] + dense


def test_a_first_layer_that_reads_all_starts_no_second_stage():
  # conv3 reads both towers, but an image is not joined.
  network = presets.small()
  network = dataclasses.replace(network, layers=network.layers[2:])
  assert _names(network.stages)[0] == ['conv3', 'conv4', 'conv5']
  conv3 = architecture.layer_shapes(network, 28)[0]
  assert conv3.weights == 3 * 3 * 3 * 96


@pytest.mark.parametrize('name', list(presets.PRESETS))
def test_dict_round_trip(name):
  network = presets.get(name)
  fields = architecture.to_dict(network)
  assert architecture.from_dict(fields) == network
  assert fields['layers'] == tuple(layer.name for layer in network.layers)
  # A command line knows lists, not tuples, and overrides one layer's value.
  fields['conv1'] = {**fields['conv1'], 'order': ['pool'], 'features': 8}
  changed = architecture.from_dict(fields)
  expected = dataclasses.replace(network.layers[0], order=('pool',), features=8)
  assert changed.layers == (expected, *network.layers[1:])


@pytest.mark.parametrize('towers', [1, 2, 4])
def test_towers_change_what_a_layer_reads(towers):
  network = dataclasses.replace(presets.paper(), towers=towers)
  rows = {row.name: row for row in architecture.layer_shapes(network, 224)}
  # Layers that read their own tower see a share of the maps below them.
  assert rows['conv2'].weights == 5 * 5 * 96 // towers * 256
  assert rows['conv4'].weights == 3 * 3 * 384 // towers * 384
  # Those that read all see every map.
  assert rows['conv3'].weights == 3 * 3 * 256 * 384
  assert rows['fc6'].weights == 6 * 6 * 256 * 4096
  assert [row.output[-1] for row in rows.values()] == [
    96, 256, 384, 384, 256, 4096, 4096, 1000,
  ]  # fmt: skip


def test_leaving_a_layer_out():
  # Section 7: removing any of the middle layers costs about 2 %.
  fields = architecture.to_dict(presets.paper())
  fields['layers'] = tuple(n for n in fields['layers'] if n != 'conv4')
  network = architecture.from_dict(fields)
  rows = architecture.layer_shapes(network, 224)
  assert [row.name for row in rows] == [
    'conv1', 'conv2', 'conv3', 'conv5', 'fc6', 'fc7', 'fc8',
  ]  # fmt: skip
  total = sum(row.weights + row.biases for row in rows)
  assert total == 60_965_224 - 663_936


@pytest.mark.parametrize(
  ('classes', 'padded'), [(5, 6), (101, 102), (100, 100)]
)
def test_odd_numbers_of_classes_fit_two_towers(classes, padded):
  network = presets.small()
  fc8 = dataclasses.replace(network.layers[-1], features=classes)
  network = dataclasses.replace(network, layers=network.layers[:-1] + (fc8,))
  assert network.num_classes == classes
  assert network.features_per_tower(fc8) == padded // 2
  row = architecture.layer_shapes(network, 28)[-1]
  assert row.output == (padded,)
  assert (row.weights, row.biases) == (256 * padded, padded)


def test_smaller_images_shrink_the_first_dense_layer_only():
  # 67 -> conv1 (67 + 3 - 11) / 4 + 1 = 15 -> 7 -> 3 -> 1.
  rows = architecture.layer_shapes(presets.paper(), 67)
  assert [row.output[0] for row in rows[:5]] == [15, 7, 3, 3, 3]
  assert rows[5].weights == 1 * 1 * 256 * 4096
  assert rows[6].weights == 4096 * 4096


def _with_first_layer(**fields):
  network = presets.small()
  first = dataclasses.replace(network.layers[0], **fields)
  return dataclasses.replace(network, layers=(first, *network.layers[1:]))


def _without_conv3():
  fields = architecture.to_dict(presets.small())
  del fields['conv3']
  return architecture.from_dict(fields)


@pytest.mark.parametrize(
  ('build', 'words'),
  [
    (lambda: architecture.Norm(4, 2.0, 1e-4, 0.75), ['4', 'odd']),
    (lambda: architecture.Norm(-1, 2.0, 1e-4, 0.75), ['-1', 'positive']),
    (
      lambda: dataclasses.replace(presets.small(), towers=0),
      ['towers', '0', '1'],
    ),
    (
      lambda: dataclasses.replace(presets.small(), dropout_rate=1.0),
      ['dropout_rate=1.0', '[0, 1)'],
    ),
    (
      lambda: dataclasses.replace(presets.small(), dropout_rate=-0.5),
      ['dropout_rate=-0.5', '[0, 1)'],
    ),
    (
      lambda: dataclasses.replace(presets.small(), dropout_scaling='both'),
      ["network.dropout_scaling='both'", 'test or train'],
    ),
    (
      lambda: dataclasses.replace(presets.small(), towers=3),
      ['network.conv1.features=32', 'network.towers=3'],
    ),
    (
      lambda: _with_first_layer(features=33),
      ['network.conv1.features=33', 'network.towers=2'],
    ),
    (
      lambda: _with_first_layer(reads='both'),
      ["network.conv1.reads='both'", 'own or all'],
    ),
    (
      lambda: _with_first_layer(order=('relu',)),
      ['conv1.order', "'relu'", *architecture.OPERATIONS],
    ),
    (_without_conv3, ['network.layers', "'conv3'"]),
    # 8 -> conv1 1 -> no window of pooling.
    (
      lambda: architecture.layer_shapes(presets.paper(), 8),
      ['crop_size=8', "conv1's pooling"],
    ),
    (
      lambda: architecture.layer_shapes(presets.paper(), 7),
      ['crop_size=7', 'after conv1:'],
    ),
    # 28 -> 5 -> 2 -> no window in conv2's pooling.
    (
      lambda: architecture.layer_shapes(presets.paper(), 28),
      ['crop_size=28', "conv2's pooling"],
    ),
  ],
)
def test_mistakes_are_named_in_one_line(build, words):
  with pytest.raises(errors.UserError) as caught:
    build()
  message = str(caught.value)
  assert '\n' not in message
  assert [word for word in words if word not in message] == []
