#!/bin/sh
# One make target in the image, with this folder's config.yaml, data, weights and outputs: what `make docker-train` and
# its kin call.
#
#     DOCKER=podman DOCKER_ARGS="-v /photos:/app/photos:ro" docker/run.sh infer ARGS="infer.images=photos"
#
# DOCKER: docker (default) or podman. IMAGE: the image's name. DOCKER_ARGS: more arguments of `docker run`.
set -eu
cd "$(dirname "$0")/.."
: "${DOCKER:=docker}" "${IMAGE:=dense-matting}" "${DOCKER_ARGS:=}"
target=$1

stop() {
    echo "error: $1" >&2
    exit 2
}

info=$("$DOCKER" info 2>&1) || stop "\`$DOCKER info\` fails: $(echo "$info" | tail -n 1)"
has() {
    echo "$info" | grep -qE "$1"
}

# The arguments of `docker run` are put before those of make, one after the other.
set -- "$IMAGE" "$@"
mkdir -p data weights outputs # else Docker would, as root
for folder in data weights outputs; do
    set -- -v "$PWD/$folder:/app/$folder" "$@"
done

# The image has a config.yaml of its own, which its tests are about.
if [ -f config.yaml ] && [ "$target" != test ]; then set -- -v "$PWD/config.yaml:/app/config.yaml:ro" "$@"; fi

# Where the Kaggle client looks for credentials, in /tmp, the container's home. It renews tokens there: not read-only.
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

# What is written belongs to the caller. Without privileges of its own, Docker's root is the caller already, and Podman
# has to be told to keep the number.
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
# DataLoader workers hand their batches over in shared memory, of which Docker gives 64 MB.
# shellcheck disable=SC2086
exec "$DOCKER" run --rm --shm-size 8g $gpus $DOCKER_ARGS "$@"
