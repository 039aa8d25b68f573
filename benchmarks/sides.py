"""The sides of a comparison, each in a process of its own that answers requests: `python sides.py JSON`.

"minidat", on a GPU with a CUDA graph, and "no graph", without; "torch", eager PyTorch with fused AdamW; "compiled", the same
through `torch.compile`; on a GPU with mode="reduce-overhead", which launches CUDA graphs. "torch sdpa" and "compiled sdpa" take
attention by `F.scaled_dot_product_attention`, where the others spell it out. "jax": JAX on the CPU. Arrays are float32; the
precision of products is "fp32" or "tf32", on all sides.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import meters
import numpy as np
from cases import Case, configuration, keywords, network

RATE = 1e-4
ON_CPU = {"cpp_wrapper": True, "freezing": True}  # of torch.compile: the fastest of what was tried, see NOTES.md
OURS = ("minidat", "no graph")


def write_weights(case: Case, folder: Path) -> None:
    """The first weights, which all sides share, under their released names."""
    from minidat.released import official

    np.savez(folder / "weights.npz", **official.to_official(network(case.model, case.image)))


class Minidat:
    """Our side. Imports happen in the constructor, arrays come into being in `prepare`. graph: launch a GPU's step as a CUDA
    graph."""

    def __init__(
        self,
        case: Case,
        device: str,
        threads: int,
        loops: str = "numpy",
        *,
        name: str = "minidat",
        precision: str = "fp32",
    ):
        from minidat.autograd import backend
        from minidat.data import augment
        from minidat.fast import loops as fast_loops
        from minidat.released import official
        from minidat.training import optim, parallel
        from minidat.training.settings import Settings
        from minidat.training.tasks import task_of

        try:
            backend.device_module(device)
        except backend.DeviceError as error:
            raise SystemExit(f"minidat bench: {error}") from error
        self.case, self.device, self.official = case, device, official
        self.augment, self.optim, self.parallel, self.backend = augment, optim, parallel, backend
        self.task = task_of(Settings())
        self.loops = fast_loops.use(loops if device == "cpu" else "numpy")
        self.name, self.precision, self.graph = name, precision, name == "minidat"
        self.pools: list[Any] = []  # of memory on a GPU, beside CuPy's own
        self.told: list[str] = []
        # a single image leaves the threads to BLAS
        at_once = threads if device == "cpu" and case.batch >= threads else 1
        micro = min(case.micro, max(1, case.batch // threads)) if device == "cpu" else case.batch
        self.workers = parallel.Workers(at_once, micro, blas=threads if at_once == 1 else 1)
        self.workers.__enter__()

    def about(self) -> str:
        if self.device == "cpu":
            return f"NumPy {np.__version__}" + (f" and numba {version('numba')}" if self.loops == "numba" else "")
        import cupy

        return f"CuPy {cupy.__version__} on CUDA {_cuda_version(cupy.cuda.runtime.runtimeGetVersion())}"

    def inside(self) -> ExitStack:
        """What to work inside of: on a GPU the precision of products, and a stream that may be captured."""
        stack = ExitStack()
        if self.device == "gpu":
            from minidat.fast.cuda import cublas

            stack.enter_context(cublas.precision(self.precision))
            stack.enter_context(self.backend.device_module(self.device).cuda.Stream(non_blocking=True))
        return stack

    def meter(self) -> Any:
        return meters.Host() if self.device == "cpu" else meters.Cupy(self.pools)

    def notes(self) -> list[str]:
        """What a reader of the times must know."""
        return self.told

    def prepare(self, folder: Path) -> None:
        """Write our logits and gradients; then `run` does the case's work once."""
        model = self.model = network(self.case.model, self.case.image)
        images, labels = self.case.inputs(model.config.image, model.config.classes)
        model.to(device=self.device)
        x = self.backend.to_device(images, self.device)
        found = {"logits": self.backend.asnumpy(self.parallel.predict(model, x, self.workers))}
        self.run = lambda: self.parallel.predict(model, x, self.workers)
        if self.case.work == "step":
            targets = self.augment.one_hot(labels, model.config.classes)
            gradient, self.run = self.training_step(model, x, self.backend.to_device(targets, self.device))
            for tensor, grad in zip(model.parameters().values(), gradient(), strict=True):
                tensor.grad = grad.copy()
            found |= self.official.to_official(model, grads=True)
            for tensor in model.parameters().values():
                tensor.grad = None
        np.savez(folder / f"{self.name}.npz", **found)

    def training_step(self, model: Any, x: Any, targets: Any) -> tuple[Callable[[], list[Any]], Callable[[], None]]:
        """(what gives the gradient of each parameter, what takes one step of AdamW), on a batch that stays."""
        arena = self.optim.Arena(model.parameters())
        optimiser = self.optim.AdamW(arena)
        gradient = self.parallel.BatchGradient(model, arena, self.workers, self.task.loss)

        def flat() -> Any:
            return gradient(x, targets, generator=np.random.default_rng)[0]

        def parts() -> list[Any]:
            return list(arena.views(flat()).values())

        if optimiser.fused is None:
            return parts, lambda: optimiser.step(flat(), RATE)
        return parts, self.device_step(model, optimiser, x, targets)

    def device_step(self, model: Any, optimiser: Any, x: Any, targets: Any) -> Callable[[], None]:
        """As a run on a GPU takes a step: forward, backward and AdamW, in one CUDA graph or without, its scalars sent before."""
        from minidat import ops
        from minidat.autograd import Tensor, array_module, gradients
        from minidat.fast.cuda.flat_gradient import FlatGradient
        from minidat.training.graph import Graphed

        xp, leaves = array_module(x), list(model.parameters().values())
        grad = xp.zeros_like(optimiser.arena.data)
        flat = FlatGradient([leaf.data for leaf in leaves], optimiser.arena.slices, grad)

        def compute() -> None:
            loss = ops.cross_entropy(model(Tensor(x)), targets)
            with flat.filling():
                found = gradients(loss, leaves)
            flat.gather(found)
            optimiser.fused.step(grad)

        work = compute
        if self.graph:
            work = Graphed(compute, xp, note=self.told.append)
            self.pools.append(work.pool)

        def step() -> None:
            optimiser.fused.scalars[...] = xp.asarray(optimiser.scalars(RATE, float("inf")))
            work()

        return step


