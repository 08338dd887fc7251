"""Dockerfiles of a package: text that is pinned, and that says of itself that it was not built where it was written."""

from __future__ import annotations

from collections.abc import Mapping

_HEAD = "# Not built here: this file was written on a machine without Docker, and is for you to build and try.\n"


def dockerfiles(name: str, versions: Mapping[str, str], triton: str) -> dict[str, str]:
    """Text by file name.

    Args:
        name: of the model on the server.
        versions: of numpy, pillow and onnxruntime, with which the package was proven.
        triton: release of the server.
    """
    pins = " ".join(f"{package}=={versions[package]}" for package in ("numpy", "pillow", "onnxruntime"))
    cpu = f"""{_HEAD}# docker build -f docker/Dockerfile.cpu -t {name}:cpu . && docker run --rm {name}:cpu
FROM python:3.12-slim
RUN pip install --no-cache-dir {pins}
WORKDIR /model
COPY . .
CMD ["python", "verify.py"]
"""
    server = f"""{_HEAD}# The base is NVIDIA's image tritonserver:{triton}-py3; name it as your registry does:
# docker build -f docker/Dockerfile.triton --build-arg TRITON_IMAGE=.../tritonserver:{triton}-py3 -t {name}:triton .
ARG TRITON_IMAGE
FROM ${{TRITON_IMAGE}}
COPY triton /models
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models"]
"""
    jetson = f"""{_HEAD}# The base is NVIDIA's image l4t-jetpack:r36.4.0 (JetPack 6.1); name it as your registry does:
# docker build -f docker/Dockerfile.jetpack --build-arg JETPACK_IMAGE=.../l4t-jetpack:r36.4.0 -t {name}:jetpack .
ARG JETPACK_IMAGE
FROM ${{JETPACK_IMAGE}}
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
RUN pip3 install --no-cache-dir numpy==1.26.4 pillow=={versions["pillow"]} cuda-python==12.6.2
WORKDIR /model
COPY . .
# An engine runs only where it was built for: build it on the device from model.onnx, with trtexec or attn-deploy build.
CMD ["python3", "verify.py"]
"""
    return {"Dockerfile.cpu": cpu, "Dockerfile.triton": server, "Dockerfile.jetpack": jetson}
