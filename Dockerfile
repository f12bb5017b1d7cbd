# opt-run on the CPU. Records stay in the volume:
#   docker build --tag opt-runner .
#   docker run --rm --volume opt-outputs:/home/opt/outputs opt-runner method=cayley tracking=none
FROM python:3.12-slim

RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision

COPY pyproject.toml README.md LICENSE /opt-runner/
COPY src /opt-runner/src
COPY conf /opt-runner/conf
RUN pip install --no-cache-dir /opt-runner

RUN useradd --create-home opt
USER opt
WORKDIR /home/opt
# A new volume takes the owner of this folder.
RUN mkdir outputs

ENTRYPOINT ["opt-run"]
