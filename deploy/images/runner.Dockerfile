# What runs in an agent's pod: the runner, and the tools that its shell offers to the model. The root file system is read-only there;
# /workspace, /agent/home and /tmp are volumes.
#   docker build -f deploy/images/runner.Dockerfile -t ghcr.io/troupe/troupe-runner:0.1.0 --build-arg VERSION=0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETOS TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/troupe-runner ./cmd/runner

FROM debian:12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash ca-certificates coreutils curl diffutils file findutils git grep gzip jq less make \
      nodejs npm openssh-client patch procps python3 python3-pip python3-venv ripgrep sed tar tini tree unzip xz-utils zip \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 1000 agent \
 && useradd --uid 1000 --gid 1000 --home-dir /agent/home --no-create-home --shell /bin/bash agent \
 && mkdir -p /workspace /agent/home /agent/run \
 && chown -R 1000:1000 /workspace /agent \
 && git config --system --add safe.directory "*"
COPY --from=build /out/troupe-runner /usr/local/bin/troupe-runner
# The volume's folders belong to root's group; what is installed goes to HOME, as the root file system is read-only.
ENV LANG=C.UTF-8 PATH=/agent/home/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_USER=1 PIP_BREAK_SYSTEM_PACKAGES=1 NPM_CONFIG_PREFIX=/agent/home/.local
USER 1000:1000
WORKDIR /workspace
# tini reaps what background jobs of the shell leave behind.
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/troupe-runner"]
