#!/bin/sh
# Runs one make target in the image, with this folder's config.yaml, data, weights and outputs. `make docker-train` and
# the other docker targets call it.
#
#     DOCKER=podman DOCKER_ARGS="-v /photos:/app/photos:ro" docker/run.sh infer ARGS="infer.images=photos"
#
# DOCKER: docker (default) or podman. IMAGE: the image's name. DOCKER_ARGS: more arguments for `docker run`.
set -eu
cd "$(dirname "$0")/.."
: "${DOCKER:=docker}" "${IMAGE:=dense-matting}" "${DOCKER_ARGS:=}"
target=$1

stop() {
    echo "error: $1" >&2
    exit 2
}

info=$("$DOCKER" info 2>&1) || stop "\`$DOCKER info\` failed: $(echo "$info" | tail -n 1)"
has() {
    echo "$info" | grep -qE "$1"
}

# From here on, each `set --` puts arguments of `docker run` before those of make.
set -- "$IMAGE" "$@"
mkdir -p data weights outputs # otherwise Docker would, as root
for folder in data weights outputs; do
    set -- -v "$PWD/$folder:/app/$folder" "$@"
done

# The tests need the image's own config.yaml.
if [ -f config.yaml ] && [ "$target" != test ]; then set -- -v "$PWD/config.yaml:/app/config.yaml:ro" "$@"; fi

# The Kaggle client's credentials go to /tmp, the container's home. The client renews tokens there, so not read-only.
case $target in
data | submit) # these talk to Kaggle
    set -- -e KAGGLE_USERNAME -e KAGGLE_KEY "$@"
    if [ -f "${KAGGLE_API_TOKEN:-}" ]; then # a file that holds the token
        token=$(cd "$(dirname "$KAGGLE_API_TOKEN")" && pwd)/$(basename "$KAGGLE_API_TOKEN")
        set -- -v "$token:/tmp/kaggle-token:ro" -e KAGGLE_API_TOKEN=/tmp/kaggle-token "$@"
    else
        set -- -e KAGGLE_API_TOKEN "$@"
    fi
    if [ -d "${KAGGLE_CONFIG_DIR:-}" ]; then
        set -- -v "$(cd "$KAGGLE_CONFIG_DIR" && pwd):/tmp/kaggle" -e KAGGLE_CONFIG_DIR=/tmp/kaggle "$@"
    fi
    if [ -d "$HOME/.kaggle" ]; then set -- -v "$HOME/.kaggle:/tmp/.kaggle" "$@"; fi
    config=${XDG_CONFIG_HOME:-$HOME/.config}/kaggle
    if [ -d "$config" ]; then set -- -v "$config:/tmp/.config/kaggle" "$@"; fi
    ;;
esac

# Files must belong to the caller. Root in rootless Docker is the caller already; rootless Podman needs keep-id.
user=$(id -u):$(id -g)
case $(basename "$DOCKER") in
podman*)
    if [ "$(id -u)" != 0 ]; then set -- --userns keep-id "$@"; fi
    set -- --user "$user" --security-opt label=disable "$@"
    gpus="--device nvidia.com/gpu=all"
    missing="no CDI specification of NVIDIA in /etc/cdi or /var/run/cdi (nvidia-ctk cdi generate writes it)"
    # shellcheck disable=SC2010
    ls /etc/cdi /var/run/cdi 2>/dev/null | grep -q nvidia || gpus=
    ;;
*)
    if has '^ *rootless$'; then user=0:0; fi
    set -- --user "$user" "$@"
    gpus="--gpus all"
    missing="\`$DOCKER info\` names no NVIDIA runtime (the NVIDIA Container Toolkit brings it)"
    has '^ *(Runtimes|cdi):.*nvidia' || gpus=
    ;;
esac
echo "gpu     ${gpus:-none: $missing}"

if [ -t 0 ] && [ -t 1 ]; then set -- --interactive --tty "$@"; fi
# DataLoader workers pass batches through shared memory; Docker's default of 64 MB is too small.
# shellcheck disable=SC2086
exec "$DOCKER" run --rm --shm-size 8g $gpus $DOCKER_ARGS "$@"
