"""The paper's update rule and the schedules that feed it (Section 5).

A schedule is a pure function of the step and of the plateau state, which are
both in the checkpoint. It yields `Rates`: everything that changes during a run,
the learning rates and the magnitude of the color shift. `lars` and
`scaled_schedule` are for batches larger than the paper's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Rates(flax.struct.PyTreeNode):
  """The values of a schedule at one step; float32 scalars.

  Attributes:
    rate: learning rate of the weights.
    bias_rate: of the biases, before the multiplier (2 in the 2012 code).
    color_noise: magnitude of the color shift.
    layer_rates: of the weights of those layers that have another rate, by
      name. 0 freezes the layer, its biases too.
  """

  rate: jax.Array
  bias_rate: jax.Array
  color_noise: jax.Array
  layer_rates: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)

  def times(self, factor: float | jax.Array) -> 'Rates':
    """Multiplies every learning rate, but not the color shift."""
    multiplied = jax.tree.map(lambda rate: rate * factor, self)
    return multiplied.replace(color_noise=self.color_noise)


class PlateauState(flax.struct.PyTreeNode):
  """The state of the plateau rule; scalars.

  It does not hold the learning rate, which follows from `drops` and the config,
  so that a run can be resumed with another one.

  Attributes:
    best: float32, the validation error of the last improvement that counts.
    stalled: int32, validations since then.
    drops: int32, how often the rate was divided. Above the permitted number the
      run has ended.
  """

  best: jax.Array
  stalled: jax.Array
  drops: jax.Array


class PlateauRule(NamedTuple):
  """The numbers of the plateau rule.

  Attributes:
    patience: validations without improvement before the rate drops. The paper
      gives no number: its authors watched the log.
    min_delta: a smaller gain does not count; as a fraction of 1.
    factor: the rate is divided by it.
    max_drops: drops before the end; the paper made three.
  """

  patience: int
  min_delta: float
  factor: float
  max_drops: int


def plateau_init() -> PlateauState:
  """Returns the state before the first validation."""
  return PlateauState(
    best=jnp.float32(jnp.inf), stalled=jnp.int32(0), drops=jnp.int32(0)
  )


def plateau_update(
  state: PlateauState, error: float | jax.Array, rule: PlateauRule
) -> PlateauState:
  """Counts a drop when the validation error stops improving (Section 5).

  Errors are compared with the last improvement of at least `min_delta`, as in
  torch's ReduceLROnPlateau: many small gains in a row add up to one.

  Args:
    state: before this validation.
    error: the validation error, a fraction. NaN is not an improvement.
    rule: the numbers.

  Returns:
    The state after it. See `plateau_finished` for the end.
  """
  error = jnp.float32(error)
  improved = error < state.best - rule.min_delta
  stalled = jnp.where(improved, 0, state.stalled + 1)
  drop = stalled >= rule.patience
  return PlateauState(
    best=jnp.where(improved, error, state.best),
    stalled=jnp.where(drop, 0, stalled).astype(jnp.int32),
    drops=state.drops + drop.astype(jnp.int32),
  )


def plateau_restart(state: PlateauState) -> PlateauState:
  """Forgets past errors, with which later ones cannot be compared."""
  return plateau_init().replace(drops=state.drops)


def plateau_finished(state: PlateauState, rule: PlateauRule) -> bool:
  """Whether the error has stopped improving again after the last drop."""
  return int(state.drops) > rule.max_drops


Schedule = Callable[[jax.Array, PlateauState], Rates]


def plateau_schedule(
  learning_rate: float, factor: float, color_noise: float
) -> Schedule:
  """Divides the rate, one for all layers, by `factor` at every drop."""

  def schedule(step, plateau):
    del step
    rate = jnp.float32(learning_rate) / jnp.float32(factor) ** plateau.drops
    return Rates(rate, rate, jnp.float32(color_noise))

  return schedule


def phase_schedule(
  rows: Sequence[Sequence[float]],
  steps_per_epoch: int,
  layers: Sequence[str] = (),
) -> Schedule:
  """Reads a table of phases, such as the log of a run driven by hand.

  Args:
    rows: of first epoch, rate, bias rate, color noise, and a multiplier of the
      rate for each of `layers`; by rising epoch, the first at epoch 0.
    steps_per_epoch: epochs become steps by it.
    layers: names of the layers whose weights have their own rate.

  Returns:
    The schedule.
  """
  table = np.asarray(rows, np.float64)
  starts = np.round(table[:, 0] * steps_per_epoch).astype(np.int32)
  # Rates, not multipliers, go to the step: rounded once.
  table[:, 4:] *= table[:, 1:2]
  columns = jnp.asarray(table[:, 1:], jnp.float32)

  def schedule(step, plateau):
    del plateau
    row = jnp.searchsorted(jnp.asarray(starts), step, side='right') - 1
    rate, bias_rate, color_noise, *layer_rates = columns[row]
    by_layer = dict(zip(layers, layer_rates, strict=True))
    return Rates(rate, bias_rate, color_noise, by_layer)

  return schedule


def cosine_schedule(
  first_rate: float,
  learning_rate: float,
  warmup_steps: int,
  total_steps: int,
  end_rate: float,
  color_noise: float,
) -> Schedule:
  """A linear warm-up, then a cosine down to `end_rate` (optax)."""
  rate_at = optax.warmup_cosine_decay_schedule(
    first_rate, learning_rate, warmup_steps, total_steps, end_rate
  )

  def schedule(step, plateau):
    del plateau
    rate = jnp.asarray(rate_at(step), jnp.float32)
    return Rates(rate, rate, jnp.float32(color_noise))

  return schedule


def polynomial_schedule(
  learning_rate: float, total_steps: int, power: float, color_noise: float
) -> Schedule:
  """Lowers the rate to 0: rate * (1 - step / total_steps) ** power."""
  rate_at = optax.polynomial_schedule(learning_rate, 0.0, power, total_steps)

  def schedule(step, plateau):
    del plateau
    rate = jnp.asarray(rate_at(step), jnp.float32)
    return Rates(rate, rate, jnp.float32(color_noise))

  return schedule


def constant_schedule(learning_rate: float, color_noise: float) -> Schedule:
  """Returns the same learning rate at every step."""
  return phase_schedule([(0, learning_rate, learning_rate, color_noise)], 1)


def warm_schedule(
  schedule: Schedule, warmup_steps: int, start: float
) -> Schedule:
  """Lets a schedule's learning rates rise to their values linearly.

  The gradual warm-up of Goyal et al. 2017 (arXiv 1706.02677, Section 2.2).

  Args:
    schedule: its learning rates are multiplied, its color noise is not.
    warmup_steps: over which the factor rises to 1.
    start: the factor at step 0.
  """

  def warm(step, plateau):
    rising = 1 - (1 - start) * (1 - step / float(warmup_steps))
    factor = jnp.where(step < warmup_steps, rising, 1.0)
    return schedule(step, plateau).times(factor)

  return warm if warmup_steps else schedule


def scaled_schedule(schedule: Schedule, scale: float) -> Schedule:
  """Multiplies a schedule's learning rates.

  With the factor by which a batch is larger it is the linear scaling rule of
  Goyal et al. 2017 (arXiv 1706.02677, Section 2.1).
  """
  return lambda step, plateau: schedule(step, plateau).times(scale)


def rate_tree(
  params: Mapping[str, Mapping[str, Any]],
  rates: Rates,
  multipliers: Mapping[str, float],
) -> dict[str, dict[str, jax.Array]]:
  """Returns one learning rate for every parameter.

  Args:
    params: the parameters; only the names matter.
    rates: of this step.
    multipliers: by layer name, and 'bias' for all biases. A rate of 0 freezes
      its parameters.

  Returns:
    float32 scalars in the structure of `params`.
  """

  def leaf(layer, name):
    weight_rate = rates.layer_rates.get(layer, rates.rate)
    if name != 'bias':
      return weight_rate * multipliers[layer]
    bias_rate = rates.bias_rate * multipliers['bias'] * multipliers[layer]
    return jnp.where(weight_rate > 0, bias_rate, 0.0)

  return {
    layer: {name: leaf(layer, name) for name in values}
    for layer, values in params.items()
  }


def momentum_sgd(
  momentum: float, weight_decay: float, bias_decay: float
) -> optax.GradientTransformationExtraArgs:
  """Stochastic gradient descent as the paper writes it (Section 5).

    v <- momentum * v - decay * rate * w - rate * g
    w <- w + v

  The learning rate is applied before the momentum accumulator, so lowering it
  does not rescale the velocity already accumulated, as `optax.sgd` would. A
  parameter whose rate is 0 does not move, and its velocity does not change
  (2012 code, weights.cu:148).

  Args:
    momentum: 0.9 in the paper.
    weight_decay: of weights; 0.0005 in the paper.
    bias_decay: of biases; 0 in the 2012 code (layer.cu:565).

  Returns:
    An optax transformation. Its state is the velocity; its `update` takes the
    keyword `rates`, the output of `rate_tree`.
  """
  return _momentum(momentum, *_decay(weight_decay, bias_decay))


def lars(
  momentum: float,
  weight_decay: float,
  bias_decay: float,
  trust_coefficient: float,
  eps: float,
) -> optax.GradientTransformationExtraArgs:
  """Layer-wise adaptive rate scaling: `momentum_sgd` with a rate per layer.

  For the weights w of a layer, of all its towers together, with gradient g:

    u <- g + decay * w
    u <- trust_coefficient * |w| / (|u| + eps) * u, unless |w| or |u| is 0
    v <- momentum * v - rate * u
    w <- w + v

  Biases follow `momentum_sgd`. The order is that of `optax.lars`; the paper
  divides by |g| + decay * |w|, which is at least |u|.

  Args:
    momentum: 0.9 in the paper.
    weight_decay: of weights; 0.0005 in the paper.
    bias_decay: of biases.
    trust_coefficient: how far a step at rate 1 moves the weights, as a fraction
      of their norm; 0.001 in the paper.
    eps: added to the norm of the update.

  Returns:
    An optax transformation with the state and the keyword of `momentum_sgd`.

  Reference:
    You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks,
    2017 (arXiv 1708.03888).
  """
  trust_ratio = optax.scale_by_trust_ratio(
    trust_coefficient=trust_coefficient, eps=eps
  )
  return _momentum(
    momentum,
    *_decay(weight_decay, bias_decay),
    optax.masked(trust_ratio, _mask('kernel')),
  )


def _decay(
  weight_decay: float, bias_decay: float
) -> tuple[optax.GradientTransformation, ...]:
  return (
    optax.add_decayed_weights(weight_decay, mask=_mask('kernel')),
    optax.add_decayed_weights(bias_decay, mask=_mask('bias')),
  )


def _momentum(
  momentum: float, *parts: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
  """Puts the learning rates and the velocity after stateless parts."""
  steps = optax.chain(*parts, scale_by_rates())
  trace = optax.trace(momentum)

  def init(params):
    return jax.tree.map(jnp.zeros_like, params)

  def update(
    updates: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[Any, Any]:
    rates = extra_args['rates']
    updates, _ = steps.update(updates, steps.init(params), params, rates=rates)
    # The trace's output is both the update and the new velocity.
    velocity, _ = trace.update(updates, optax.TraceState(state))
    still = jax.tree.map(jnp.zeros_like, state)
    updates = _where_moving(rates, velocity, still)
    return updates, _where_moving(rates, velocity, state)

  return optax.GradientTransformationExtraArgs(init, update)


def scale_by_rates() -> optax.GradientTransformationExtraArgs:
  """Multiplies each parameter's update by its own negative learning rate."""

  def update(
    updates: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[Any, Any]:
    del params
    rates = extra_args['rates']
    return jax.tree.map(lambda g, rate: -rate * g, updates, rates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _mask(name: str) -> Callable[[Any], Any]:
  """Returns a mask of the parameters that have this name."""
  return lambda params: jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == name, params
  )


def _where_moving(rates: Any, moved: Any, kept: Any) -> Any:
  """Returns `moved`, but `kept` where the rate is 0."""
  return jax.tree.map(
    lambda rate, a, b: jnp.where(rate > 0, a, b), rates, moved, kept
  )
