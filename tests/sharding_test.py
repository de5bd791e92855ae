import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from alexnet_jax import architecture
from alexnet_jax import errors
from alexnet_jax import presets
from alexnet_jax import sharding
from alexnet_jax.architecture import Conv
from alexnet_jax.architecture import Dense


def _network(towers, *changed):
  layers = (
    Conv('conv1', 8, 3),
    Conv('conv2', 8, 3, reads='all'),
    Dense('fc6', 16),
    Dense('fc7', 16),
    Dense('fc8', 5, order=()),
  )
  replaced = {layer.name: layer for layer in changed}
  return architecture.Architecture(
    tuple(replaced.get(layer.name, layer) for layer in layers), towers
  )


def _place(towers, count, parallelism='both'):
  devices = jax.devices()[:count]
  return sharding.place(_network(towers), devices, parallelism)


class _Device:
  """Stands in for a device of one of several processes."""

  platform = 'cpu'

  def __init__(self, number, process):
    self.id, self.process_index = number, process


def _distributed(parallelism, processes, devices_each):
  devices = [
    _Device(process * devices_each + i, process)
    for process in range(processes)
    for i in range(devices_each)
  ]
  return sharding.place(_network(2), devices, parallelism)


@pytest.mark.parametrize(
  ('parallelism', 'towers', 'count', 'shape'),
  [
    ('both', 1, 1, (1, 1)), ('both', 1, 2, (2, 1)), ('both', 1, 4, (4, 1)),
    ('both', 2, 1, (1, 1)), ('both', 2, 2, (1, 2)), ('both', 2, 4, (2, 2)),
    ('both', 4, 1, (1, 1)), ('both', 4, 2, (1, 2)), ('both', 4, 4, (1, 4)),
    ('towers', 2, 1, (1, 1)), ('towers', 2, 2, (1, 2)),
    ('towers', 4, 2, (1, 2)),
    ('data', 2, 1, (1, 1)), ('data', 2, 3, (3, 1)), ('data', 4, 4, (4, 1)),
    ('one_weird_trick', 2, 1, (1, 1)), ('one_weird_trick', 2, 4, (2, 2)),
    ('one_weird_trick', 1, 4, (4, 1)), ('one_weird_trick', 4, 2, (1, 2)),
  ],
)  # fmt: skip
def test_mesh(parallelism, towers, count, shape):
  mesh = _place(towers, count, parallelism).mesh
  assert mesh.axis_names == ('data', 'tower')
  assert mesh.devices.shape == shape
  # The towers of one copy are neighbors.
  assert list(mesh.devices.flat) == jax.devices()[:count]


def _message(function, *args):
  with pytest.raises(errors.UserError) as caught:
    function(*args)
  message = str(caught.value)
  assert '\n' not in message
  return message


@pytest.mark.parametrize(
  ('parallelism', 'towers', 'count', 'words'),
  [
    ('both', 3, 2, ['3 towers', '2 devices', 'one of 1, 3, 6, ...']),
    ('both', 2, 3, ['3 devices', 'one of 1, 2, 4, ...', 'parallelism=data']),
    ('one_weird_trick', 4, 3, ['4 towers', 'one of 1, 2, 4, 8, ...']),
    ('towers', 2, 4, [
      '=towers', '2 towers', '4 devices', '--config.devices to one of 1, 2,',
      '--config.parallelism to both or data',
    ]),
    ('towers', 4, 3, ['4 towers', '3 devices', 'one of 1, 2, 4,']),
    ('rows', 2, 2, ["--config.parallelism='rows'", 'one_weird_trick']),
  ],
)  # fmt: skip
def test_devices_that_cannot_be_used(parallelism, towers, count, words):
  network = architecture.Architecture(
    (Conv('conv1', 12, 3), Dense('fc6', 12), Dense('fc7', 5)), towers
  )
  devices = jax.devices()[:count]
  message = _message(sharding.place, network, devices, parallelism)
  assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
  ('network', 'words'),
  [
    (_network(2, Dense('fc7', 16, reads='own')),
     ['--config.network.fc7.reads=own', 'fc7.reads=all', 'parallelism=both']),
    (_network(2, Dense('fc6', 14)),
     ['--config.network.fc6.features=14 of 2 towers', '4 devices',
      '--config.devices']),
    (presets.four_layer(), ['not 1 of 4 layers', 'parallelism=data']),
    (architecture.Architecture((Dense('fc1', 8), Dense('fc2', 8))),
     ['not 2 of 2 layers', 'parallelism=data']),
  ],
)  # fmt: skip
def test_networks_that_one_weird_trick_cannot_divide(network, words):
  devices = jax.devices()[:4]
  message = _message(sharding.place, network, devices, 'one_weird_trick')
  assert message.startswith('--config.parallelism=one_weird_trick ')
  assert [word for word in words if word not in message] == []


