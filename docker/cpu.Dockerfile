# Runs bundles on a CPU:  docker build -f docker/cpu.Dockerfile -t edgekit-cpu .
#                         docker run --rm -v "$PWD:/data" edgekit-cpu predict /data/yolo12n-ov /data/street.jpg --out /data/seen
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
COPY --from=wheel /wheels /wheels
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /wheels/edgekit-*.whl)[openvino]" onnxruntime \
    && rm -rf /wheels /tmp/constraints.txt \
    && useradd --uid 1000 --create-home edgekit
USER 1000
WORKDIR /data
ENTRYPOINT ["edgekit"]
CMD ["doctor"]
