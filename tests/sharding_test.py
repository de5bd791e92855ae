import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from alexnet_jax import errors
from alexnet_jax import sharding


def _mesh(num_towers, num_devices):
  return sharding.make_mesh(num_towers, jax.devices()[:num_devices])


@pytest.mark.parametrize(
  ('num_towers', 'num_devices', 'shape'),
  [
    (1, 1, (1, 1)), (1, 2, (2, 1)), (1, 4, (4, 1)),
    (2, 1, (1, 1)), (2, 2, (1, 2)), (2, 4, (2, 2)),
    (4, 1, (1, 1)), (4, 2, (1, 2)), (4, 4, (1, 4)),
    (3, 1, (1, 1)), (3, 3, (1, 3)),
  ],
)  # fmt: skip
def test_mesh(num_towers, num_devices, shape):
  mesh = _mesh(num_towers, num_devices)
  assert mesh.axis_names == ('data', 'tower')
  assert mesh.devices.shape == shape
  # The towers of one copy are neighbors.
  assert list(mesh.devices.flat) == jax.devices()[:num_devices]


@pytest.mark.parametrize(
  ('num_towers', 'num_devices', 'options'),
  [(3, 2, '1, 3, 6, ...'), (2, 3, '1, 2, 4, ...'), (4, 3, '1, 2, 4, 8, ...')],
)
def test_towers_that_cannot_be_shared(num_towers, num_devices, options):
  with pytest.raises(errors.UserError) as caught:
    _mesh(num_towers, num_devices)
  message = str(caught.value)
  assert '\n' not in message
  assert f'{num_towers} towers' in message
  assert f'{num_devices} devices' in message
  assert message.endswith(f'one of {options}')


def test_convolutions_are_xlas_own_on_a_cpu():
  def convolve(x, kernel):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    y = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
    )
    return (y * y).sum()

  x, kernel = jnp.ones((8, 13, 13, 64)), jnp.ones((3, 3, 64, 64))
  options = sharding.compiler_options(_mesh(2, 2), jnp.float32)
  gradient = jax.jit(jax.grad(convolve, (0, 1)), compiler_options=options)
  entry = gradient.lower(x, kernel).compile().as_text().split('ENTRY')[1]
  # One forward and two backward, none inside another library's fusion.
  assert entry.count(' convolution(') == 3
  assert 'ynn' not in entry


def test_axes_of_a_single_device_are_left_out():
  specs = {
    devices: (
      sharding.by_tower(_mesh(2, devices)),
      sharding.by_example(_mesh(2, devices)),
      sharding.by_piece(_mesh(2, devices)),
    )
    for devices in (1, 2, 4)
  }
  assert specs == {
    1: (P(), P(), P()),
    2: (P('tower'), P(), P()),
    4: (P('tower'), P('data'), P(None, 'data')),
  }


@pytest.mark.parametrize('is_logits', [False, True])
@pytest.mark.parametrize(
  ('num_towers', 'num_devices'), [(2, 1), (2, 2), (2, 4), (4, 2), (4, 4)]
)
def test_join_puts_towers_side_by_side_in_order(
  num_towers, num_devices, is_logits
):
  mesh = _mesh(num_towers, num_devices)
  join = sharding.make_join(mesh)
  copies = mesh.shape['data']
  x = np.random.default_rng(0).standard_normal((num_towers, 4, 3, 2))

  def local(x):
    joined = join(list(x), is_logits)
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
  mesh = _mesh(num_towers, num_devices)

  def local():
    return jnp.asarray(sharding.first_tower(mesh, num_towers))[None]

  first = sharding.shard_map(local, mesh, (), sharding.by_tower(mesh))()
  assert first.tolist() == expected


@pytest.mark.parametrize('num_devices', [1, 2, 4])
def test_sum_over_data_counts_every_example_once(num_devices):
  mesh = _mesh(2, num_devices)
  x = jnp.arange(8.0)

  def local(x):
    return sharding.sum_over_data({'sum': x.sum(), 'rows': x.size}, mesh)

  sums = sharding.shard_map(local, mesh, sharding.by_example(mesh), P())(x)
  assert (int(sums['sum']), int(sums['rows'])) == (28, 8)


@pytest.mark.parametrize(
  ('batch_size', 'pieces', 'words'),
  [
    (7, 1, ['batch_size=7', '2 copies', 'accumulation=1', 'batch_size=6']),
    (30, 4, ['batch_size=30', '2 copies', 'accumulation=4', 'batch_size=24']),
    # Too small for one example each.
    (1, 1, ['batch_size=1 ', '2 copies', 'batch_size=2']),
  ],
)
def test_batches_that_do_not_divide(batch_size, pieces, words):
  with pytest.raises(errors.UserError) as caught:
    sharding.check_batch(batch_size, pieces, _mesh(2, 4))
  message = str(caught.value)
  assert '\n' not in message
  assert [word for word in words if word not in message] == []


def test_batches_that_divide():
  sharding.check_batch(8, 4, _mesh(2, 4))
  sharding.check_batch(7, 1, _mesh(2, 2))
  sharding.check_batch(7, 7, _mesh(2, 1))
