"""Imports of others' packages and what follows from them, once for all programs and tests.

The garbage collector would look at ever more modules meanwhile, and later have each forked program
copy them. The first loop that Numba loads has it gather its types and functions, and the first
custom operator that torch registers has `inspect` look for the files of all modules.
"""

import gc
import inspect
from importlib import import_module

# Others' modules alone: ours are imported in each process, in their order, as by its users.
NAMES = [
    *("torch", "torchvision.transforms.v2", "timm", "timm.data", "accelerate", "torchmetrics"),
    *("numba", "fsspec", "simplejpeg", "PIL.Image", "matplotlib.figure", "einops", "jaxtyping"),
    *("safetensors.torch", "tyro", "rich.console", "rich.live", "rich.table", "yaml"),
]

gc.disable()
for name in NAMES:
    import_module(name)
loops = import_module("numba.core.registry").cpu_target
loops.typing_context.refresh()
loops.target_context.refresh()
inspect.getmodule(compile("", __file__, "exec"), "a file of no module")
gc.freeze()
gc.enable()
