# An image with all commands of fcmae, for NVIDIA GPUs or for CPUs. It runs as a user without rights, and needs neither a
# home nor a checkout that can be written: caches go to a temporary directory where there is no other place.
#
#   docker build -t fcmae .                                       # torch as PyPI has it, with CUDA
#   docker build -t fcmae-cpu --build-arg TORCH_INDEX=URL .       # URL: the index of PyTorch's wheels for CPUs
#   docker run --rm --gpus all --shm-size 2g --user "$(id -u):$(id -g)" -v "$PWD:/work" fcmae \
#       pretrain small --data.train photos/ --run.dir runs/mine
#
# Without --shm-size, data workers have 64 MB for their batches; a run that needs more says so in a line.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG EXTRAS="http,s3,tiff,heif,dicom,parquet,export,trackers"
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/fcmae-*.whl)[$EXTRAS]" \
    && rm -r /wheels \
    && useradd --create-home fcmae
USER fcmae
WORKDIR /work
ENTRYPOINT ["fcmae"]
CMD ["--help"]
