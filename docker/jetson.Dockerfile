# UNCHECKED: nothing of this was run on a Jetson.
# Builds engines from packed graphs and runs them, with the TensorRT of JetPack 6:
#   docker build -f docker/jetson.Dockerfile -t edgekit-jetson .
#   docker run --rm --runtime nvidia -v "$PWD:/data" edgekit-jetson build --rebuild /data/packed --out /data/yolo12n-orin
FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime
# The image decides which versions fit its TensorRT.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv python3-libnvinfer \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv --system-site-packages /opt/edgekit \
    && /opt/edgekit/bin/pip install --no-cache-dir '.[cuda]' \
    && useradd --uid 1000 --create-home edgekit
ENV PATH=/opt/edgekit/bin:$PATH
USER 1000
WORKDIR /data
ENTRYPOINT ["edgekit"]
CMD ["doctor"]
