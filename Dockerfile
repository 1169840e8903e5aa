# A service on port 1234, not root, nothing to write:
#   docker build -t captioner .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:1234:1234 captioner
# On CUDA: docker build --build-arg DEVICE=gpu -t captioner:cuda . && docker run --gpus all ... captioner:cuda
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG DEVICE=cpu
WORKDIR /source
COPY . .
RUN python -m venv /opt/caprun && /opt/caprun/bin/pip install --no-cache-dir ".[${DEVICE},serve]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/caprun /opt/caprun
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp caprun
ENV PATH=/opt/caprun/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /tmp
EXPOSE 1234
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 1234, timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["caprun"]
CMD ["serve", "--host", "0.0.0.0", "--port", "1234"]
