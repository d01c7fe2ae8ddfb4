# Backburn as an image: an application that owns its environment. Runs as a user without rights, backburn (10001).
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 backburn
WORKDIR /opt/backburn
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY actuators actuators
COPY safety safety
COPY envs envs
COPY agent agent
COPY configs configs
RUN pip install --no-cache-dir --constraint constraints.txt torch \
 && pip install --no-cache-dir --constraint constraints.txt --editable '.[staging]'

# State and runs outlive the container: mount a volume on /var/lib/backburn.
RUN mkdir -p /var/lib/backburn && chown backburn /var/lib/backburn
USER backburn
WORKDIR /var/lib/backburn
VOLUME /var/lib/backburn
ENTRYPOINT ["python", "-m", "agent"]
CMD ["run"]