class Torch:
    """The rival: eager or compiled, attention spelled out or PyTorch's own, as its name says."""

    def __init__(self, case: Case, device: str, threads: int, *, name: str = "torch", precision: str = "fp32"):
        import torch
        import torch_dat
        import torch_layers

        if device == "gpu" and not torch.cuda.is_available():
            raise SystemExit("this PyTorch finds no GPU; install one built for CUDA")
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch_layers.FUSED = name.endswith(" sdpa")
        self.case, self.torch, self.torch_dat = case, torch, torch_dat
        self.name, self.compiled = name, name.startswith("compiled")
        self.place = "cuda" if device == "gpu" else "cpu"

    def about(self) -> str:
        cuda = f" on CUDA {self.torch.version.cuda}" if self.place == "cuda" else ""
        return f"PyTorch {self.torch.__version__}{cuda}"

    def inside(self) -> ExitStack:
        return ExitStack()

    def meter(self) -> Any:
        return meters.Host() if self.place == "cpu" else meters.Torch()

    def notes(self) -> list[str]:
        if not self.compiled or self.place == "cpu":
            return []
        from torch._dynamo.utils import counters

        skips = counters["inductor"]["cudagraph_skips"]
        return [f"the compiler left out CUDA graphs {skips} times"] if skips else []

    def prepare(self, folder: Path) -> None:
        torch, case = self.torch, self.case
        config = configuration(case.model, case.image)
        model = self.model = self.torch_dat.TorchDAT(keywords(config), config.convention)
        weights = np.load(folder / "weights.npz")
        model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
        model.to(self.place, torch.float32)  # its grids are float64 until they are used
        images, labels = case.inputs(config.image, config.classes)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(self.place)
        y = torch.from_numpy(labels).to(self.place)
        self.run = self._forward(model.eval(), x)
        found = {"logits": self.run().cpu().numpy()}
        if case.work == "step":
            gradient, self.run = self._training_step(model.train(), x, y)
            gradient()
            found |= {name: p.grad.cpu().numpy().copy() for name, p in model.named_parameters()}
        np.savez(folder / f"{self.name}.npz", **found)

    def _forward(self, model: Any, x: Any) -> Callable[[], Any]:
        def run() -> Any:
            with self.torch.inference_mode():
                return call(x)

        call = self._compiled(model) if self.case.work == "forward" else model
        return run

    def _training_step(self, model: Any, x: Any, y: Any) -> tuple[Callable[[], None], Callable[[], None]]:
        optimiser = self.torch.optim.AdamW(model.parameters(), RATE, fused=True)
        loss = self._compiled(lambda x, y: self.torch.nn.functional.cross_entropy(model(x), y))

        def gradient() -> None:
            if self.compiled:
                self.torch.compiler.cudagraph_mark_step_begin()
            optimiser.zero_grad(set_to_none=True)
            loss(x, y).backward()

        def step() -> None:
            gradient()
            optimiser.step()

        return gradient, step

    def _compiled(self, function: Any) -> Any:
        if not self.compiled:
            return function
        best = {"mode": "reduce-overhead"} if self.place == "cuda" else {"options": ON_CPU}
        return self.torch.compile(function, dynamic=False, **best)


def make(side: str, case: Case, device: str, threads: int, loops: str = "numpy", precision: str = "fp32") -> Any:
    """A side by its name. loops: ours. precision: of products on a GPU."""
    if side in OURS:
        return Minidat(case, device, threads, loops, name=side, precision=precision)
    if side == "jax":
        from jax_side import Jax

        return Jax(case, RATE)
    return Torch(case, device, threads, name=side, precision=precision)


def serve(side: Any, requests: Any, answers: Any) -> None:
    """Answer requests, one a line, until they end. An answer is {"failed": traceback, "reason": its error in one line} where the
    work failed."""
    meter = side.meter()
    with side.inside():
        for line in requests:
            try:
                answer = _answer(side, meter, json.loads(line))
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                answer = {"failed": traceback.format_exc(), "reason": reason}
            print(json.dumps(answer), file=answers, flush=True)


def _answer(side: Any, meter: Any, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "prepare":
        side.prepare(Path(request["folder"]))
        meter.reset()
        return {"about": side.about()}
    if request["do"] == "run":
        return {"seconds": meter.seconds(side.run, request.get("repeats", side.case.repeats))}
    return {"megabytes": meter.megabytes(), "notes": side.notes()}


def _cuda_version(number: int) -> str:
    """12090 → "12.9" """
    return f"{number // 1000}.{number % 1000 // 10}"


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    case, rest = Case(**asked["case"]), (asked["device"], asked["threads"], asked["loops"], asked["precision"])
    serve(make(asked["side"], case, *rest), sys.stdin, answers)


if __name__ == "__main__":
    main()
