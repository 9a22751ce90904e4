#!/bin/sh
# The image's entry point: runs make with the given arguments, after checking the mounted folders.
set -eu

stop() {
    echo "error: $1" >&2
    exit 2
}

if [ -d outputs ] && [ ! -w outputs ]; then
    stop "/app/outputs belongs to $(stat -c %u:%g outputs), but the container runs as $(id -u):$(id -g); create the \
folder before mounting it and add --user \"\$(id -u):\$(id -g)\""
fi

for target in "$@"; do
    case "$target $*" in
    *data.* | *infer.images*) ;; # the images are elsewhere
    train\ * | infer\ *)
        [ -n "$(ls -A data 2>/dev/null)" ] ||
            stop "/app/data is empty; mount your images with -v \"\$PWD/data:/app/data\", or draw some with \
\`data SOURCE=synthetic\` in place of \`$target\`"
        ;;
    esac
    case $target in
    train | infer | demo)
        [ -d outputs ] || echo "note: /app/outputs is not mounted; the results stay in this container" >&2
        ;;
    esac
done

exec make "$@"
