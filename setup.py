"""Compiles runtime/native with Zig's C compiler, which comes as a wheel: no compiler need be installed anywhere."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("runtime/native")
# What every x86-64 processor since 2009 can do; newer instructions are chosen at run time, function by function.
BASELINE = ["-mcpu=x86_64_v2"] if platform.machine().lower() in ("x86_64", "amd64") else []
EXACT = ["-ffp-contract=off"]  # a product and a sum are rounded one by one, whatever the processor could do at once
FLAGS = ["-std=c17", "-O3", "-g0", *EXACT, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all"]


class Compile(build_ext):
    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name)).absolute()
        library.parent.mkdir(parents=True, exist_ok=True)
        cache = Path(self.build_temp).absolute() / "zig"
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *BASELINE, "-o", str(library), *ext.sources, "-lm"]
        subprocess.run(command, env=environment, check=True)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"  # a plain library, not a Python module


setup(
    ext_modules=[
        Extension(
            "runtime.native.kernels",
            sources=sorted(str(path) for path in SOURCES.glob("*.c")),
            depends=[str(path) for path in SOURCES.glob("*.h")],
        )
    ],
    cmdclass={"build_ext": Compile},
)
