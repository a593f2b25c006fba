"""Other compilers as peers: IREE, TVM and XLA, each as its own documentation drives it.

None is tuned: TVM's and IREE's searches take hours a model.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import Run, installed
from benchmarks.models import Arrays


class Iree:
    """IREE's compiler for the processor at hand, with its runtime's local tasks."""

    name = "iree"

    def version(self) -> str | None:
        return installed("iree-base-compiler") if installed("iree-base-runtime") else None

    def load(self, path: Path, threads: int) -> Run:
        import onnx
        from iree import compiler, runtime
        from iree.compiler.tools.import_onnx import __main__ as importer

        graph = onnx.load(path, load_external_data=False).graph
        constants = {each.name for each in graph.initializer}
        inputs = [each.name for each in graph.input if each.name not in constants]
        outputs = [each.name for each in graph.output]
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "model.mlir"
            arguments = [str(path), "-o", str(text), "--opset-version", "17"]
            if importer.main(importer.parse_arguments(arguments)):
                raise RuntimeError("the model could not be imported")
            code = compiler.compile_file(
                str(text),
                target_backends=["llvm-cpu"],
                input_type="onnx",
                extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"],
            )
        runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
        config = runtime.Config("local-sync" if threads == 1 else "local-task")
        module = runtime.load_vm_module(
            runtime.VmModule.copy_buffer(config.vm_instance, code), config
        )
        call = getattr(module, graph.name)

        def run(feeds: Arrays) -> Arrays:
            found = call(*(feeds[name] for name in inputs))
            results = found if isinstance(found, (list, tuple)) else [found]
            return {name: np.asarray(each.to_host())
                    for name, each in zip(outputs, results, strict=True)}  # fmt: skip

        return run


class Tvm:
    """TVM's default pipeline. It compiles in the first call, for the shapes of its inputs."""

    name = "tvm"

    def version(self) -> str | None:
        return installed("apache-tvm")

    def load(self, path: Path, threads: int) -> Run:
        import onnx
        import tvm
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        proto = onnx.load(path)
        constants = {each.name for each in proto.graph.initializer}
        inputs = [each.name for each in proto.graph.input if each.name not in constants]
        outputs = [each.name for each in proto.graph.output]
        target = tvm.target.Target.from_device("cpu")
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        made: list[Any] = []

        def machine(feeds: Arrays) -> Any:
            if not made:
                shapes = {name: list(feeds[name].shape) for name in inputs}
                kinds = {name: str(feeds[name].dtype) for name in inputs}
                module = from_onnx(proto, shape_dict=shapes, dtype_dict=kinds)
                built = tvm.compile(relax.get_pipeline("zero")(module), target)
                made.append(relax.VirtualMachine(built, tvm.cpu()))
            return made[0]

        def run(feeds: Arrays) -> Arrays:
            found = machine(feeds)["main"](*(tvm.runtime.tensor(feeds[name]) for name in inputs))
            results = [found] if hasattr(found, "numpy") else list(found)
            return {name: each.numpy() for name, each in zip(outputs, results, strict=True)}

        return run


class Xla:
    """XLA's CPU backend through JAX, models read by jaxonnxruntime. The first call compiles.

    It takes its threads from the environment when it is loaded: one, or all cores, for all models.
    """

    name = "xla"
    _threads: int | None = None

    def version(self) -> str | None:
        return installed("jaxlib") if installed("jaxonnxruntime") else None

    def load(self, path: Path, threads: int) -> Run:
        if Xla._threads not in (None, threads):
            raise RuntimeError(f"XLA was loaded for {Xla._threads} threads in this process")
        if threads not in (1, len(os.sched_getaffinity(0))):
            raise RuntimeError("XLA has one thread or all cores")
        Xla._threads = threads
        several = "false" if threads == 1 else "true"
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={several}"
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax
        import onnx
        from jaxonnxruntime import call_onnx

        proto = onnx.load(path)
        outputs = [each.name for each in proto.graph.output]
        made: list[Any] = []

        def run(feeds: Arrays) -> Arrays:
            if not made:
                function, parameters = call_onnx.call_onnx_model(proto, feeds)
                made.extend((jax.jit(function), parameters))
            compiled, parameters = made
            found = compiled(parameters, feeds)
            return {name: np.asarray(each) for name, each in zip(outputs, found, strict=True)}

        return run
