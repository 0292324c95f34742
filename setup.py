"""What pyproject.toml cannot say: the compiled decoding step of the CPU, once per instruction set.

It is optional: without a C++ compiler the package installs all the same, and decodes on a CPU in plain torch.
"""

import platform
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup

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


setup(ext_modules=extensions(), options={"bdist_wheel": {"py_limited_api": "cp310"}})
