"""What PyTorch must know of the native ops beside their kernels: the shapes of their results, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.irecgan_ext


@torch.library.register_fake("irecgan_ext::gumbel_topk")
def _gumbel_topk_fake(logits: Tensor, k: int, seed: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], k)
    return logits.new_empty(shape), logits.new_empty(shape, dtype=torch.int64)


@torch.library.register_fake("irecgan_ext::linear_gumbel_topk")
def _linear_gumbel_topk_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int, *rest: Any
) -> tuple[Tensor, ...]:
    rows, log_prob = hidden.shape[0], rest[-1]

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:  # bfloat16 layers give float32 too
        return hidden.new_empty(shape, dtype=dtype)

    return empty(rows, k), empty(rows, k, dtype=torch.int64), empty(rows), empty(rows if log_prob else 0)


@torch.library.register_fake("irecgan_ext::catalogue_sample")
def _catalogue_sample_fake(hidden: Tensor, catalogue: list[Tensor], k: int, *rest: Any) -> tuple[Tensor, ...]:
    rows, logsumexp = hidden.shape[0], rest[-1]
    counts = hidden.new_empty((rows, k), dtype=torch.int64), hidden.new_empty((rows,), dtype=torch.int64)
    return hidden.new_empty((rows, k)), *counts, hidden.new_empty((rows if logsumexp else 0,))


@torch.library.register_fake("irecgan_ext::rollout")
def _rollout_fake(user, agent, discriminator, user_state, *args):  # type: ignore[no-untyped-def]
    symbols, slate_size, max_steps = args[3], args[10], args[12]
    rows = symbols.shape[0]

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return user_state.new_empty(shape, dtype=dtype)

    return (
        empty(rows, max_steps, slate_size),
        empty(rows, max_steps),
        empty(rows, max_steps, dtype=torch.float32),
        empty(rows),
        empty(rows, dtype=torch.bool),
        empty(rows, dtype=torch.float32),
        empty(rows, max_steps, dtype=torch.float32),
        empty(4),
    )


@torch.library.register_fake("irecgan_ext::linear_log_prob")
def _linear_log_prob_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor]:
    rows = hidden.shape[:1]
    return hidden.new_empty(rows, dtype=torch.float32), hidden.new_empty(rows, dtype=torch.float64)


@torch.library.register_fake("irecgan_ext::linear_log_prob_backward")
def _linear_log_prob_backward_fake(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    log_sum_exp: Tensor,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if needs_hidden else (0,)),
        weight.new_empty(weight.shape if needs_weight else (0,)),
        weight.new_empty(weight.shape[:1] if needs_bias else (0,)),
    )


def _linear_log_prob_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _linear_log_prob_gradient(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    needs = ctx.needs_input_grad[:3]
    grads = _ops.linear_log_prob_backward(grad, *ctx.saved_tensors, *needs)
    return *(g if needed else None for g, needed in zip(grads, needs)), None


def _no_second_derivative(*_: Any) -> None:
    raise RuntimeError("linear_log_prob must be differentiated once only: impl='reference' has second derivatives")


torch.library.register_autograd(
    "irecgan_ext::linear_log_prob", _linear_log_prob_gradient, setup_context=_linear_log_prob_context
)
torch.library.register_autograd("irecgan_ext::linear_log_prob_backward", _no_second_derivative)


@torch.library.register_fake("irecgan_ext::check_gumbel_topk")
@torch.library.register_fake("irecgan_ext::check_linear_gumbel_topk")
@torch.library.register_fake("irecgan_ext::check_catalogue_sample")
@torch.library.register_fake("irecgan_ext::check_linear_log_prob")
@torch.library.register_fake("irecgan_ext::check_rollout")
def _check_fake(*_: Any) -> None:
    """Nothing to look at: the values of traced tensors are not known."""