def test_convolutions_are_xlas_own_on_a_cpu():
  def convolve(x, kernel):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    y = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
    )
    return (y * y).sum()

  x, kernel = jnp.ones((8, 13, 13, 64)), jnp.ones((3, 3, 64, 64))
  options = sharding.compiler_options(_place(2, 2).mesh, jnp.float32)
  gradient = jax.jit(jax.grad(convolve, (0, 1)), compiler_options=options)
  entry = gradient.lower(x, kernel).compile().as_text().split('ENTRY')[1]
  # One forward and two backward, none inside another library's fusion.
  assert entry.count(' convolution(') == 3
  assert 'ynn' not in entry


def test_axes_of_a_single_device_are_left_out():
  specs = {}
  for count in (1, 2, 4):
    placement = _place(2, count)
    params = placement.params()
    (kernel,) = {spec['kernel'] for spec in params.values()}
    assert [spec['bias'] for spec in params.values()] == [kernel] * 5
    specs[count] = (kernel, placement.rows(), placement.rows(axis=1))
  assert specs == {
    1: (P(), P(), P()),
    2: (P('tower'), P(), P()),
    4: (P('tower'), P('data'), P(None, 'data')),
  }


def test_one_weird_trick_divides_layers_by_example_or_by_feature():
  placement = _place(2, 4, 'one_weird_trick')
  hidden = {'kernel': P('tower', None, 'data'), 'bias': P('tower', 'data')}
  assert placement.params() == {
    'conv1': {'kernel': P(), 'bias': P()},
    'conv2': {'kernel': P(), 'bias': P()},
    'fc6': hidden,
    'fc7': hidden,
    'fc8': {'kernel': P(None, ('tower', 'data')), 'bias': P()},
  }
  assert placement.rows() == P(('data', 'tower'))
  assert placement.shares == 4


@pytest.mark.parametrize('is_logits', [False, True])
@pytest.mark.parametrize(
  ('num_towers', 'num_devices'), [(2, 1), (2, 2), (2, 4), (4, 2), (4, 4)]
)
def test_join_puts_towers_side_by_side_in_order(
  num_towers, num_devices, is_logits
):
  placement = _place(num_towers, num_devices)
  mesh = placement.mesh
  copies = mesh.shape['data']
  x = np.random.default_rng(0).standard_normal((num_towers, 4, 3, 2))
  reader = None if is_logits else placement.network.layers[1]

  def local(x):
    joined = placement.join(list(x), reader)
    # One result from every device, to see that all have the same.
    return joined[None, None]

  across = 'tower' if mesh.shape['tower'] > 1 else None
  share = 'data' if copies > 1 else None
  # Logits are marked as equal on all towers, so need no tower axis.
  out = P(None if is_logits else across, None, share)
  joined = sharding.shard_map(local, mesh, P(across, share), out)(
    jnp.asarray(x)
  )
  expected = np.concatenate(list(x), axis=-1).astype(np.float32)
  devices = 1 if is_logits else mesh.shape['tower']
  assert joined.shape == (devices, 1, *expected.shape)
  for each in joined:
    np.testing.assert_array_equal(each[0], expected)


