r"""The training loop: one player, or several that take turns in a game.

In its turn a player with weights :math:`\theta` makes one optimizer step on

.. math::
    g = \sum_{p=1}^{P} \sum_{a=1}^{A} \frac{n_{p,a}}{n} \nabla_\theta \ell(\text{rows}_{p,a})

over `P` processes and `A` micro-batches of :math:`n_{p,a}` of the :math:`n` rows. No other player's
weights change.

**Exact resume.** Turn, samples, learning rate and all random numbers are functions of the step
(`.schedule`), so a checkpoint holds weights, moments and averages only, and a resumed run is
bit-equal to one that was never interrupted. The masks of `latentctl.nn.Dropout` are functions of
the sample, too, on any number of processes. A foreign layer draws from torch's global generator,
which is seeded for every micro-batch by its first row: two processes draw what two micro-batches of
one process draw, and draws of other threads interfere. The caller's generator state is restored.

**Processes.** DistributedDataParallel synchronizes only calls of the wrapped module, while players
call each other's networks and penalise gradients. Here the gradients are averaged explicitly, in
one flat buffer a step. Its last elements carry the loss and a stop signal, so that all processes
decide alike.

**Steps that are not finite.** If the loss or a gradient is not finite, weights, moments, averages
and buffers are kept, and the step is logged with the first such weight and its samples. More than
`max_bad_steps` of them in a row end the run with a checkpoint of the last finite state.

References:
    | Latent Constraints: Learning to Generate Conditionally from Unconditional Generative Models
    | (Engel et al., 2017) https://arxiv.org/abs/1711.05772
"""

from __future__ import annotations

__all__ = ["History", "Player", "Step", "fit"]

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from ..errors import InputError, NonFiniteError, UnknownNameError
from ..progress import progress_bar
from ..random import generator
from .batches import SampleOrder, micro_batches, rows_of_process, seed_global
from .buffers import Buffers
from .player import Player, check_players, gradient, train_mode, trained_weights, update
from .processes import check_launch, mean_over_processes, same_everywhere
from .run_state import RunState, culprit, data_identity, logged_means, plain
from .schedule import LR_SCHEDULERS, Step, lr_factor, whose_turn
from .signals import stop_on_signals

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class History:
    """The record of a run, including the steps before a resume.

    Arguments:
        steps: Finished steps, over all players.
        log: The lines of `metrics.jsonl`.
        bad_steps: The steps (from 1) that were not finite and were skipped.
        resumed_from: The checkpoint that the run resumed from.
        averaged: Player name -> its averaged network, in eval mode, for players with `ema`.
        seconds: Training time.
    """

    steps: int
    log: list[dict[str, Any]]
    bad_steps: list[int]
    resumed_from: Path | None
    averaged: dict[str, nn.Module]
    seconds: float


