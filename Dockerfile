# docker build -t levit .
# docker run --rm -v "$PWD:/work" levit predict -m demo photos/
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN python -m venv /opt/levit && /opt/levit/bin/pip install --no-cache-dir .

FROM python:3.13-slim
RUN useradd --create-home levit
COPY --from=build /opt/levit /opt/levit
ENV PATH=/opt/levit/bin:$PATH
USER levit
WORKDIR /work
ENTRYPOINT ["levit"]
CMD ["--help"]
