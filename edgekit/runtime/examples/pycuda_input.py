"""A picture that PyCUDA put into the GPU's memory, answered by a TensorRT bundle without a copy.

python -m edgekit.runtime.examples.pycuda_input BUNDLE street.jpg     # pip install 'edgekit[cuda,pycuda]'

edgekit reads the array through ``__cuda_array_interface__`` and runs in the context that PyCUDA made; it imports
nothing of PyCUDA. Unchecked on hardware: tested with stand-ins for PyCUDA, CUDA and TensorRT.
"""

from __future__ import annotations

import sys
from typing import Any

import edgekit
from edgekit.runtime.image import read_image


def main(bundle: str, image: str) -> None:
    import pycuda.autoinit  # noqa: F401  makes the context
    from pycuda import gpuarray

    with edgekit.load(bundle) as model:
        batch, _ = model.preprocess([read_image(image)])
        session: Any = model.session
        for role, array in session.run_device(gpuarray.to_gpu(batch)).items():
            sys.stdout.write(f"{role} {list(array.shape)} at {array.pointer:#x} in the GPU's memory\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