@pytest.mark.parametrize(
  ('num_towers', 'num_devices', 'expected'),
  [(4, 1, [0]), (4, 2, [0, 2]), (4, 4, [0, 1, 2, 3]), (2, 2, [0, 1])],
)
def test_first_tower(num_towers, num_devices, expected):
  placement = _place(num_towers, num_devices)
  first_layer = placement.network.layers[0]

  def local():
    return jnp.asarray(placement.portion(first_layer, None).first_tower)[None]

  spec = placement.params()['conv1']['bias']
  first = sharding.shard_map(local, placement.mesh, (), spec)()
  assert first.tolist() == expected


@pytest.mark.parametrize(
  ('parallelism', 'num_devices'),
  [('both', 1), ('both', 2), ('both', 4), ('one_weird_trick', 4)],
)
def test_every_example_is_counted_once(parallelism, num_devices):
  placement = _place(2, num_devices, parallelism)
  x = jnp.arange(8.0)

  def local(x):
    return placement.add_up({'sum': x.sum(), 'rows': x.size})

  sums = sharding.shard_map(local, placement.mesh, placement.rows(), P())(x)
  assert (int(sums['sum']), int(sums['rows'])) == (28, 8)


@pytest.mark.parametrize(
  ('batch_size', 'pieces', 'words'),
  [
    (7, 1, ['batch_size=7', '2 shares', 'accumulation=1', 'batch_size=6']),
    (30, 4, ['batch_size=30', '2 shares', 'accumulation=4', 'batch_size=24']),
    # Too small for one example each.
    (1, 1, ['batch_size=1 ', '2 shares', 'batch_size=2']),
  ],
)
def test_batches_that_do_not_divide(batch_size, pieces, words):
  message = _message(_place(2, 4).check_batch, batch_size, pieces)
  assert [word for word in words if word not in message] == []


def test_batches_that_divide():
  _place(2, 4).check_batch(8, 4)
  _place(2, 2).check_batch(7, 1)
  _place(2, 1).check_batch(7, 7)
  _place(2, 4, 'one_weird_trick').check_batch(8, 2)


@pytest.mark.parametrize(
  ('parallelism', 'processes', 'devices_each', 'pieces', 'expected'),
  [
    ('both', 1, 4, 1, [range(12)]),
    # A pair of towers on each process; on two processes.
    ('both', 2, 2, 1, [range(6), range(6, 12)]),
    ('both', 2, 1, 1, [range(12), range(12)]),
    ('towers', 2, 1, 3, [range(12), range(12)]),
    ('both', 4, 1, 1, [range(6)] * 2 + [range(6, 12)] * 2),
    ('data', 2, 2, 1, [range(6), range(6, 12)]),
    # Two pieces of six rows: three from each.
    ('data', 2, 1, 2, [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]),
    ('one_weird_trick', 2, 2, 1, [range(6), range(6, 12)]),
    # The middle copy is on both processes.
    ('both', 2, 3, 1, [range(8), range(4, 12)]),
    ('both', 2, 3, 2, [[0, 1, 2, 3, 6, 7, 8, 9], [2, 3, 4, 5, 8, 9, 10, 11]]),
  ],
)  # fmt: skip
def test_rows_of_a_process(
  parallelism, processes, devices_each, pieces, expected
):
  placement = _distributed(parallelism, processes, devices_each)
  for process, rows in enumerate(expected):
    found = placement.local_rows(12, pieces, process)
    assert found.dtype == np.int64
    assert found.tolist() == list(rows)


def test_rows_are_put_where_they_belong():
  placement = _place(2, 4)
  x = np.arange(24).reshape(2, 4, 3)
  array = placement.put(x, axis=1)
  np.testing.assert_array_equal(array, x)
  assert array.sharding.spec == P(None, 'data')
  assert [shard.data.shape for shard in array.addressable_shards] == (
    [(2, 2, 3)] * 4
  )
  with pytest.raises(ValueError, match='3 rows for 2 shares'):
    placement.put(x[:, :3], axis=1)
