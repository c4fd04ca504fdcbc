"""The training loop: exact resume, stateless randomness, bad steps, signals, processes."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

import latentctl
from latentctl.errors import CheckpointError, InputError, NonFiniteError, UnknownNameError
from latentctl.storage.folder import load_folder
from latentctl.training import History, Player, Step, fit, train
from latentctl.training.batches import SampleOrder
from latentctl.training.checkpoints import checkpoints
from latentctl.training.processes import _say_once
from latentctl.training.schedule import lr_factor

SAMPLES, BATCH, STEPS = 50, 12, 40


class Fault(Exception):
    """A crash in the middle of a step."""


class Faces:
    """Rows with their index, and augmentation from torch's global generator."""

    def __init__(self, augment: bool = True) -> None:
        self.x = torch.linspace(-1, 1, SAMPLES * 4).view(SAMPLES, 4)
        self.augment = augment

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.x[rows]
        return rows, x + 0.1 * torch.randn_like(x) if self.augment else x


class Game:
    """Critic and actor, three turns to one; `spy(index, start, rows)` may raise in mid-step."""

    def __init__(self, spy=None, *, plain: bool = False, ema: float | None = 0.9) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            noisy = [nn.BatchNorm1d(8), nn.Dropout(0.3)] if not plain else []
            self.critic = nn.Sequential(nn.Linear(4, 8), *noisy, nn.SiLU(), nn.Linear(8, 1))
            self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.spy = spy or (lambda index, start, rows: None)
        adam, sgd = torch.optim.AdamW, torch.optim.SGD
        self.players = [
            Player("critic", self.critic, self.judge, adam(self.critic.parameters(), 0.02), 3, ema),
            Player("actor", self.actor, self.act, sgd(self.actor.parameters(), 0.1, momentum=0.9)),
        ]

    def judge(self, batch, step: Step):
        rows, x = batch
        fake = self.actor(step.normal(4)).requires_grad_()
        scores = self.critic(fake)
        (slope,) = torch.autograd.grad(scores.sum(), fake, create_graph=True)
        self.spy(step.index, step.start, rows)
        loss = (scores - self.critic(x)).mean() + (slope.norm(dim=1) - 1).square().mean()
        return loss, {"penalty": slope.norm(), "integer": step.integers(10).float().mean()}

    def act(self, batch, step: Step):
        rows, x = batch
        self.spy(step.index, step.start, rows)
        move = self.actor(x) * step.uniform(1)
        return move.square().mean() - self.critic(x + move).mean(), {"shift": move.norm()}

    def fit(self, output_dir: Path | None = None, **options) -> History:
        given = {
            "max_train_steps": STEPS,
            "batch_size": BATCH,
            "gradient_accumulation_steps": 2,
            "lr_scheduler": "cosine",
            "lr_warmup_steps": 6,
            "max_grad_norm": 1.0,
            "log_every": 3,
            "progress": False,
        }
        given |= {"checkpointing_steps": 5} if output_dir else {}
        data = options.pop("data", None) or Faces()
        self.history = fit(self.players, data, output_dir=output_dir, **(given | options))
        return self.history

    def state(self) -> dict:
        """Everything that has to be bit-equal."""
        tensors = {}
        for player in self.players:
            tensors |= {f"{player.name}.{k}": v for k, v in player.module.state_dict().items()}
            for i, moments in enumerate(player.optimizer.state_dict()["state"].values()):
                tensors |= {f"{player.name}.{i}.{k}": v for k, v in moments.items()}
        for name, module in self.history.averaged.items():
            tensors |= {f"{name}.ema.{k}": v for k, v in module.state_dict().items()}
        return {k: v.clone() for k, v in tensors.items() if isinstance(v, torch.Tensor)}