def fit(
    players: Player | Sequence[Player],
    data: Any,
    *,
    max_train_steps: int,
    batch_size: int,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    output_dir: str | Path | None = None,
    checkpointing_steps: int | None = None,
    checkpoints_total_limit: int | None = None,
    resume_from_checkpoint: str | Path | None = None,
    derived_from: Any = None,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    lr_scheduler: str = "constant",
    lr_warmup_steps: int = 0,
    max_bad_steps: int = 3,
    log_every: int = 10,
    dataloader_num_workers: int = 0,
    max_train_seconds: float | None = None,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    r"""Train one player, or several in turns, on `data`.

    Arguments:
        players: The players. The first makes `turns` steps, then the second its own `turns`, and
            so on in rounds.
        data: Has `__len__` and `__getitem__(indices)` with `indices` a `(B,)` integer tensor:
            `Latents`, a tensor, a `TensorDataset`. Batches are moved to the device.
        max_train_steps: Optimizer steps, over all players.
        batch_size: Samples a step, over all processes and micro-batches.
        seed: Seed of the order of the data and of all random numbers.
        accelerator: Default: `Accelerator()`. Mixed precision "no" or "bf16".
        output_dir: Folder of `metrics.jsonl` and the checkpoints `step-NNNNNN`.
        checkpointing_steps: Save every so many steps, and at the end.
        checkpoints_total_limit: How many checkpoints are kept; None keeps all.
        resume_from_checkpoint: None for a new run; "latest" for the newest intact checkpoint, if
            there is one; or a checkpoint, which must be intact. Weights, moments and learning
            rates are loaded from it.
        derived_from: What `data` was made from, if it is not the same again, bit for bit, when the
            run is resumed. A resumed run must have it in common with the saved one; `data` itself
            by default. See `latentctl.training.run_state.data_identity`.
        gradient_accumulation_steps: Micro-batches a step.
        max_grad_norm: Clips the norm of the whole gradient.
        lr_scheduler: "constant", "linear" or "cosine", see `latentctl.training.schedule.lr_factor`.
        lr_warmup_steps: Steps over which the learning rates rise.
        max_bad_steps: How many steps in a row of one player may fail to be finite.
        log_every: Log the first and every so many of each player's steps.
        dataloader_num_workers: Processes that read `data`; the result does not depend on it.
        max_train_seconds: Stop after this training time; the learning rate follows it. Such a run
            depends on the speed of the machine and is not exactly reproducible.
        progress: Show a bar on the main process.
        on_step: Called after each step, on every process, with the number of finished steps.

    Returns:
        The `History`. The players' networks are trained in place.

    Raises:
        InputError: A setting is out of range, or a loss does not depend on its player's weights.
        CheckpointError: A checkpoint is missing, corrupted or of another run, decoder or data, or
            cannot be written; or another run writes into `output_dir`.
        NonFiniteError: More than `max_bad_steps` bad steps in a row.
        SystemExit: On SIGTERM (143) or SIGINT (130), after saving if there is an `output_dir`.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> def loss(batch, step):
        ...     return (net(batch) - 3 * batch).square().mean(), {"weight": net.weight}
        >>> player = Player("line", net, loss, torch.optim.Adam(net.parameters(), 0.1))
        >>> x = torch.linspace(-1, 1, 64).unsqueeze(1)
        >>> history = fit(player, x, max_train_steps=200, batch_size=16, progress=False)
        >>> round(net.weight.item(), 2), [line["step"] for line in history.log[:3]]
        (3.0, [1, 10, 20])
    """
    from accelerate import Accelerator
    from accelerate.utils import send_to_device

    accelerator = Accelerator() if accelerator is None else accelerator
    game = [players] if isinstance(players, Player) else list(players)
    steps_per_save = checkpointing_steps or max_train_steps
    if lr_scheduler not in LR_SCHEDULERS:
        raise UnknownNameError("lr_scheduler", lr_scheduler, LR_SCHEDULERS)
    check_launch(accelerator)
    check_players(game)
    _check_positive(
        max_train_steps=max_train_steps,
        batch_size=batch_size,
        samples=len(data),
        gradient_accumulation_steps=gradient_accumulation_steps,
        log_every=log_every,
        checkpointing_steps=checkpointing_steps,
        checkpoints_total_limit=checkpoints_total_limit,
        max_grad_norm=max_grad_norm,
        max_train_seconds=max_train_seconds,
    )
    if min(max_bad_steps, lr_warmup_steps) < 0:
        raise InputError("max_bad_steps and lr_warmup_steps must not be negative.")
    if output_dir is None and (checkpointing_steps or resume_from_checkpoint is not None):
        raise InputError("Checkpoints need a folder: give output_dir.")
    parts = rows_of_process(batch_size, gradient_accumulation_steps, accelerator)
    processes = accelerator.num_processes

    device, modules = accelerator.device, [player.module for player in game]
    for module in modules:
        same_everywhere(accelerator, module.to(device))
    settings: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "samples": len(data)}
    if output_dir is not None:
        settings |= data_identity(data if derived_from is None else derived_from)
    state = RunState(game, settings, output_dir, accelerator)
    order = SampleOrder(len(data), batch_size, seed=seed)
    weights = [trained_weights(player) for player in game]
    buffers = Buffers(modules, processes, sum(map(len, parts)) * processes / batch_size)

    with contextlib.ExitStack() as stack:
        stack.enter_context(state.held())
        resumed_from = state.resume(resume_from_checkpoint) if output_dir is not None else None
        state.rewrite_log()
        steps = range(state.step, max_train_steps)
        forked = [] if device.type in ("cpu", "mps") else [device.index or 0]
        stack.enter_context(torch.random.fork_rng(forked, device_type=device.type))
        stack.enter_context(train_mode(modules))
        received = stack.enter_context(stop_on_signals())
        work = f"Train (at most {max_train_seconds:g} s)" if max_train_seconds else "Train"
        bar = stack.enter_context(
            progress_bar(max_train_steps, work, "step", progress=progress, initial=state.step)
        )
        batches = micro_batches(
            data, order, seed=seed, steps=steps, parts=parts, num_workers=dataloader_num_workers
        )
        began = time.perf_counter() - state.seconds

        def places(step: int) -> Iterator[tuple[Any, Step]]:
            for rows in parts:
                batch = send_to_device(next(batches), device)
                seed_global(generator(seed, step, rows.start, "module"), device)
                yield batch, Step(seed, step, rows.start, len(rows), batch_size, device)

        for step in steps:
            turn, moves = whose_turn([player.turns for player in game], step)
            player, own = game[turn], weights[turn]
            buffers.remember()
            gradients, loss_here, values = gradient(
                player, list(own.values()), places(step), accelerator.autocast, processes
            )
            facts = [bool(received), time.perf_counter() - began]
            flat = [loss_here.reshape(1), torch.tensor(facts, device=device)]
            means = mean_over_processes(accelerator, [*gradients, *buffers.changes(), *flat])
            gradients = means[: len(own)]
            buffers.apply(means[len(own) : -2])
            norm = get_total_norm(gradients).reshape(1)
            loss, stopping, state.seconds, grad_norm = torch.cat([*means[-2:], norm]).tolist()
            state.step = step + 1

            line = {"step": state.step, "player": player.name, "loss": plain(loss)}
            elapsed = state.seconds / max_train_seconds if max_train_seconds else 0.0
            if math.isfinite(loss) and math.isfinite(grad_norm):
                factor = lr_factor(
                    lr_scheduler, step, max_train_steps, warmup=lr_warmup_steps, elapsed=elapsed
                )
                clip = min(1.0, (max_grad_norm or math.inf) / (grad_norm + 1e-6))
                update(player, own.values(), gradients, lr_factor=factor, gradient_factor=clip)
                if player.name in state.averages:
                    state.averages[player.name].update_parameters(player.module)
                state.bad_in_a_row[player.name] = 0
                if moves == 0 or (moves + 1) % log_every == 0:
                    rate = factor * float(player.optimizer.param_groups[0]["lr"])
                    line |= {"grad_norm": grad_norm, "lr": rate}
                    state.record(line | logged_means(accelerator, values) | line)
                    bar.set_postfix(player=player.name, loss=f"{loss:.4g}", refresh=False)
            else:
                buffers.restore()
                first = culprit(loss, dict(zip(own, gradients, strict=True)))
                line |= {"not_finite": first, "samples": order(step).tolist()}
                state.bad_steps.append(state.step)
                state.bad_in_a_row[player.name] += 1
                state.record(line)
            bar.update()
            if on_step is not None:
                on_step(state.step)

            lost = state.bad_in_a_row[player.name] > max_bad_steps
            last = state.step == max_train_steps or elapsed >= 1
            due = checkpointing_steps is not None and (last or state.step % steps_per_save == 0)
            if due or stopping or lost:
                state.save(checkpoints_total_limit)
            if lost:
                raise _lost(line, max_bad_steps + 1)
            if stopping:
                raise SystemExit(128 + (received[0] if received else signal.SIGTERM))
            if last:
                break

    averaged = {name: average.module.eval() for name, average in state.averages.items()}
    return History(state.step, state.log, state.bad_steps, resumed_from, averaged, state.seconds)


def _lost(line: dict[str, Any], steps: int) -> NonFiniteError:
    """The error of so many bad steps in a row, the last of which has this line in the log."""
    return NonFiniteError(
        f"{line['player']!r} had {steps} steps in a row that were not finite, the last one at step "
        f"{line['step']}, in {line['not_finite']}, on the samples {line['samples']}. They changed "
        "no weight. Lower the learning rate, set max_grad_norm, or check these samples."
    )


def _check_positive(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, not {value}.")
