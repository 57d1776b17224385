# syntax=docker/dockerfile:1
# The server alone: no torch. `--target gpu` needs the NVIDIA runtime.
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 captioner
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY captioner captioner
COPY services services

FROM base AS gpu
RUN pip install -c constraints.txt '.[gpu,serve]'
USER captioner
EXPOSE 50051
ENTRYPOINT ["python", "-m", "services", "--bundle", "/bundle", "--host", "0.0.0.0"]

FROM base AS cpu
RUN pip install -c constraints.txt '.[cpu,serve]'
USER captioner
EXPOSE 50051
ENTRYPOINT ["python", "-m", "services", "--bundle", "/bundle", "--host", "0.0.0.0"]