@pytest.fixture
def fresh_accelerate():
    """accelerate has one state per process; this test needs a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def crash_at(k: int):
    def spy(index: int, start: int, rows: torch.Tensor) -> None:
        if index == k and start > 0:  # in the second micro-batch: half of a step is done
            raise Fault

    return spy


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def equal(a: list, b: list) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def near(a: dict, b: dict, tolerance: float) -> bool:
    return a.keys() == b.keys() and all((a[k] - b[k]).abs().max() <= tolerance for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: its state and its log."""
    folder = tmp_path_factory.mktemp("whole")
    game = Game()
    game.fit(folder)
    return game.state(), (folder / "metrics.jsonl").read_bytes()


def test_resume_is_bit_equal_from_every_kill_point(whole, tmp_path):
    chain = tmp_path / "killed again and again"
    for k in range(STEPS):
        with pytest.raises(Fault):
            Game(crash_at(k)).fit(chain, resume_from_checkpoint="latest")
        torch.randn(k + 1)  # draws of the new process have no influence
        folder, saved = tmp_path / str(k), k // 5 * 5
        shutil.copytree(chain, folder)
        game = Game()
        history = game.fit(folder, resume_from_checkpoint="latest", checkpointing_steps=None)
        resumed = history.resumed_from
        assert (resumed.name if resumed else None) == (f"step-{saved:06d}" if saved else None)
        assert same(game.state(), whole[0]), k
        assert (folder / "metrics.jsonl").read_bytes() == whole[1], k
        assert [json.loads(line) for line in whole[1].splitlines()] == history.log, k


def test_another_seed_is_another_run(whole):
    game = Game()
    game.fit(seed=1)
    assert not same(game.state(), whole[0])


def test_every_logged_step_is_there_once_after_many_kills(whole, tmp_path):
    for k in (3, 7, 8, 21, 22, 39):
        with pytest.raises(Fault):
            Game(crash_at(k)).fit(tmp_path, resume_from_checkpoint="latest")
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 39, "pla')  # a kill in the middle of a line
    Game().fit(tmp_path, resume_from_checkpoint="latest")
    log = (tmp_path / "metrics.jsonl").read_bytes()
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert log == whole[1] and steps == sorted(set(steps))


def test_workers_read_the_same_data(whole):
    game = Game()
    game.fit(dataloader_num_workers=2)
    assert same(game.state(), whole[0])


def test_draws_elsewhere_have_no_influence_and_the_callers_generator_is_kept(whole):
    torch.manual_seed(99)
    caller = torch.get_rng_state()

    def draw_between(step: int) -> None:
        torch.randn(step)

    game = Game()
    game.fit(on_step=draw_between)
    assert same(game.state(), whole[0])
    assert torch.equal(torch.get_rng_state(), caller)


