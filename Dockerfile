# One image for the server, the agent and the virtual phone. Build with: docker compose build
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/fulcrum
COPY constraints.txt pyproject.toml README.md ./
COPY device_agent device_agent
COPY migrations migrations
COPY search search
COPY server server
COPY trainer trainer
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
RUN pip install --no-cache-dir -c constraints.txt torch \
 && pip install --no-cache-dir -c constraints.txt '.[all]' \
 && fulcrum runner build --dir /opt/fulcrum/runner

RUN useradd --create-home --uid 1000 fulcrum && mkdir /data && chown fulcrum /data
USER fulcrum
ENV FULCRUM_HOME=/data
VOLUME /data
ENTRYPOINT ["fulcrum"]
