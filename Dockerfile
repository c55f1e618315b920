# vit for CPUs:  docker build -t vit .
FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=heif,parquet,remote,text
# torch has a layer of its own, so that a change of the code does not download it again.
RUN python -m venv /opt/vit && \
    /opt/vit/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
COPY . /src
RUN /opt/vit/bin/pip install --no-cache-dir "/src[$EXTRAS]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/vit /opt/vit
# Everyone may write to /cache, as to /tmp: with --user, vit runs as the owner of the mounted files.
RUN useradd --create-home --uid 1000 vit && install --directory --mode=1777 /cache
ENV PATH=/opt/vit/bin:$PATH VIT_CACHE=/cache/vitcli HF_HOME=/cache/huggingface
USER 1000
WORKDIR /data
VOLUME /cache
ENTRYPOINT ["vit"]
CMD ["--help"]
