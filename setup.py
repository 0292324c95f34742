"""What pyproject.toml cannot say: the compiled decoding step of the CPU, once per instruction set, and the files of
train/, eval/ and data_recipes/ that a wheel carries.

The compiled step is optional: without a C++ compiler the package installs all the same, and decodes on a CPU in plain
torch.
"""

import platform
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

FOLDER = Path("cambrian_gaze/attention/native")
FLAGS = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
    "any": [],
}


def extensions() -> list[Extension]:
    """The builds that this machine's compiler is asked for: plain libraries, which need no header of Python."""
    if sys.platform != "linux":
        return []
    sources = sorted(FOLDER.glob("*.[ch]*"))
    checksum = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    return [
        Extension(
            f"cambrian_gaze.attention.native.decode_{build}",
            [str(path) for path in sources if path.suffix == ".cpp"],
            depends=[str(path) for path in sources],
            define_macros=[("GAZE_SOURCE", f"{checksum}u")],
            extra_compile_args=["-O3", "-std=c++17", "-fvisibility=hidden", "-fno-math-errno", *flags],
            extra_link_args=["-s"],
            language="c++",
            optional=True,
            py_limited_api=True,
        )
        for build, flags in FLAGS.items()
        if build == "any" or platform.machine() == "x86_64"
    ]


class BuildWithDeclarations(build_py):
    """Also copies the declarations to `cambrian_gaze/shipped`, where an installed copy looks for them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._declarations().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._declarations().values())]

    def _declarations(self) -> dict[Path, Path]:
        """File of the repository → its place in the build."""
        shipped = Path(self.build_lib) / "cambrian_gaze" / "shipped"
        return {
            path: shipped / path
            for folder in ("train", "eval", "data_recipes")
            for path in sorted(Path(folder).rglob("*"))
            if path.suffix in (".yaml", ".json")
        }


setup(
    cmdclass={"build_py": BuildWithDeclarations},
    ext_modules=extensions(),
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
