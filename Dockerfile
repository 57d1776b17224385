# syntax=docker/dockerfile:1
# The server and its web page, without torch: `docker build --target cpu .` or `--target gpu`. It serves the box,
# or what CAPTIONER_BUNDLE or --bundle names: mount bundles at /bundles.
# The interpreter is the one that constraints.txt was tested with.
FROM python:3.11.13-slim-bookworm AS python

FROM python AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN pip install uv==0.13.8 && python -m venv --without-pip /venv
WORKDIR /build
# Only what pyproject.toml lists, so that a change of the code installs nothing anew.
COPY pyproject.toml constraints.txt ./

FROM builder AS cpu-builder
RUN uv pip install -p /venv -c constraints.txt -r pyproject.toml --extra cpu --extra web --extra trace

# CUDA 13 and cuDNN 9 come as wheels (cudart, cublas, cudnn, cufft, curand, nvrtc), at the versions that this
# onnxruntime-gpu names itself. An nvidia/cuda image would bring another Python, and all of CUDA.
FROM builder AS gpu-builder
RUN uv pip install -p /venv -c constraints.txt -r pyproject.toml --extra gpu --extra web --extra trace 'onnxruntime-gpu[cuda,cudnn]'

FROM python AS server
LABEL org.opencontainers.image.title="captioner" \
      org.opencontainers.image.description="Captions of photos and answers about them, over gRPC and a web page"
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY captioner captioner
COPY services services
RUN python -m compileall -q captioner services
# A number, so that an orchestrator can see that it is not root. Nothing is written anywhere, /tmp included.
USER 10001:10001
# gRPC, the web page, Prometheus's page; the last two only where flags ask for them.
EXPOSE 50051 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "services.healthcheck"]

# Needs the NVIDIA container runtime, which brings the driver's libcuda. Fails rather than run on the CPU.
FROM server AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/venv/lib/python3.11/site-packages/nvidia/cu13/lib:/venv/lib/python3.11/site-packages/nvidia/cudnn/lib
COPY --from=gpu-builder /venv /venv
ENTRYPOINT ["python", "-m", "services", "--host", "0.0.0.0", "--provider", "cuda", "--require-gpu"]

FROM server AS cpu
COPY --from=cpu-builder /venv /venv
ENTRYPOINT ["python", "-m", "services", "--host", "0.0.0.0"]
