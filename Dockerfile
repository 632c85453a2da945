# The project with the versions of the lock, on processors without a GPU.
#   docker build --tag optrepro .
#   docker run --rm --volume "$PWD/out:/out" optrepro        # the smoke scale; its figures and site land in out/
# torch's own wheels bring the CUDA libraries, several gigabytes that are not needed here: with
# --build-arg TORCH_INDEX=... pip also looks in an index of torch's wheels for processors alone.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 OMP_NUM_THREADS=1

WORKDIR /optrepro
COPY . .
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install --constraint constraints.txt --editable '.[workflow]'

# A command in place of this one can be any of the project's, as `snakemake gap-sgdm --cores all`.
CMD ["sh", "-c", "snakemake --cores all --configfile config/smoke.yaml && cp -r figures/smoke results/smoke /out/"]