def test_the_library_never_draws_from_the_global_generator():
    drawing = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
    drawing |= {"rand_like", "randn_like", "randint_like", "poisson"}
    in_place = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "cauchy_"}

    def unseeded(source: str) -> list[int]:
        return [
            node.lineno
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and (
                (node.func.attr in drawing and ast.unparse(node.func.value) == "torch")
                or (node.func.attr in in_place and ast.unparse(node.func.value) != "nn.init")
            )
            and "generator" not in {keyword.arg for keyword in node.keywords}
        ]

    assert unseeded("torch.randn(3)\ntorch.rand(2, generator=g)\nx.normal_()") == [1, 3]
    root = Path(latentctl.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 10
    found = [f"{f.relative_to(root)}:{n}" for f in files for n in unseeded(f.read_text())]
    assert found == []


def test_step_draws_the_rows_of_the_global_batch():
    whole = Step(seed=5, index=9, start=0, count=40, total=40)
    part = Step(seed=5, index=9, start=17, count=6, total=40)
    for draw in (lambda s: s.normal(2, 3), lambda s: s.uniform(4), lambda s: s.integers(1000)):
        assert torch.equal(draw(whole)[17:23], draw(part))
    assert not torch.equal(whole.normal(2), whole.normal(2, purpose="other"))
    drawn = torch.cat([Step(0, i, 0, 100, 100).integers(7) for i in range(30)])
    assert drawn.dtype == torch.long and drawn.bincount(minlength=7).min() > 3000 / 7 * 0.8
    assert Step(0, 0, 0, 4000, 4000).integers(2**40).max() > 2**39


def test_sample_order_drops_no_sample_and_wraps():
    order = SampleOrder(7, 3, seed=0)
    visits = torch.cat([order(step) for step in range(7)])
    assert visits.view(3, 7).sort(dim=1).values.tolist() == [list(range(7))] * 3
    assert visits[:7].tolist() != visits[7:14].tolist()
    small = SampleOrder(2, 5, seed=0)
    assert torch.cat([small(step) for step in range(2)]).bincount().tolist() == [5, 5]


def test_learning_rate_follows_steps_or_time():
    assert lr_factor("constant", 99, 100) == 1
    assert lr_factor("cosine", 50, 100) == pytest.approx(0.5)
    assert lr_factor("linear", 0, 100, elapsed=0.75) == pytest.approx(0.25)
    assert lr_factor("linear", 3, 100, warmup=10, elapsed=0.75) == pytest.approx(0.4)
    assert lr_factor("linear", 5, 5, warmup=9) == pytest.approx(6 / 9)


def test_accumulation_gives_the_same_weights():
    data = Faces(augment=False)
    states = []
    for parts, steps in ((1, STEPS), (4, STEPS), (1, STEPS - 1)):
        game = Game(plain=True)
        game.fit(gradient_accumulation_steps=parts, data=data, max_train_steps=steps)
        states.append(game.state())
    assert near(states[0], states[1], 1e-6)
    assert not near(states[0], states[2], 1e-6)


def test_players_change_only_their_own_weights_and_leave_no_gradient():
    game = Game(plain=True)
    seen = []

    def look(step: int) -> None:
        seen.append([[w.detach().clone() for w in p.module.parameters()] for p in game.players])

    game.fit(max_train_steps=8, on_step=look)
    for k, (old, new) in enumerate(itertools.pairwise(seen), start=1):
        moved = [not equal(*pair) for pair in zip(old, new, strict=True)]
        assert moved == ([False, True] if k % 4 == 3 else [True, False]), k
    assert all(
        w.grad is None and w.requires_grad for p in game.players for w in p.module.parameters()
    )


def test_the_average_is_exponential():
    game, expected = Game(plain=True, ema=0.75), []

    def average(step: int) -> None:
        weight = game.critic[0].weight.detach()
        if step % 4:  # the critic's turns
            expected.append(weight.clone() if not expected else expected[-1].lerp(weight, 0.25))

    history = game.fit(max_train_steps=10, on_step=average)
    assert torch.allclose(history.averaged["critic"][0].weight, expected[-1], atol=1e-7)
    assert not history.averaged["critic"].training and list(history.averaged) == ["critic"]


@pytest.mark.parametrize("weight_decay", [None, 0.1])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_train_equals_a_player_and_an_optimizer_by_hand(weight_decay, ema):
    def build():
        game = Game(plain=True)
        return game.critic, lambda batch, step: (game.critic(batch[1]).square().mean(), {})

    options = {"max_train_steps": 8, "batch_size": 12, "lr_scheduler": "cosine"}
    net, loss = build()
    history = train(
        net,
        loss,
        Faces(),
        name="critic",
        learning_rate=0.02,
        weight_decay=weight_decay,
        parameters=net[0].parameters(),
        ema=ema,
        **options,
    )
    assert history.steps == 8 and not net.training
    other, loss = build()
    last = {k: v.clone() for k, v in other[-1].state_dict().items()}
    optimizer = torch.optim.Adam(other[0].parameters(), lr=0.02)
    if weight_decay is not None:
        optimizer = torch.optim.AdamW(other[0].parameters(), lr=0.02, weight_decay=weight_decay)
    by_hand = fit(
        Player("critic", other, loss, optimizer, ema=ema), Faces(), progress=False, **options
    )
    expected = other if ema is None else by_hand.averaged["critic"]
    assert same(net.state_dict(), expected.state_dict())
    assert same(net[-1].state_dict(), last), "the other weights are not trained"


class Poisoned(Game):
    """The loss, or only one gradient, is not finite at some steps."""

    def __init__(self, steps: set[int], where: str) -> None:
        super().__init__()
        self.steps, self.where = steps, where

        def wrap(loss):
            def poisoned(batch, step):
                value, logged = loss(batch, step)
                if step.index not in self.steps or step.start == 0:
                    return value, logged
                if self.where == "loss":
                    return value * float("nan"), logged
                # finite value, infinite slope: sqrt at zero
                weight = self.players[0 if step.index % 4 < 3 else 1].module[-1].bias
                return value + (weight - weight.detach()).abs().sum().sqrt(), logged

            return poisoned

        for player in self.players:
            player.loss = wrap(player.loss)


@pytest.mark.parametrize(("where", "culprit"), [("loss", "0.weight"), ("gradient", "bias")])
def test_a_bad_step_changes_nothing_and_is_logged(where, culprit, tmp_path):
    bad = {6, 7, 11}  # of the critic, of the actor, of the actor
    game, states = Poisoned(bad, where), []

    def look(step: int) -> None:
        moments = [str(p.optimizer.state_dict()) for p in game.players]
        weights = [t.clone() for p in game.players for t in p.module.state_dict().values()]
        states.append((moments, weights))

    game.fit(tmp_path, on_step=look, max_train_steps=16, log_every=100)
    for k in range(1, 16):
        (moments, weights), (older, old) = states[k], states[k - 1]
        still = moments == older and equal(weights, old)
        assert still == (k in bad), k
    assert game.history.bad_steps == [k + 1 for k in sorted(bad)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "not_finite" in line]
    assert [line["step"] for line in lines] == game.history.bad_steps
    assert all(line["not_finite"].endswith(culprit) for line in lines)
    assert all((line["loss"] is None) == (where == "loss") for line in lines)
    assert lines[0]["samples"] == SampleOrder(SAMPLES, BATCH, seed=0)(6).tolist()


def test_too_many_bad_steps_in_a_row_stop_with_the_last_good_state(tmp_path):
    game = Poisoned({8, 9, 10, 12, 13}, "loss")  # 11 is the actor's, and good
    with pytest.raises(NonFiniteError, match=r"'critic' had 5 steps in a row.*step 14.*samples"):
        game.fit(tmp_path, max_bad_steps=4, checkpointing_steps=100)
    (saved,) = checkpoints(tmp_path)
    tensors, state = load_folder(saved)
    assert saved.name == "step-000014" and state["bad_steps"] == [9, 10, 11, 13, 14]
    assert all(t.isfinite().all() for t in tensors["critic"].values())
    patient = Poisoned({8, 9, 10, 12, 13}, "loss")
    assert patient.fit(max_bad_steps=5).steps == STEPS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves(number, code, whole, tmp_path):
    def send(index: int, start: int, rows: torch.Tensor) -> None:
        if index == 12 and start == 0:
            signal.raise_signal(number)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stopped:
        Game(send).fit(tmp_path, checkpointing_steps=100)
    assert stopped.value.code == code
    assert [c.name for c in checkpoints(tmp_path)] == ["step-000013"]
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    game = Game()
    game.fit(tmp_path, resume_from_checkpoint="latest", checkpointing_steps=100)
    assert same(game.state(), whole[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole[1]


def test_outside_the_main_thread_it_trains_without_handlers(whole):
    game = Game()
    thread = threading.Thread(target=game.fit)
    thread.start()
    thread.join()
    assert same(game.state(), whole[0])


def test_real_processes_that_are_stopped_by_real_signals(whole, tmp_path):
    modes = {"killed": -signal.SIGKILL, "terminated": 143, "terminated twice": 143}
    with contextlib.ExitStack() as stack:
        processes = {}
        for mode in modes:  # this file as a program of its own
            command = [sys.executable, __file__, "alone", str(tmp_path / mode)]
            processes[mode] = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
        for mode, process in processes.items():
            assert process.stdout.readline() == "training\n"
            process.kill() if mode == "killed" else process.terminate()
            if mode == "terminated":
                (tmp_path / mode / "sent").touch()
            if mode == "terminated twice":  # its step hangs
                time.sleep(0.2)
                assert process.poll() is None
                process.terminate()
            assert process.wait(timeout=30) == modes[mode]
    for mode in modes:
        folder = tmp_path / mode
        last = "step-000014" if mode == "terminated" else "step-000010"
        assert checkpoints(folder)[-1].name == last
        game = Game()
        game.fit(folder, resume_from_checkpoint="latest")
        assert same(game.state(), whole[0])
        assert (folder / "metrics.jsonl").read_bytes() == whole[1]


def test_a_time_budget_stops_the_run_and_anneals_the_learning_rate():
    def dawdle(index: int, start: int, rows: torch.Tensor) -> None:
        time.sleep(0.01)

    game = Game(dawdle)
    history = game.fit(max_train_steps=10**6, max_train_seconds=0.5, log_every=1)
    rates = [line["lr"] for line in history.log if line["player"] == "critic"]
    assert history.steps < 100 and history.seconds >= 0.5
    assert rates[-1] < 0.3 * max(rates)


def test_modes_are_restored_and_bfloat16_trains(fresh_accelerate):
    game = Game()
    game.critic.eval()
    game.actor[1].eval()
    accelerator = Accelerator(mixed_precision="bf16")
    game.fit(accelerator=accelerator, max_train_steps=4)
    assert not game.critic[2].training and game.actor.training and not game.actor[1].training
    assert game.critic[0].weight.dtype == torch.float32


def test_settings_of_another_run_are_refused(tmp_path):
    Game().fit(tmp_path, max_train_steps=5)
    with pytest.raises(CheckpointError, match="seed was 0 and is now 1"):
        Game().fit(tmp_path, resume_from_checkpoint="latest", seed=1)
    with pytest.raises(CheckpointError, match="batch_size was 12 and is now 24"):
        Game().fit(tmp_path, resume_from_checkpoint="latest", batch_size=24)
    with pytest.raises(CheckpointError, match="players was"):
        Game(ema=0.5).fit(tmp_path, resume_from_checkpoint="latest")
    with pytest.raises(CheckpointError, match="missing"):
        Game().fit(tmp_path, resume_from_checkpoint="step-000099")
    with pytest.raises(CheckpointError, match=r"a run up to step-000005.*latest"):
        Game().fit(tmp_path)
    assert Game().fit(tmp_path, resume_from_checkpoint="latest", max_train_steps=5).steps == 5


def test_errors_say_what_to_do():
    game = Game()
    (critic, actor) = game.players
    with pytest.raises(InputError, match=r"batch_size 3 .* 1 processes x 4 .* at least 4"):
        game.fit(batch_size=3, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match="max_train_steps must be positive, not 0"):
        game.fit(max_train_steps=0)
    with pytest.raises(InputError, match="give output_dir"):
        game.fit(checkpointing_steps=5)
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine'"):
        game.fit(lr_scheduler="cosin")
    with pytest.raises(InputError, match="different names, not"):
        fit([critic, critic], Faces(), max_train_steps=1, batch_size=4)
    with pytest.raises(InputError, match="samples must be positive"):
        fit(critic, torch.empty(0, 4), max_train_steps=1, batch_size=4)
    with pytest.raises(InputError, match="not in its module"):
        Player("critic", game.critic, game.judge, actor.optimizer)
    with pytest.raises(InputError, match="turns >= 1"):
        Player("critic", game.critic, game.judge, critic.optimizer, turns=0)
    with pytest.raises(InputError, match="not an identifier"):
        Player("../critic", game.critic, game.judge, critic.optimizer)
    flat = Player("critic", game.critic, lambda b, s: (torch.zeros(()), {}), critic.optimizer)
    with pytest.raises(InputError, match="was it detached"):
        fit(flat, Faces(), max_train_steps=1, batch_size=4, progress=False)

    class Half:
        mixed_precision, num_processes = "fp16", 1

    with pytest.raises(InputError, match='"bf16"'):
        game.fit(accelerator=Half())


def test_a_launch_that_started_one_process_instead_of_several_is_logged(monkeypatch, caplog):
    Game().fit(max_train_steps=1)
    assert not caplog.messages
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # as `accelerate launch --cpu` sets them
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    _say_once.cache_clear()
    Game().fit(max_train_steps=1)
    Game().fit(max_train_steps=1)
    assert len(caplog.messages) == 1 and "--multi_gpu" in caplog.text


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    # `accelerate launch --cpu --num_processes 2` would start one process: it needs mpirun for two
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, __file__, "pair", str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    weights = {
        name: torch.load(tmp_path / f"{name}.pt") for name in ("plain", "noisy-0", "noisy-1")
    }
    order, later = {}, {}

    plain = Game(lambda i, s, rows: order.update({i: rows.tolist()}), plain=True)
    plain.fit(data=Faces(augment=False), gradient_accumulation_steps=1)
    assert near(plain.state(), weights["plain"], 1e-5)

    assert same(weights["noisy-0"], weights["noisy-1"])
    noisy = Game()  # the dropout of two processes is that of two micro-batches
    noisy.fit()
    for name in ("critic.0.weight", "critic.4.weight", "actor.0.weight"):
        assert torch.allclose(noisy.state()[name], weights["noisy-0"][name], atol=1e-4)

    resumed = Game(lambda i, s, rows: later.update({i: rows.tolist()}), plain=True)
    resumed.fit(
        tmp_path / "half",
        data=Faces(augment=False),
        gradient_accumulation_steps=1,
        resume_from_checkpoint="latest",
    )
    assert near(resumed.state(), plain.state(), 1e-5)
    assert min(later) == 20 and all(later[i] == order[i] for i in later)


def pair(folder: Path) -> None:
    """What each of two processes does; all of it must hold on both."""
    accelerator = Accelerator()
    assert accelerator.num_processes == 2
    rank = accelerator.process_index
    plain = Game(plain=True)
    with torch.no_grad():  # only the weights of the main process count
        plain.critic[0].weight.mul_(1 + rank)
    data = Faces(augment=False)
    plain.fit(folder / "plain", data=data, gradient_accumulation_steps=1, checkpointing_steps=20)
    if rank == 0:
        torch.save(plain.state(), folder / "plain.pt")
        shutil.copytree(folder / "plain" / "step-000020", folder / "half" / "step-000020")
        shutil.copy(folder / "plain" / "metrics.jsonl", folder / "half")

    noisy = Game()
    noisy.fit(folder / "noisy", gradient_accumulation_steps=1)
    torch.save(noisy.state(), folder / f"noisy-{rank}.pt")

    def crash(index: int, start: int, rows: torch.Tensor) -> None:
        if index == 23:
            raise Fault

    with pytest.raises(Fault):
        Game(crash).fit(folder / "killed", gradient_accumulation_steps=1)
    again = Game()
    again.fit(folder / "killed", gradient_accumulation_steps=1, resume_from_checkpoint="latest")
    assert same(again.state(), noisy.state())
    logs = [(folder / name / "metrics.jsonl").read_bytes() for name in ("killed", "noisy")]
    assert logs[0] == logs[1]

    def stop_one(index: int, start: int, rows: torch.Tensor) -> None:
        if index == 7 and start > 0:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        Game(stop_one).fit(folder / "stopped", gradient_accumulation_steps=1)
    assert stopped.value.code == 143 and checkpoints(folder / "stopped")[-1].name == "step-000008"

    sick = Poisoned({9}, "loss")  # its micro-batch with start > 0 is on the second process only
    sick.fit(gradient_accumulation_steps=1)
    assert sick.history.bad_steps == [10]
    accelerator.end_training()


def alone(folder: Path) -> None:
    def wait(index: int, start: int, rows: torch.Tensor) -> None:
        if index == 13 and start == 0:
            print("training", flush=True)
            end = time.monotonic() + 60
            while not (folder / "sent").exists() and time.monotonic() < end:
                time.sleep(0.01)

    Game(wait).fit(folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"pair": pair, "alone": alone}[sys.argv[1]](Path(sys.argv[2]))
