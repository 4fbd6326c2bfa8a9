# The control plane: one static program, no shell, not root.
#   docker build -f deploy/images/server.Dockerfile -t ghcr.io/troupe/troupe:0.1.0 --build-arg VERSION=0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
ARG TARGETOS TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/troupe ./cmd/troupe

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/troupe /usr/local/bin/troupe
USER 65532:65532
EXPOSE 8080 8090 9090
ENTRYPOINT ["/usr/local/bin/troupe"]
CMD ["serve"]
