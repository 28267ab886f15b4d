# Sparring with Ray, for docker compose, `ray up` and Kubernetes: docs/cluster.md.
#   docker build --tag sparring:0.1.0 .
#   docker build --tag sparring:0.1.0-cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
FROM python:3.11.13-slim-bookworm AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/sparring/venv
ENV PATH=/opt/sparring/venv/bin:$PATH

# What changes seldom comes first: torch, by the version of the constraints, then the other packages, then the code.
WORKDIR /source
COPY constraints.txt ./
RUN pip install --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" "$(grep '^torchvision==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY sparring ./sparring
RUN pip install --constraint constraints.txt '.[cluster,clouds]'

FROM python:3.11.13-slim-bookworm

# Ray's autoscaler uses ssh and rsync, KubeRay's probes wget, `ray up` pgrep. Debian keeps no old versions to pin.
# Its commands are those of a login shell, in which /etc/profile resets PATH: the file there sets it again. (No links in
# /usr/local/bin: the environment's python is itself a link to the one there.)
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client procps rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && echo "export PATH=/opt/sparring/venv/bin:\$PATH" >/etc/profile.d/sparring.sh \
    && useradd --uid 1000 --create-home --shell /bin/bash sparring \
    && install --directory --owner=sparring --group=sparring /data /runs /tmp/ray /var/lib/sparring/targets

COPY --from=build /opt/sparring/venv /opt/sparring/venv
COPY recipes /opt/sparring/recipes
ENV PATH=/opt/sparring/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/sparring
# A run that gets it writes a checkpoint and ends in good order.
STOPSIGNAL SIGTERM
CMD ["sparring", "--help"]
