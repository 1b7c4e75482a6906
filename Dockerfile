# hmcnotifyd as a container image: the static program and the certificates of
# the public authorities, nothing else.
#
#   docker build -t hmcnotifyd .
#   docker run -p 10291:10291 -v ./config:/etc/hmcnotifyd:ro -v hmcnotifyd:/data hmcnotifyd
#
# The first stage runs on the builder's own architecture and cross-compiles, so
# that an image for s390x is built anywhere without emulation:
#   docker build --platform linux/s390x .
ARG GO_IMAGE=docker.io/library/golang:1.26

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
# The modules change more rarely than the code: a layer of their own.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION REVISION
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X main.version=${VERSION:-$(cat VERSION)} -X main.revision=$REVISION" \
      -o /out/hmcnotifyd ./cmd/hmcnotifyd
# For the last stage, which has no shell to make a directory: it is for the daemon alone.
RUN mkdir -p /out/volumes && mkdir -m 0700 /out/volumes/data

FROM scratch
ARG VERSION REVISION
LABEL org.opencontainers.image.title="hmcnotifyd" \
      org.opencontainers.image.description="Notifications of IBM Z Hardware Management Consoles to webhooks and logs" \
      org.opencontainers.image.source="https://github.com/hmcnotifyd/hmcnotifyd" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/hmcnotifyd /hmcnotifyd
# The queue of undelivered events; a new volume takes its owner from here.
COPY --from=build --chown=65532:65532 /out/volumes/ /
USER 65532:65532
VOLUME /data
EXPOSE 10291
ENTRYPOINT ["/hmcnotifyd"]
CMD ["--config.file=/etc/hmcnotifyd/hmcnotifyd.yaml", "--storage.path=/data"]
